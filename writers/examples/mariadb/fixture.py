#!/usr/bin/python3 -B
"""A sample application for tests of the writer: a MariaDB server of its own in a folder.

    fixture.py start DIR · poke DIR [MS] · contents DIR · contents-of DIR ROOT · stop DIR · restart DIR · logs DIR

`poke` exits with 75 if the server holds commits for MS milliseconds. Below ROOT, files lie by their original paths. As
root, the server runs as the user `mysql` if that one can get into DIR.
Beyond what the kit asks for, `load DIR` writes without pause until its standard input closes, and prints a line of JSON
for each write that was acknowledged.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Callable, Optional

from client import Connection, ServerError, quoted
from private_server import private_server

HELD = 75
LOCK_WAIT_TIMEOUT = 1205
PATIENCE = 1.0
START = 60.0
# Small and quick: nobody's data. None of it weakens what is tested, a crash of the machine apart.
OPTIONS = ["innodb_log_file_size=8M", "innodb_buffer_pool_size=32M", "debug_no_sync"]
SERVER = shutil.which("mariadbd", path=os.environ.get("PATH", "") + ":/usr/sbin") or "mariadbd"


class Server:
    """What is known of the server in a folder lies in that folder."""

    def __init__(self, folder: str, options: Optional[list[str]] = None):
        self.folder = Path(folder).resolve()
        self.data, self.config, self.state = (
            self.folder / "data",
            self.folder / "my.cnf",
            self.folder / "fixture.json",
        )
        self.options = [*OPTIONS, *(options or [])]
        self.process: Optional[subprocess.Popen] = None
        self.known: dict[str, Any] = {}
        if self.state.exists():
            self.known = json.loads(self.state.read_text())

    # --- the commands

    def start(self) -> dict:
        self.data.mkdir(parents=True)
        # A socket's path has room for 107 bytes.
        beside = str(self.folder) if len(str(self.folder)) < 80 else tempfile.mkdtemp(prefix="holdfast-mariadb-")
        user = user_who_can_enter(self.folder, "mysql")
        self.known.update(socket=f"{beside}/s", user=user)
        options = [
            f"datadir={self.data}",
            # A server that starts removes temporary tables from its folder for them, also another server's.
            f"tmpdir={self.folder}",
            f"socket={beside}/s",
            f"pid-file={beside}/pid",
            "skip-networking",
            f"log-error={beside}/log.err",
            *self.options,
        ]
        self.config.write_text("\n".join(["[mariadbd]", *options]) + "\n")
        for path in (self.folder, self.data, self.config, Path(beside)):
            if user:
                os.chown(path, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
            path.chmod(0o755 if path.is_dir() else 0o644)
        self.install(user or pwd.getpwuid(os.geteuid()).pw_name)
        if not self.restart():
            raise SystemExit(f"mariadbd does not start; see {beside}/log.err")
        with self.session() as session:
            session.query("CREATE DATABASE shop")
            session.query("CREATE TABLE shop.written (id VARCHAR(64) PRIMARY KEY) ENGINE=InnoDB")
        return {
            "settings": {"socket": self.known["socket"], "config": [str(self.config)], "name": "a sample"},
            "pid": self.known["pid"],
        }

    def install(self, user: str) -> None:
        command = [
            "mariadb-install-db",
            f"--defaults-file={self.config}",
            f"--user={user}",
            f"--datadir={self.data}",
            "--skip-test-db",
            "--auth-root-authentication-method=socket",
            f"--auth-root-socket-user={user}",
        ]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"mariadb-install-db: {done.stdout[-2000:]}{done.stderr[-2000:]}")

    def restart(self) -> bool:
        user = self.known["user"]
        entry = pwd.getpwnam(user) if user else None
        identity: Any = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []} if entry else {}
        command = [
            SERVER,
            f"--defaults-file={self.config}",
            *(["--user=root"] if not user and os.geteuid() == 0 else []),
        ]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
            **identity,
        )
        self.process = process
        self.known["pid"] = process.pid
        self.state.write_text(json.dumps(self.known))
        until = time.monotonic() + START
        while process.poll() is None and time.monotonic() < until:
            with contextlib.suppress(OSError, ServerError), self.session():
                return True
            time.sleep(0.02)
        return False

    def poke(self, patience: float = PATIENCE) -> Optional[str]:
        written, until = f"{time.time_ns():x}-{os.getpid()}", time.monotonic() + patience
        with self.session() as session:
            # The server itself gives up at once, and rolls back: what is held is never written later. It would wait for
            # whole seconds only, and a commit that waits is not ended by `max_statement_time`.
            session.query("SET SESSION lock_wait_timeout = 0")
            while True:
                try:
                    session.query(f"INSERT INTO shop.written VALUES ({quoted(written)})")
                    return written
                except ServerError as error:
                    if error.code != LOCK_WAIT_TIMEOUT:
                        raise
                if time.monotonic() > until:
                    return None
                time.sleep(0.01)

    def writer(self) -> Callable[[str], Any]:
        session = Connection(self.known["socket"], pwd.getpwuid(os.geteuid()).pw_name, timeout=START)
        return lambda name: session.query(f"INSERT INTO shop.written VALUES ({quoted(name)})")

    def contents(self) -> list[str]:
        with self.session() as session:
            return contents(session)

    def contents_of(self, root: str) -> list[str]:
        copied = Path(root) / self.data.relative_to("/")
        with tempfile.TemporaryDirectory(prefix="holdfast-mariadb-") as folder:
            shutil.copytree(copied, f"{folder}/data", ignore=shutil.ignore_patterns("ibtmp1"))
            with private_server(SERVER, f"{folder}/data", [f"--{option}" for option in self.options]) as (session, _):
                return contents(session)

    def stop(self) -> None:
        for ending in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.known["pid"], ending)
            if self.is_gone(START):
                return

    def is_gone(self, limit: float) -> bool:
        until = time.monotonic() + limit
        while os.path.exists(f"/proc/{self.known['pid']}"):
            if self.process:
                self.process.poll()  # it is ours, and wants to be waited for
            if time.monotonic() > until:
                return False
            time.sleep(0.01)
        return True

    # --- helpers

    @contextlib.contextmanager
    def session(self, timeout: float = 30):
        connection = Connection(self.known["socket"], pwd.getpwuid(os.geteuid()).pw_name, timeout=timeout)
        try:
            yield connection
        finally:
            connection.close()


def user_who_can_enter(folder: Path, name: str) -> Optional[str]:
    """The user a server of root's is to run as; none: ourselves."""
    above = [part for part in folder.parents if not part.stat().st_mode & 0o001]
    if os.geteuid() != 0 or above:
        return None
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(name).pw_name
    return None


