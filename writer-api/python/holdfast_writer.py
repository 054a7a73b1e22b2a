"""Turns a Python class into a Holdfast writer. One file, standard library only, Python 3.9 or newer.

    from holdfast_writer import Component, FileSet, Mark, Metadata, Writer, serve

    class Shop(Writer):
        type = "shop"

        def __init__(self, id, settings):
            super().__init__(id, settings)
            self.folder = settings.path("folder")

        def identify(self):
            files = [FileSet(self.folder, "*", recursive=True)]
            return Metadata(name="The shop", components=[Component("data", files, held=True)])

        def freeze(self, deadline):
            ...                         # hold the writes, by something that ends when this process ends
            return Mark("order 4711")

        def thaw(self):
            ...                         # from any state, any number of times, also while `freeze` still runs
            return True                 # whether anything was held

    serve(Shop)

The requester starts the program with a socket as standard input. Everything about the socket is done here: the
protocol (io.holdfast.Writer, at the end of this file), errors, and the three things that end a hold whatever your
code is doing: its deadline, the end of the requester, and the end of this process. In the first two cases `thaw` is
called, in a thread of its own, and soon after the process ends with exit code 70 or 71. So: let the hold live in
something that the kernel or the server releases with this process, such as a lock or a database session.

Print as you like: all output goes to standard error, and from there into the requester's event log.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import queue
import re
import signal
import socket
import stat
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from typing import Any, Callable, Iterable, NoReturn, Optional

PROTOCOL = "1.0"
MAX_MESSAGE_BYTES = 16 << 20
EXIT_DEADLINE, EXIT_ORPHANED = 70, 71
# How long `thaw` gets once the hold's time is over or the requester is gone. Then the process ends.
GRACE = 0.05
# How long after the hold's time the kernel ends a process in which no thread gets a turn.
LAST_RESORT = 0.5


# --- documents: what goes over the wire, field by field; the interface at the end of this file says what each means


@dataclass(frozen=True)
class ComponentRef:
    name: str
    path: str = ""

    def __str__(self) -> str:
        return f"{self.path}/{self.name}" if self.path else self.name


@dataclass
class FileSet:
    """Everything in the folder `path` that `pattern` matches; a plain name must exist unless `optional`."""

    path: str
    pattern: str
    recursive: bool = False
    optional: bool = False
    role: str = "data"  # database, log, data


@dataclass
class KeyFile:
    path: str
    purpose: str
    certificate: Optional[str] = None


@dataclass
class Component:
    """What is backed up and restored as a whole. `held`: the freeze holds exactly these files still."""

    name: str
    files: list[FileSet] = field(default_factory=list)
    kind: str = "file_group"  # database, file_group, keys
    path: str = ""
    caption: str = ""
    selectable: bool = True
    selectable_for_restore: bool = False
    held: bool = False
    exclude: list[str] = field(default_factory=list)
    keys: list[KeyFile] = field(default_factory=list)
    dependencies: list[dict] = field(default_factory=list)

    def reference(self) -> ComponentRef:
        return ComponentRef(self.name, self.path)


@dataclass
class Metadata:
    """What `identify` answers. Capabilities are those whose methods the class has, unless they are named here."""

    name: str
    components: list[Component]
    usage: str = "system_service"
    source: str = "other"
    restore_method: str = "stop_restore_start"
    restore_rank: str = "applications"
    service: Optional[str] = None
    freeze_level: str = "back_end"
    freeze_budget_ms: Optional[int] = None
    busy_timeout_ms: Optional[int] = None
    backup_types: dict[str, bool] = field(default_factory=dict)
    capabilities: Optional[set[str]] = None  # of freeze, stream, logs, keys, recover, post_restore
    warnings: list[str] = field(default_factory=list)


@dataclass
class Mark:
    """Where the application's log is at the cut. `proof`: how it was seen that the hold holds."""

    position: str
    details: dict[str, str] = field(default_factory=dict)
    proof: str = ""


@dataclass
class Prepared:
    backup_type: str = "full"
    warnings: list[str] = field(default_factory=list)


@dataclass
class PostSnapshot:
    stamps: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass
class SealedKey:
    """A key as an age file. `algorithm`: it was proved to fit; else `why` says why that was not possible."""

    component: ComponentRef
    path: str
    purpose: str
    fingerprint: str
    mode: int
    uid: int
    gid: int
    sealed: bytes
    algorithm: Optional[str] = None
    why: Optional[str] = None


@dataclass
class StreamFile:
    name: str
    component: ComponentRef
    path: str
    size_hint: int


@dataclass
class LogFile:
    name: str
    generation: int
    path: str


@dataclass
class Finding:
    check: str
    result: str = "ok"
    warning: bool = False


@dataclass
class Recovered:
    done: list[str] = field(default_factory=list)
    mark: Optional[Mark] = None


@dataclass
class HookStep:
    name: str
    description: str
    timeout_ms: int
    host: str = ""
    on_failure: str = "stop"  # stop, continue


