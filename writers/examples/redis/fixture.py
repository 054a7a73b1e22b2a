#!/usr/bin/python3 -B
"""A sample application for tests of the writer: a Redis server of its own in a folder.

    fixture.py start DIR · poke DIR [MS] · contents DIR · contents-of DIR ROOT · stop DIR · restart DIR · logs DIR

`poke` exits with 75 if the server holds writes for MS milliseconds. Below ROOT, files lie by their original paths. As
root, the server runs as the user `redis` if that one can get into DIR.
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
from typing import Any, Callable, Iterator, Optional

from resp import Redis, ReplyError

HELD = 75
# Longer than the last lease of a writer that died.
PATIENCE = 1.0
START = 30.0


class Server:
    """What is known of the server in a folder lies in that folder."""

    def __init__(self, folder: str, mode: str = "aof"):
        self.folder = Path(folder).resolve()
        self.data, self.config, self.state = (
            self.folder / "data",
            self.folder / "redis.conf",
            self.folder / "fixture.json",
        )
        self.process: Optional[subprocess.Popen] = None
        self.known: dict[str, Any] = {"mode": mode}
        if self.state.exists():
            self.known = json.loads(self.state.read_text())

    # --- the commands

    def start(self) -> dict:
        self.data.mkdir(parents=True)
        # A socket's path has room for 107 bytes.
        beside = str(self.folder) if len(str(self.folder)) < 80 else tempfile.mkdtemp(prefix="holdfast-redis-")
        self.known.update(socket=f"{beside}/redis.sock", user=user_who_can_enter(self.folder, "redis"))
        lines = [
            "port 0",
            f"unixsocket {self.known['socket']}",
            "unixsocketperm 777",
            f"dir {self.data}",
            f"logfile {self.folder}/redis.log",
            "save 3600 1",
            "maxmemory 256mb",
            f"appendonly {'yes' if self.known['mode'] == 'aof' else 'no'}",
        ]
        self.config.write_text("\n".join(lines) + "\n")
        self.own(self.folder, self.data, self.config, Path(beside))
        if not self.restart():
            raise SystemExit(f"redis-server does not start; see {self.folder}/redis.log")
        return {"settings": {"socket": self.known["socket"], "name": "a sample"}, "pid": self.known["pid"]}

    def restart(self) -> bool:
        self.process = process = start_server([str(self.config)], self.known["user"])
        self.known["pid"] = process.pid
        self.state.write_text(json.dumps(self.known))
        return wait_until_up(process, self.known["socket"])

    def poke(self, patience: float = PATIENCE) -> Optional[str]:
        name = f"{time.time_ns():x}-{os.getpid()}"
        redis = Redis(self.known["socket"], patience)
        try:
            redis.call("RPUSH", "written", name)
            return name
        except TimeoutError:
            return None  # closing the connection takes the command back
        finally:
            redis.close()

    def writer(self) -> Callable[[str], Any]:
        redis = Redis(self.known["socket"], START)
        return lambda name: redis.call("RPUSH", "written", name)

    def contents(self) -> list[str]:
        return contents(self.known["socket"])

    def contents_of(self, root: str) -> list[str]:
        copied = Path(root) / self.data.relative_to("/")
        with tempfile.TemporaryDirectory(prefix="holdfast-redis-") as folder:
            shutil.copytree(copied, f"{folder}/data")
            for path in Path(folder).rglob("*"):
                path.chmod(0o700)
            socket = f"{folder}/redis.sock"
            process = start_server(
                [
                    "--port",
                    "0",
                    "--unixsocket",
                    socket,
                    "--dir",
                    f"{folder}/data",
                    "--save",
                    "",
                    "--appendonly",
                    "yes" if self.known["mode"] == "aof" else "no",
                ],
                None,
            )
            try:
                if not wait_until_up(process, socket):
                    raise SystemExit("redis-server does not start on the copy")
                return contents(socket)
            finally:
                process.kill()
                process.wait()

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

    def own(self, *paths: Path) -> None:
        if self.known["user"]:
            entry = pwd.getpwnam(self.known["user"])
            for path in paths:
                os.chown(path, entry.pw_uid, entry.pw_gid)
                path.chmod(0o755 if path.is_dir() else 0o644)


def user_who_can_enter(folder: Path, name: str) -> Optional[str]:
    """The user a server of root's is to run as; none: ourselves."""
    above = [part for part in folder.parents if not part.stat().st_mode & 0o001]
    if os.geteuid() != 0 or above:
        return None
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(name).pw_name
    return None


def start_server(arguments: list[str], user: Optional[str]) -> subprocess.Popen:
    entry = pwd.getpwnam(user) if user else None
    identity: Any = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []} if entry else {}
    return subprocess.Popen(
        ["redis-server", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
        **identity,
    )


def wait_until_up(process: subprocess.Popen, socket: str) -> bool:
    until = time.monotonic() + START
    while process.poll() is None and time.monotonic() < until:
        with contextlib.suppress(OSError, ReplyError):
            redis = Redis(socket, 5)
            try:
                redis.call("PING")
                return True
            finally:
                redis.close()
        time.sleep(0.01)
    return False


def contents(socket: str) -> list[str]:
    redis = Redis(socket, 10)
    try:
        return redis.call("LRANGE", "written", 0, -1)
    finally:
        redis.close()


def lines(names: list[str]) -> Iterator[str]:
    return (f"{name}\n" for name in names)


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


def main(arguments: list[str], mode: str = "aof") -> int:
    command, folder, *more = arguments
    server = Server(folder, mode)
    if command == "start":
        print(json.dumps(server.start()), flush=True)
        leave(server)
    elif command == "poke":
        name = server.poke(*(int(ms) / 1000 for ms in more))
        if name is None:
            return HELD
        print(name)
    elif command == "contents":
        sys.stdout.writelines(lines(server.contents()))
    elif command == "contents-of":
        sys.stdout.writelines(lines(server.contents_of(more[0])))
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
