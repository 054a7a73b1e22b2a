"""A MariaDB server of our own on a copy of data: reachable by nobody else, gone with this process."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from typing import Iterator, Optional

from client import Connection, ServerError
from holdfast_writer import RecoveryFailed, Rejected

_PR_SET_PDEATHSIG = 1
_STOP = 3600.0


def find_server(configured: Optional[str]) -> str:
    """Raises `Rejected` if it is not installed."""
    found = configured or shutil.which("mariadbd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/libexec")
    if not found or not os.access(found, os.X_OK):
        raise Rejected("mariadbd is not installed on this machine, and only it can recover its data; set `server`")
    return found


@contextlib.contextmanager
def private_server(program: str, data: str, options: list[str]) -> Iterator[tuple[Connection, str]]:
    """A session with a server on `data`, and the path of its log. The server ends cleanly with the block.

    Whatever it creates belongs to the owner of `data` afterwards. Raises `RecoveryFailed`, with the log's last words.
    """
    with tempfile.TemporaryDirectory(prefix="holdfast-mariadb-") as folder:
        socket, log = f"{folder}/s", f"{folder}/log.err"
        # Without tables of privileges: nobody but us can reach the socket, and no library is loaded that they name.
        command = [
            program,
            "--no-defaults",
            f"--datadir={data}",
            f"--socket={socket}",
            f"--pid-file={folder}/pid",
            f"--log-error={log}",
            f"--tmpdir={folder}",
            "--skip-networking",
            "--skip-grant-tables",
            "--skip-log-bin",
            "--skip-slave-start",
            "--innodb-buffer-pool-load-at-startup=OFF",
            "--innodb-buffer-pool-dump-at-shutdown=OFF",
            "--event-scheduler=OFF",
            *options,
        ]
        if os.geteuid() == 0:
            # Its data may lie where only root may go.
            command.append("--user=root")
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=_die_with_us,
        )
        try:
            connection = _wait(process, socket, log)
            try:
                yield connection, log
                _shut_down(connection, process, log)
            finally:
                connection.close()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            _give_back(data)


def _die_with_us() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _wait(process: subprocess.Popen, socket: str, log: str) -> Connection:
    while process.poll() is None:
        try:
            return Connection(socket, "root", timeout=_STOP)
        except OSError:
            time.sleep(0.02)
    raise RecoveryFailed(f"the server does not start on the copy: {last_words(log)}")


def _shut_down(connection: Connection, process: subprocess.Popen, log: str) -> None:
    with contextlib.suppress(OSError, ServerError):
        connection.query("SHUTDOWN")
    if process.wait() != 0:
        raise RecoveryFailed(f"the server did not end as it should: {last_words(log)}")


def _give_back(data: str) -> None:
    """What a server of root's has made belongs to the owner of the data, as the rest."""
    owner = os.stat(data)
    if os.geteuid() != 0 or owner.st_uid == 0:
        return
    for folder, folders, files in os.walk(data):
        for name in folders + files:
            path = os.path.join(folder, name)
            if os.lstat(path).st_uid == 0:
                os.lchown(path, owner.st_uid, owner.st_gid)


def last_words(log: str) -> str:
    """The errors of a server's log, or its last lines."""
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            lines = [line.strip() for line in file if line.strip()]
    except OSError:
        return "it wrote no log"
    errors = [line.partition("[ERROR] ")[2] for line in lines if "[ERROR]" in line]
    return "; ".join((errors or lines)[-4:])[:2000]


def current_user() -> str:
    """The name by which a server knows us."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise Rejected(f"user {os.geteuid()} has no name, so no server can know it; set `user`") from None