@dataclass
class Places:
    """Where files lie now: of the shadow copy (`post_snapshot`), or of what a restore staged."""

    roots: list[tuple[str, str]] = field(default_factory=list)
    keys: list[tuple[str, str]] = field(default_factory=list)

    def locate(self, original: str) -> Optional[str]:
        """Where the file or folder that was at `original` lies now; the longest root counts."""
        return self._find(original, self.roots)

    def locate_key(self, original: str) -> Optional[str]:
        """The same for the plain form of a key, if the restore has it."""
        return self._find(original, self.keys)

    @staticmethod
    def _find(original: str, pairs: list[tuple[str, str]]) -> Optional[str]:
        fits = [(a, b) for a, b in pairs if original == a or original.startswith(a.rstrip("/") + "/")]
        if not fits:
            return None
        there, here = max(fits, key=lambda pair: len(pair[0]))
        rest = original[len(there.rstrip("/")) :].lstrip("/")
        return os.path.join(here, rest) if rest else here


@dataclass
class BackupRequest:
    set: str
    backup_type: str
    components: list[ComponentRef]
    previous_stamps: dict[str, str]


@dataclass
class BackupOutcome:
    set: str
    backup_type: str
    succeeded: list[ComponentRef]
    stored_logs: list[str]


@dataclass
class RestoreRequest:
    """`metadata` is what the set stored, as JSON; not what `identify` says today."""

    set: str
    metadata: dict
    components: list[ComponentRef]
    in_place: bool


class Deadline:
    """Until when a call has to be done, counted from when it arrived."""

    def __init__(self, budget_ms: int, received: Optional[float] = None):
        self.budget_ms = budget_ms
        self.at = (time.monotonic() if received is None else received) + budget_ms / 1000

    def left(self) -> float:
        """Seconds; 0 when it is over."""
        return max(0.0, self.at - time.monotonic())


# --- errors: raise them; the requester gets name, fields, and the chain of causes (`raise … from error`) ------


class WriterError(Exception):
    """Why a writer could not do its part. Use one of its kinds; the text says what would have to change."""

    def parameters(self) -> dict:
        return {"cause": _cause(self)}


def _cause(error: BaseException, left: int = 16) -> dict:
    cause: dict = {"message": (str(error) or type(error).__name__)[:4000]}
    if error.__cause__ is not None and left:
        cause["source"] = _cause(error.__cause__, left - 1)
    return cause


class InconsistentSnapshot(WriterError):
    """The shadow copy does not contain all that belongs together."""


class OutOfResources(WriterError):
    """Memory, disk or descriptors ran out."""


class Busy(WriterError):
    """Up, but will not quiesce now. Trying again may help."""


class Rejected(WriterError):
    """Cannot be done as things are configured, or as the application is."""


class Denied(WriterError):
    """A privilege is missing: which, and on what."""


class RecoveryFailed(WriterError):
    """Recovery of a copy failed: this copy is unusable."""


class Key(WriterError):
    """A key is missing, does not fit, or could not be sealed. Never any part of it in the text."""


class ChainBroken(WriterError):
    """A log chain has a gap or belongs to another history."""


class NotResponding(WriterError):
    """The application, or the writer's own code, failed in a way that nobody foresaw. Nothing is held."""


class Skipped(WriterError):
    """It takes no part this time. Without it there is a set only where the user has allowed that by the writer's name."""


class StuckFrozen(WriterError):
    """Thaw could not be confirmed: the application may still be held."""


class TimedOut(WriterError):
    """Not done in time; what was begun has been given up. `action` is a verb: "freeze"."""

    def __init__(self, action: str, budget_ms: int):
        super().__init__(f"did not {action} within {budget_ms} ms")
        self.action, self.budget_ms = action, budget_ms

    def parameters(self) -> dict:
        return {"action": self.action, "budget_ms": self.budget_ms}


class InvalidSetting(WriterError):
    """A setting cannot be used."""

    def __init__(self, key: Optional[str], problem: str):
        super().__init__(problem)
        self.key, self.problem = key, problem

    def parameters(self) -> dict:
        return {"key": self.key, "problem": self.problem}


class WrongState(WriterError):
    """The application must be in another state for this: `is_` and `must` are such as "running", "down"."""

    def __init__(self, is_: str, must: str):
        super().__init__(f"the application is {is_}, and must be {must}")
        self.is_, self.must = is_, must

    def parameters(self) -> dict:
        return {"is": self.is_, "must": self.must}


class PartialFailure(WriterError):
    """Some components failed, by full name with the reason of each; the others are good."""

    def __init__(self, components: dict[str, BaseException]):
        super().__init__(f"{len(components)} components failed")
        self.components = components

    def parameters(self) -> dict:
        return {"components": {name: _cause(error) for name, error in self.components.items()}}


class Unsupported(WriterError):
    """An optional part of the contract that this writer does not have."""

    def parameters(self) -> dict:
        return {"what": str(self)}


_NO_ROOM = {errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE}


def _as_writer_error(error: Exception) -> WriterError:
    """What an author did not think of, as the closest error there is."""
    if isinstance(error, WriterError):
        return error
    traceback.print_exc()
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _NO_ROOM):
        kind: type[WriterError] = OutOfResources
    else:
        kind = Denied if isinstance(error, PermissionError) else NotResponding
    wrapped = kind(f"{type(error).__name__}: {error}")
    wrapped.__cause__ = error.__cause__
    return wrapped


# --- settings -------------------------------------------------------------------------------------------------

_REQUIRED: Any = object()
_TIME = re.compile(r"\s*([0-9]{1,15})\s*(ms|s|m|h)\s*")
_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}


