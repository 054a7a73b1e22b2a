"""The requester's side of the protocol, as small as tests of a writer need it. Not a requester to back up with."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any, Callable, Iterable, Optional

INTERFACE = "io.holdfast.Writer"
SET = "00000000-0000-0000-0000-000000000000"


class Failed(Exception):
    """An answer that is an error: its name, without the interface, and its parameters."""

    def __init__(self, name: str, parameters: dict):
        super().__init__(f"{name} {json.dumps(parameters, ensure_ascii=False)}")
        self.name, self.parameters = name.rpartition(".")[2], parameters

    @property
    def why(self) -> str:
        """The chain of causes in one line."""
        cause, chain = self.parameters.get("cause"), []
        while cause:
            chain.append(cause["message"])
            cause = cause.get("source")
        return ": ".join(chain)


class Subject:
    """A writer's program with its socket. `with` ends it, whatever happens."""

    def __init__(self, command: list[str], user: Optional[int] = None, group: Optional[int] = None):
        ours, theirs = socket.socketpair()
        self.socket, self.buffer = ours, b""
        self.descriptors: list[int] = []
        identity: Any = {} if user is None else {"user": user, "group": group, "extra_groups": []}
        with theirs:
            self.process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd="/",
                start_new_session=True,
                **identity,
            )
        ours.settimeout(60)

    def __enter__(self) -> "Subject":
        return self

    def __exit__(self, *exc: Any) -> None:
        self.socket.close()
        self.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe:
                pipe.close()
        for descriptor in self.descriptors:
            os.close(descriptor)

    def wait(self, limit: float = 20) -> int:
        """How it ended. One that does not end is killed, with its group, and that is a failure."""
        try:
            return self.process.wait(limit)
        except subprocess.TimeoutExpired:
            raise AssertionError("it does not end") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def said(self) -> str:
        """What it printed on standard error; it has to have ended."""
        assert self.process.stderr
        return self.process.stderr.read().decode(errors="replace")

    def send(self, method: str, /, **parameters: Any) -> None:
        name = method if "." in method else f"{INTERFACE}.{method}"
        self.socket.sendall(json.dumps({"method": name, "parameters": parameters}).encode() + b"\0")

    def receive(self) -> dict:
        while b"\0" not in self.buffer:
            chunk, descriptors, _, _ = socket.recv_fds(self.socket, 65536, 4)
            self.descriptors += descriptors
            if not chunk:
                raise EOFError("it closed the socket")
            self.buffer += chunk
        message, _, self.buffer = self.buffer.partition(b"\0")
        answer = json.loads(message)
        if "error" in answer:
            raise Failed(answer["error"], answer["parameters"])
        return answer["parameters"]

    def call(self, method: str, /, **parameters: Any) -> dict:
        self.send(method, **parameters)
        return self.receive()

    def hello(self, writer_type: str, settings: dict, **more: Any) -> dict:
        asked = {"protocol": "1.0", "requester": "test 1", "features": ["descriptors"], "id": "w", **more}
        return self.call("Hello", writer_type=writer_type, settings=settings, **asked)

    def begin_backup(self, components: list[dict] = [], backup_type: str = "full") -> None:
        self.call("BeginBackup", set=SET, backup_type=backup_type, components=components)

    def phase(self, method: str, budget_ms: int = 20_000) -> dict:
        return self.call(method, set=SET, budget_ms=budget_ms)

    def begin_restore(self, metadata: dict, components: list[dict] = [], in_place: bool = True) -> None:
        self.call("BeginRestore", set=SET, metadata=metadata, components=components, in_place=in_place)


def python(script: str, *arguments: str) -> list[str]:
    """The command that runs a script with this very Python."""
    return [sys.executable, script, *arguments]


class Load:
    """Writes without pause, one id after the other, and remembers when each was begun and acknowledged."""

    def __init__(self, connect: Callable[[], Callable[[str], None]], writers: int = 4):
        self.begun: dict[str, float] = {}
        self.acknowledged: dict[str, float] = {}
        self.stopped = threading.Event()
        self.threads = [threading.Thread(target=self._run, args=(connect, n)) for n in range(writers)]

    def _run(self, connect: Callable[[], Callable[[str], None]], writer: int) -> None:
        write, run, n = connect(), time.monotonic_ns(), 0
        while not self.stopped.is_set():
            name, n = f"{run:x}-{writer}-{n}", n + 1
            self.begun[name] = time.monotonic()
            write(name)
            self.acknowledged[name] = time.monotonic()

    def __enter__(self) -> "Load":
        for thread in self.threads:
            thread.start()
        self.wait_for(50)
        return self

    def __exit__(self, *exc: Any) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join()

    def wait_for(self, more: int, limit: float = 30) -> None:
        """Until so many more were acknowledged."""
        until, wanted = time.monotonic() + limit, len(self.acknowledged) + more
        while len(self.acknowledged) < wanted:
            assert time.monotonic() < until, "nothing is written any more"
            time.sleep(0.001)

    def longest_wait(self, begun_before: float) -> float:
        """How long after that moment the first write was acknowledged again."""
        self.wait_for(len(self.threads) + 1)
        return min(t for t in self.acknowledged.values() if t > begun_before) - begun_before

    def acknowledged_since(self, held: float) -> set[str]:
        """Begun after that moment, and acknowledged. What was on its way may still be told later."""
        return {name for name in list(self.acknowledged) if self.begun[name] > held}

    def missing(self, found: Iterable[str], frozen: float) -> set[str]:
        """Acknowledged before the freeze was asked for, and not found."""
        return {name for name, at in list(self.acknowledged.items()) if at < frozen} - set(found)

    def too_late(self, found: Iterable[str], thawed: float) -> set[str]:
        """Begun after the thaw, and found."""
        return {name for name, at in list(self.begun.items()) if at > thawed} & set(found)