def contents(session: Connection) -> list[str]:
    return [row["id"] or "" for row in session.query("SELECT id FROM shop.written ORDER BY id")]


def load(connect: Callable[[], Callable[[str], Any]], writers: int = 4) -> None:
    """Each line: `name`, and the times `begun_ns` and `acked_ns` on the machine's monotonic clock."""
    telling = threading.Lock()

    def run(number: int) -> None:
        write, run, n = connect(), time.monotonic_ns(), 0
        while not stopped.is_set():
            name, n, begun = f"{run:x}-{number}-{n}", n + 1, time.monotonic_ns()
            write(name)
            with telling:
                print(json.dumps({"name": name, "begun_ns": begun, "acked_ns": time.monotonic_ns()}), flush=True)
            stopped.wait(0.001)

    stopped = threading.Event()
    threads = [threading.Thread(target=run, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    while os.read(0, 4096):
        pass
    stopped.set()
    for thread in threads:
        thread.join()


def leave(server: Server) -> None:
    """The server goes on after this program: that is no oversight, so nobody has to be told."""
    if server.process:
        server.process.returncode = 0


def main(arguments: list[str]) -> int:
    command, folder, *more = arguments
    server = Server(folder)
    if command == "start":
        print(json.dumps(server.start()), flush=True)
        leave(server)
    elif command == "poke":
        written = server.poke(*(int(ms) / 1000 for ms in more))
        if written is None:
            return HELD
        print(written)
    elif command == "contents":
        sys.stdout.writelines(f"{written}\n" for written in server.contents())
    elif command == "contents-of":
        sys.stdout.writelines(f"{written}\n" for written in server.contents_of(more[0]))
    elif command == "load":
        load(server.writer)
    elif command == "stop":
        server.stop()
    elif command == "restart":
        is_up = server.restart()
        leave(server)
        return 0 if is_up else 1
    elif command != "logs":  # it has none that a backup could truncate
        raise SystemExit(__doc__)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