class Settings:
    """The writer's table of the configuration. A key that nobody asked for is refused: it is a typing error."""

    def __init__(self, values: dict):
        self._values = dict(values)
        self._known: set[str] = set()

    def _get(self, key: str, default: Any, kind: type, expected: str) -> Any:
        self._known.add(key)
        value = self._values.get(key, default)
        if value is _REQUIRED:
            raise InvalidSetting(key, f"`{key}` is missing; expected {expected}")
        if value is not default and type(value) is not kind:
            raise InvalidSetting(key, f"`{key}` must be {expected}")
        return value

    def text(self, key: str, default: Any = _REQUIRED) -> Any:
        return self._get(key, default, str, "a text")

    def number(self, key: str, default: Any = _REQUIRED) -> Any:
        return self._get(key, default, int, "a number")

    def flag(self, key: str, default: Any = False) -> Any:
        return self._get(key, default, bool, "true or false")

    def texts(self, key: str, default: Any = _REQUIRED) -> Any:
        values = self._get(key, default, list, "a list of texts")
        if values is not default and not all(isinstance(value, str) for value in values):
            raise InvalidSetting(key, f"`{key}` must be a list of texts")
        return values

    def path(self, key: str, default: Any = _REQUIRED) -> Any:
        value = self._get(key, default, str, "an absolute path")
        return value if value is default else self._absolute(key, value)

    def paths(self, key: str, default: Any = _REQUIRED) -> Any:
        values = self.texts(key, default)
        return values if values is default else [self._absolute(key, value) for value in values]

    def duration_ms(self, key: str, default: Any = _REQUIRED) -> Any:
        """A time as people write it, `500ms`, `5s`, `2m`; in milliseconds."""
        text = self._get(key, default, str, "a time such as 500ms, 5s")
        if text is default:
            return default
        match = _TIME.fullmatch(text)
        if not match:
            raise InvalidSetting(key, f"`{text}` is not a time; expected a number and a unit, such as 500ms, 5s")
        return int(match[1]) * _MS[match[2]]

    @staticmethod
    def _absolute(key: str, value: str) -> str:
        if not value.startswith("/") or "\0" in value or os.path.normpath(value) != value or value[:2] == "//":
            raise InvalidSetting(key, f"`{value}` must be an absolute path without `.`, `..` and a slash at its end")
        return value

    def nothing_else(self) -> None:
        for key in sorted(set(self._values) - self._known):
            expected = "`, `".join(sorted(self._known))
            raise InvalidSetting(key, f"there is no setting `{key}`; expected one of `{expected}`")


def read_secret(path: str) -> str:
    """The first line of a file that only root or this user can have written, and others cannot read."""
    whole = os.path.realpath(path)
    part = whole
    while True:
        found = os.stat(part)
        if found.st_uid not in (0, os.geteuid()):
            raise Denied(f"{part} belongs to user {found.st_uid}; it must belong to root or to the running user")
        sticky_folder = part != whole and found.st_mode & stat.S_ISVTX
        if found.st_mode & 0o022 and not sticky_folder:
            raise Denied(f"{part} can be written by others; run `chmod go-w` on it")
        if part == whole and found.st_mode & 0o007:
            raise Denied(f"{part} can be read by everybody; run `chmod o-rwx` on it")
        if part == "/":
            break
        part = os.path.dirname(part)
    with open(whole, encoding="utf-8") as file:
        return file.readline(4096).rstrip("\r\n")


# --- the contract ---------------------------------------------------------------------------------------------


class Writer:
    """Speaks for one application. Override what your application needs; what you leave out is answered sensibly.

    One object serves one run in a process of its own: its state is that of the run. Every method may raise a
    `WriterError`; anything else that it raises becomes one.
    """

    type = ""  # as the configuration's `type`
    version = "0"
    backup: Optional[BackupRequest] = None
    restore: Optional[RestoreRequest] = None

    def __init__(self, id: str, settings: Settings):
        """Reads every setting it knows; touches nothing. Raise `InvalidSetting`."""
        self.id = id

    def identify(self) -> Metadata:
        """Describes the application's data. Pure and repeatable: takes nothing, changes nothing."""
        raise NotImplementedError("a writer must have `identify`")

    # --- backup

    def begin_backup(self, request: BackupRequest) -> None:
        """Holds nothing yet. The request is also `self.backup`."""

    def prepare_backup(self, deadline: Deadline) -> Optional[Prepared]:
        """The long work: connects, checks privileges, chooses the kind. Every missing privilege is found here."""
        return None

    def prepare_snapshot(self, deadline: Deadline) -> None:
        """Makes the freeze short: flushes and opens what can be beforehand."""

    def freeze(self, deadline: Deadline) -> Mark:
        """Holds the application's writes until `thaw`. Whatever it took is given back by `thaw` if it raises."""
        return Mark("")

    def thaw(self) -> bool:
        """Releases the hold within 100 ms; whether anything was held.

        From any state, any number of times, and from another thread while another method still runs: do not wait
        for that one. Raise `StuckFrozen` if the release cannot be confirmed, `InconsistentSnapshot` if the hold was
        not what it should have been.
        """
        return False

    def post_snapshot(self, shadow: Places) -> Optional[PostSnapshot]:
        """Looks at the shadow copy. This process may not be allowed to: then say so in a warning."""
        return None

    def backup_complete(self, outcome: BackupOutcome) -> list[str]:
        """The set is safe. Truncates exactly `outcome.stored_logs`; answers which were."""
        return []

    def abort(self) -> None:
        """Gives the backup up. `thaw` is called after it in any case."""

    def seal_keys(self, recipients: list[str]) -> list[SealedKey]:
        raise Unsupported("keys")

    def list_streams(self) -> list[StreamFile]:
        raise Unsupported("streams")

    def open_stream(self, name: str) -> Any:
        """A readable descriptor: an int, or an object with `fileno()`. It is closed here once it was passed."""
        raise Unsupported(f"the stream `{name}`")

    def close_stream(self, name: str, bytes: int) -> None:
        """The reader got `bytes` bytes. An error voids them."""
        raise Unsupported(f"the stream `{name}`")

    def list_logs(self) -> list[LogFile]:
        raise Unsupported("logs")

    # --- restore

    def begin_restore(self, request: RestoreRequest) -> None:
        """The request is also `self.restore`."""

    def online_state(self) -> str:
        """Whether the application runs: `down`, `paused`, `ready`, or `unknown`."""
        return "unknown"

    def check(self, staged: Places) -> list[Finding]:
        """Checks what was staged and changes nothing. What forbids going on is an error, not a finding."""
        return []

    def register(self, map: list[tuple[str, str]], marker: str) -> None:
        """Registers the restore with the application, where it has a way of its own."""

    def register_complete(self) -> None:
        """All that was registered is in place."""

    def recover(self, staged: Places, context: dict) -> Recovered:
        """Brings the staged files to consistency. May run again after a crash."""
        raise Unsupported("recovery")

    def verify(self, staged: Places) -> list[Finding]:
        """Verifies the recovered files before they are put in place."""
        return []

    def post_restore_steps(self) -> list[HookStep]:
        return []

    def run_step(self, name: str) -> bool:
        """Does one of them; `False` if it had been done before."""
        raise Unsupported(f"the step `{name}`")

    def unregister(self) -> None:
        """The restore is over: removes what `register` made."""


def capabilities(writer: type[Writer]) -> set[str]:
    """The optional parts of the contract that a class has the methods of."""
    parts = {
        "freeze": "freeze",
        "stream": "open_stream",
        "logs": "list_logs",
        "keys": "seal_keys",
        "recover": "recover",
        "post_restore": "post_restore_steps",
    }
    return {part for part, name in parts.items() if getattr(writer, name) is not getattr(Writer, name)}


# --- the wire: frames, and documents checked against the interface --------------------------------------------


class _Nonsense(Exception):
    """What comes after it cannot be told from it: the conversation is over."""


def _read_calls(sock: socket.socket) -> Iterable[dict]:
    """The calls that arrive, until the other side closes. Raises `_Nonsense`."""
    buffer, searched = bytearray(), 0
    while True:
        end = buffer.find(b"\0", searched)
        if (len(buffer) if end < 0 else end) > MAX_MESSAGE_BYTES:
            raise _Nonsense(f"a message of more than {MAX_MESSAGE_BYTES} bytes")
        if end < 0:
            searched = len(buffer)
            chunk = sock.recv(65536)
            if chunk:
                buffer += chunk
                continue
            if buffer:
                raise _Nonsense("the connection ended in the middle of a message")
            return
        message = bytes(buffer[:end])
        del buffer[: end + 1]
        searched = 0
        yield _parse_call(message)


def _parse_call(message: bytes) -> dict:
    def no_number(text: str) -> NoReturn:
        raise ValueError(f"{text} is no number of JSON")

    try:
        call = json.loads(message.decode("utf-8"), parse_constant=no_number)
    except (ValueError, RecursionError) as error:
        raise _Nonsense(f"a message that is no JSON: {error}") from None
    if not isinstance(call, dict) or not isinstance(call.get("method"), str):
        raise _Nonsense("a message that is no call")
    if call.get("oneway") or call.get("upgrade"):
        raise _Nonsense("a call of a kind that is not spoken here")
    parameters = call.get("parameters")
    return {"method": call["method"], "parameters": {} if parameters is None else parameters}


def _encode(answer: dict, errors: str = "strict") -> bytes:
    """A message with its end. Raises `Rejected` if it cannot be one."""
    try:
        message = json.dumps(answer, ensure_ascii=False, allow_nan=False).encode("utf-8", errors)
    except (ValueError, TypeError, RecursionError) as error:
        raise Rejected(f"its answer cannot be sent: {error}") from None
    if len(message) >= MAX_MESSAGE_BYTES:
        raise Rejected(f"its answer has more than {MAX_MESSAGE_BYTES} bytes")
    return message + b"\0"


def _wire(value: Any) -> Any:
    """A document as JSON has it; what is `None` is left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _wire({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    if isinstance(value, dict):
        return {key: _wire(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, (list, tuple)):
        return [_wire(inner) for inner in value]
    if isinstance(value, bytes):
        return value.hex()
    return os.fspath(value) if isinstance(value, os.PathLike) else value


class Interface:
    """A Varlink interface, as far as it takes to check documents against it."""

    def __init__(self, text: str):
        self.methods: dict[str, tuple] = {}
        self.types: dict[str, Any] = {}
        self.errors: dict[str, Any] = {}
        self.text, self.name = text, text.split()[1]
        self._tokens = re.findall(r"->|\[string\]|\[\]|[\w.]+|[?():,]", re.sub(r"#.*", "", text))
        while self._tokens:
            kind, name = self._next(), self._next()
            if kind == "method":
                self.methods[name] = (self._type(), self._next("->") and self._type())
            elif kind in ("type", "error"):
                (self.types if kind == "type" else self.errors)[name] = self._type()
            elif kind != "interface":
                raise ValueError(f"`{kind}` is no declaration of an interface")

    def _next(self, expected: Optional[str] = None) -> str:
        token = self._tokens.pop(0)
        if expected not in (None, token):
            raise ValueError(f"expected `{expected}`, found `{token}`")
        return token

    def _type(self) -> Any:
        token = self._next()
        if token in ("?", "[]", "[string]"):
            return (token, self._type())
        if token != "(":
            return token
        fields: dict[str, Any] = {}  # an enum's values have no type
        while self._tokens[0] != ")":
            name = self._next()
            fields[name] = self._next() and self._type() if self._tokens[0] == ":" else None
            if self._tokens[0] == ",":
                self._next()
        self._next(")")
        return fields

    def problem(self, value: Any, wanted: Any, at: str) -> Optional[str]:
        """The place at which `value` is not what is `wanted`; `None` if it is."""
        if isinstance(wanted, tuple):
            kind, inner = wanted
            if kind == "?":
                return None if value is None else self.problem(value, inner, at)
            if not isinstance(value, list if kind == "[]" else dict):
                return at
            pairs = enumerate(value) if isinstance(value, list) else value.items()
            return next(filter(None, (self.problem(v, inner, f"{at}[{k}]") for k, v in pairs)), None)
        if isinstance(wanted, dict):
            if None in wanted.values():
                return None if isinstance(value, str) and value in wanted else at
            if not isinstance(value, dict):
                return at or "parameters"
            inner = (self.problem(value.get(k), w, f"{at}.{k}".lstrip(".")) for k, w in wanted.items())
            return next(filter(None, inner), None)
        simple: dict[str, Any] = {"string": str, "int": int, "bool": bool, "float": (int, float), "object": dict}
        if wanted in simple:
            fits = isinstance(value, simple[wanted]) and (wanted == "bool" or not isinstance(value, bool))
            return None if fits else at
        return self.problem(value, self.types[wanted], at)


# --- the process ----------------------------------------------------------------------------------------------


def serve(writer: type[Writer]) -> NoReturn:
    """A whole program: serves one requester on standard input, and ends with it."""
    try:
        sock = socket.socket(fileno=os.dup(0))
        sock.getpeername()
    except OSError:
        sys.exit("standard input is not a socket of a requester: this program is started by holdfast")
    # What the writer starts must not inherit the socket and keep it open, nor print to where others look.
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    _Session(writer, sock).run()


class _Session:
    """One conversation. Three threads: this one runs the writer's code, one reads, one keeps the deadline."""

    def __init__(self, writer_class: type[Writer], sock: socket.socket):
        self.writer_class, self.sock = writer_class, sock
        self.writer: Any = None  # a `Writer`, from Hello on
        self.state = "nothing"  # nothing, writer, backup, restore
        self.descriptors = False
        self.calls: queue.SimpleQueue = queue.SimpleQueue()
        self.busy = False
        self.ending = threading.Lock()
        self.deadline: Optional[float] = None
        self.deadline_moved = threading.Condition()

    def run(self) -> NoReturn:
        for thread in (self._read, self._watch):
            threading.Thread(target=thread, daemon=True).start()
        while True:
            received, call = self.calls.get()
            message, descriptor = self._answer(call, received)
            self.busy = False
            try:
                if descriptor is not None:
                    sent = socket.send_fds(self.sock, [message], [descriptor])
                    os.close(descriptor)
                    message = message[sent:]
                self.sock.sendall(message)
            except OSError:
                self._end(EXIT_ORPHANED)

    # --- what nothing in the writer's code can block

    def _read(self) -> None:
        """Sees the end of the requester whatever the writer's code does, and whoever speaks out of turn."""
        try:
            for call in _read_calls(self.sock):
                if self.busy:
                    raise _Nonsense("a call before the answer to the last one")
                self.busy = True
                self.calls.put((time.monotonic(), call))
            self._end(EXIT_ORPHANED if self.busy else 0)
        except OSError:
            self._end(EXIT_ORPHANED)
        except _Nonsense as error:
            self._end(1, f"the conversation broke off: {error}")

    def _watch(self) -> None:
        """Ends the hold at its deadline."""
        with self.deadline_moved:
            while self.deadline is None or self.deadline > time.monotonic():
                wait = None if self.deadline is None else max(0.0, self.deadline - time.monotonic())
                self.deadline_moved.wait(wait)
        self._end(EXIT_DEADLINE, "the hold was not released in time; it ends now")

    def _arm(self, deadline: Optional[float]) -> None:
        with self.deadline_moved:
            self.deadline = deadline
            self.deadline_moved.notify()
        # The kernel's own clock, should this thread and that one be stuck in code that lets no other run.
        left = 0.0 if deadline is None else max(0.001, deadline - time.monotonic() + LAST_RESORT)
        signal.setitimer(signal.ITIMER_REAL, left)

    def _end(self, code: int, why: Optional[str] = None) -> NoReturn:
        """Lets the writer thaw, for a moment, and ends the process. The first caller decides how."""
        self.ending.acquire()  # never given back
        thawing = threading.Thread(target=self._thaw_and_tell, args=(why,), daemon=True)
        thawing.start()
        thawing.join(GRACE)
        os._exit(EXIT_ORPHANED if code == 0 and thawing.is_alive() else code)

    def _thaw_and_tell(self, why: Optional[str]) -> None:
        try:
            if self.state == "backup" and self.writer:
                self.writer.thaw()
        except Exception:
            traceback.print_exc()
        if why:
            print(why, file=sys.stderr, flush=True)

    # --- calls and answers

    def _answer(self, call: dict, received: float) -> tuple[bytes, Optional[int]]:
        descriptor: Optional[int] = None
        name, parameters = call["method"].rpartition(".")[2], call["parameters"]
        try:
            if call["method"].startswith(f"{SERVICE.name}."):
                return _encode({"parameters": self._about(name, parameters)}), None
            gives = self._understand(call["method"], name, parameters)
            deadline = Deadline(parameters.get("budget_ms", 0), received)
            method = _CALLS[self.state][name]
            if method:
                reply = method(self.writer, parameters, deadline)
            else:
                own: Any = getattr(self, f"_{name}")
                reply = own(parameters, deadline)
            if name == "OpenStream":
                descriptor, reply = reply, {"descriptor": 0}
            reply = _wire(reply or {})
            wrong = WRITER.problem(reply, gives, "")
            if wrong:
                raise Rejected(f"its answer to {name} is not as the interface has it: `{wrong}`")
            return _encode({"parameters": reply}), descriptor
        except _Refused as refused:
            return _encode(refused.answer, "replace"), None
        except Exception as error:
            known = _as_writer_error(error)
            if self.state == "backup" and (name == "Freeze" or known is not error):
                # It failed, or nobody foresaw it: nothing may stay held even if nobody calls thaw.
                try:
                    self._thaw()
                except WriterError as stuck:
                    known = stuck
            return _encode(_failure(known), "replace"), None

    def _understand(self, whole: str, name: str, parameters: Any) -> Any:
        """What the method gives; raises the answer that refuses the call."""
        interface = whole.rpartition(".")[0]
        if interface != WRITER.name:
            raise _Refused(SERVICE, "InterfaceNotFound", interface=interface)
        if name not in WRITER.methods:
            raise _Refused(SERVICE, "MethodNotFound", method=whole)
        takes, gives = WRITER.methods[name]
        wrong = WRITER.problem(parameters, takes, "")
        if not wrong and parameters.get("budget_ms", 0) < 0:
            wrong = "budget_ms"
        if wrong:
            raise _Refused(SERVICE, "InvalidParameter", parameter=wrong)
        if name not in _CALLS[self.state]:
            raise _Refused(WRITER, "OutOfOrder", method=whole, state=self.state)
        return gives

    def _about(self, name: str, parameters: Any) -> dict:
        if name == "GetInfo":
            return {
                "vendor": "",
                "product": _program(),
                "version": self.writer_class.version,
                "url": "",
                "interfaces": [SERVICE.name, WRITER.name],
            }
        if name == "GetInterfaceDescription":
            wanted = parameters.get("interface") if isinstance(parameters, dict) else None
            if not isinstance(wanted, str):
                raise _Refused(SERVICE, "InvalidParameter", parameter="interface")
            for known in (SERVICE, WRITER):
                if wanted == known.name:
                    return {"description": known.text}
            raise _Refused(SERVICE, "InterfaceNotFound", interface=wanted)
        raise _Refused(SERVICE, "MethodNotFound", method=f"{SERVICE.name}.{name}")

    def _Hello(self, p: dict, deadline: Deadline) -> dict:
        if not re.fullmatch(r"[0-9]{1,9}\.[0-9]{1,9}", p["protocol"]):
            raise _Refused(SERVICE, "InvalidParameter", parameter="protocol")
        if p["protocol"].split(".")[0] != PROTOCOL.split(".")[0]:
            raise _Refused(WRITER, "VersionMismatch", speaks=PROTOCOL)
        if p["writer_type"] != self.writer_class.type:
            raise Rejected(f"this program serves `{self.writer_class.type}`, not `{p['writer_type']}`")
        settings = Settings(p["settings"])
        writer = self.writer_class(p["id"], settings)
        settings.nothing_else()
        self.writer, self.state = writer, "writer"
        self.descriptors = "descriptors" in (p.get("features") or [])
        return {
            "protocol": PROTOCOL,
            "program": _program(),
            "version": self.writer_class.version,
            "features": ["descriptors"],
        }

    def _BeginBackup(self, p: dict, deadline: Deadline) -> None:
        request = BackupRequest(p["set"], p["backup_type"], _refs(p["components"]), p.get("previous_stamps") or {})
        self.writer.backup = request
        self.writer.begin_backup(request)
        self.state = "backup"

    def _BeginRestore(self, p: dict, deadline: Deadline) -> None:
        request = RestoreRequest(p["set"], p["metadata"], _refs(p["components"]), p["in_place"])
        self.writer.restore = request
        self.writer.begin_restore(request)
        self.state = "restore"

    def _Freeze(self, p: dict, deadline: Deadline) -> dict:
        self._arm(deadline.at)  # before the hold exists
        return {"mark": self.writer.freeze(deadline)}

    def _Thaw(self, p: dict, deadline: Deadline) -> dict:
        return {"thawed": "released" if self._thaw() else "was_not_held"}

    def _Abort(self, p: dict, deadline: Deadline) -> None:
        try:
            self.writer.abort()
        finally:
            self._thaw()

    def _thaw(self) -> bool:
        try:
            held = self.writer.thaw()
            if not isinstance(held, bool):
                raise TypeError("`thaw` must answer whether anything was held")
        except WriterError:
            raise
        except Exception as error:
            raise StuckFrozen(f"its thaw failed: {_as_writer_error(error)}") from error
        self._arm(None)
        return held

    def _OpenStream(self, p: dict, deadline: Deadline) -> int:
        if not self.descriptors:
            raise Unsupported("streams to a requester that takes no descriptors")
        stream = self.writer.open_stream(p["name"])
        if isinstance(stream, int):
            return stream
        with stream:
            return os.dup(stream.fileno())


def _identify(writer: Writer) -> dict:
    said = writer.identify()
    document, kind = _wire(said), type(writer)
    restore = {
        "method": document.pop("restore_method"),
        "rank": document.pop("restore_rank"),
        "service": document.pop("service", None),
    }
    has = capabilities(kind) if said.capabilities is None else said.capabilities
    document.update(
        schema="holdfast.writer-metadata/1",
        writer_type=kind.type,
        id=writer.id,
        version=kind.version,
        restore=restore,
        capabilities={part: True for part in has},
    )
    return {"metadata": document}


def _prepare(writer: Writer, deadline: Deadline) -> Prepared:
    prepared = writer.prepare_backup(deadline)
    return prepared or Prepared("copy" if writer.backup and writer.backup.backup_type == "copy" else "full")


def _sealed(key: SealedKey) -> dict:
    document = _wire(key)
    algorithm, why = document.pop("algorithm", None), document.pop("why", "it was not tried")
    proved = {"state": "proved", "algorithm": algorithm}
    return {**document, "proof": proved if algorithm else {"state": "not_proved", "why": why}}


def _outcome(p: dict) -> BackupOutcome:
    return BackupOutcome(p["set"], p["backup_type"], _refs(p["succeeded"]), p.get("stored_logs") or [])


# The methods that are possible in each state, and what they call; `None`: a method of the session.
_Call = Optional[Callable[[Writer, dict, Deadline], Any]]
_CALLS: dict[str, dict[str, _Call]] = {
    "nothing": {"Hello": None},
    "writer": {"Identify": lambda w, p, d: _identify(w), "BeginBackup": None, "BeginRestore": None},
    "backup": {
        "PrepareBackup": lambda w, p, d: _prepare(w, d),
        "SealKeys": lambda w, p, d: {"keys": [_sealed(key) for key in w.seal_keys(p["recipients"])]},
        "PrepareSnapshot": lambda w, p, d: w.prepare_snapshot(d),
        "Freeze": None,
        "Thaw": None,
        "PostSnapshot": lambda w, p, d: w.post_snapshot(_places(p)) or PostSnapshot(),
        "BackupComplete": lambda w, p, d: {"logs": w.backup_complete(_outcome(p))},
        "Abort": None,
        "ListStreams": lambda w, p, d: {"streams": w.list_streams()},
        "OpenStream": None,
        "CloseStream": lambda w, p, d: w.close_stream(p["name"], p["bytes"]),
        "ListLogs": lambda w, p, d: {"logs": w.list_logs()},
    },
    "restore": {
        "OnlineState": lambda w, p, d: {"state": w.online_state()},
        "Check": lambda w, p, d: {"findings": w.check(_places(p))},
        "Register": lambda w, p, d: w.register(_pairs(p["map"]), p["marker"]),
        "RegisterComplete": lambda w, p, d: w.register_complete(),
        "Recover": lambda w, p, d: w.recover(_places(p["staged"]), p["context"]),
        "Verify": lambda w, p, d: {"findings": w.verify(_places(p))},
        "PostRestoreSteps": lambda w, p, d: {"steps": w.post_restore_steps()},
        "RunStep": lambda w, p, d: {"outcome": "already_done" if w.run_step(p["name"]) is False else "done"},
        "Unregister": lambda w, p, d: w.unregister(),
    },
}


class _Refused(Exception):
    """A call that is not for the writer: the answer says why."""

    def __init__(self, interface: Interface, name: str, /, **parameters: Any):
        super().__init__(name)
        self.answer = {"error": f"{interface.name}.{name}", "parameters": parameters}


def _program() -> str:
    return os.path.basename(sys.argv[0])


def _failure(error: WriterError) -> dict:
    # The kind may be an author's own, made from one of ours.
    names = [kind.__name__ for kind in type(error).__mro__ if kind.__name__ in WRITER.errors]
    name = names[0] if names else "NotResponding"
    return {"error": f"{WRITER.name}.{name}", "parameters": _wire(error.parameters())}


def _refs(documents: list[dict]) -> list[ComponentRef]:
    return [ComponentRef(d["name"], d.get("path") or "") for d in documents]


def _pairs(pairs: Optional[list]) -> list[tuple[str, str]]:
    return [(pair[0], pair[1]) for pair in pairs or [] if len(pair) == 2]


def _places(p: dict) -> Places:
    return Places(_pairs(p["roots"]), _pairs(p.get("keys")))


# --- the interfaces: `io.holdfast.Writer.varlink` and `org.varlink.service.varlink`, less their comments ------

SERVICE = Interface("""\
interface org.varlink.service
method GetInfo() -> (vendor: string, product: string, version: string, url: string, interfaces: []string)
method GetInterfaceDescription(interface: string) -> (description: string)
error InterfaceNotFound (interface: string)
error MethodNotFound (method: string)
error MethodNotImplemented (method: string)
error InvalidParameter (parameter: string)
""")

WRITER = Interface("""\
interface io.holdfast.Writer
method Hello(protocol: string, requester: ?string, features: ?[]string, id: string, writer_type: string, settings:
  object) -> (protocol: string, program: ?string, version: ?string, features: ?[]string, guardian: ?int)
method Identify() -> (metadata: WriterMetadata)
method BeginBackup(set: string, backup_type: BackupType, components: []ComponentRef, previous_stamps:
  ?[string]string) -> ()
method PrepareBackup(set: string, budget_ms: int) -> (backup_type: BackupType, warnings: ?[]string)
method SealKeys(recipients: []string) -> (keys: []SealedKey)
method PrepareSnapshot(set: string, budget_ms: int) -> ()
method Freeze(set: string, budget_ms: int) -> (mark: Mark)
method Thaw() -> (thawed: Thawed)
method PostSnapshot(set: string, roots: [][]string) -> (stamps: ?[string]string, warnings: ?[]string)
method BackupComplete(set: string, backup_type: BackupType, succeeded: []ComponentRef, stored_logs: ?[]string) ->
  (logs: ?[]string)
method Abort() -> ()
method ListStreams() -> (streams: []StreamFile)
method OpenStream(name: string) -> (descriptor: int)
method CloseStream(name: string, bytes: int) -> ()
method ListLogs() -> (logs: []LogFile)
method BeginRestore(set: string, metadata: WriterMetadata, components: []ComponentRef, in_place: bool) -> ()
method OnlineState() -> (state: ApplicationState)
method Check(roots: [][]string, keys: ?[][]string) -> (findings: []Finding)
method Register(map: [][]string, marker: string) -> ()
method RegisterComplete() -> ()
method Recover(staged: StagedFiles, context: RecoverContext) -> (done: []string, mark: ?Mark)
method Verify(roots: [][]string, keys: ?[][]string) -> (findings: []Finding)
method PostRestoreSteps() -> (steps: []HookStep)
method RunStep(name: string) -> (outcome: HookOutcome)
method Unregister() -> ()
type BackupType (full, incremental, differential, log, copy)
type ComponentRef (path: ?string, name: string)
type Mark (position: string, details: ?[string]string, proof: ?string)
type Thawed (released, was_not_held)
type SealedKey (component: ComponentRef, path: string, purpose: string, fingerprint: string, proof: KeySeal, mode:
  int, uid: int, gid: int, sealed: string)
type KeySeal (state: KeySealState, algorithm: ?string, why: ?string)
type KeySealState (proved, not_proved)
type StreamFile (name: string, component: ComponentRef, path: string, size_hint: int)
type LogFile (name: string, generation: int, path: string)
type ApplicationState (down, paused, ready, unknown)
type StagedFiles (roots: [][]string, keys: ?[][]string)
type RecoverContext (generations: ?[]int, logs: ?string, until: ?string)
type Finding (check: string, result: string, warning: ?bool)
type HookStep (name: string, description: string, host: ?string, timeout_ms: int, on_failure: OnFailure)
type OnFailure (stop, continue)
type HookOutcome (done, already_done)
type WriterMetadata (schema: string, writer_type: string, id: string, name: string, version: string, usage: Usage,
  source: DataSource, restore: RestorePolicy, freeze_level: FreezeLevel, freeze_budget_ms: ?int, busy_timeout_ms:
  ?int, backup_types: BackupTypes, capabilities: Capabilities, components: []Component, warnings: ?[]string)
type Usage (bootable_system_state, system_service, user_data, other)
type DataSource (transacted_db, non_transacted_db, other)
type FreezeLevel (front_end, back_end, system)
type RestorePolicy (method: RestoreMethod, rank: RestoreRank, service: ?string)
type RestoreMethod (if_not_there, if_can_replace, stop_restore_start, to_alternate_location, custom)
type RestoreRank (boot_files, services, directory, applications, registry)
type BackupTypes (incremental: ?bool, differential: ?bool, log: ?bool, exclusive: ?bool)
type Capabilities (freeze: ?bool, stream: ?bool, logs: ?bool, keys: ?bool, recover: ?bool, post_restore: ?bool)
type Component (kind: ComponentKind, path: ?string, name: string, caption: ?string, selectable: bool,
  selectable_for_restore: ?bool, held: ?bool, dependencies: ?[]Dependency, files: ?[]FileSet, exclude: ?[]string,
  keys: ?[]KeyFile)
type ComponentKind (database, file_group, keys)
type Dependency (writer: string, component: ComponentRef)
type FileSet (path: string, pattern: string, recursive: ?bool, optional: ?bool, role: FileRole)
type FileRole (database, log, data)
type KeyFile (path: string, purpose: string, certificate: ?string)
type Cause (message: string, source: ?Cause)
error InconsistentSnapshot (cause: Cause)
error OutOfResources (cause: Cause)
error TimedOut (action: string, budget_ms: int)
error Busy (cause: Cause)
error Rejected (cause: Cause)
error InvalidSetting (key: ?string, problem: string)
error Denied (cause: Cause)
error WrongState (is: string, must: string)
error RecoveryFailed (cause: Cause)
error PartialFailure (components: [string]Cause)
error Key (cause: Cause)
error ChainBroken (cause: Cause)
error Unsupported (what: string)
error NotResponding (cause: Cause)
error Skipped (cause: Cause)
error StuckFrozen (cause: Cause)
error VersionMismatch (speaks: string)
error OutOfOrder (method: string, state: string)
""")
