"""What a MariaDB server says of itself and its files, and what it says otherwise, in a writer's words."""

from __future__ import annotations

import errno
import os
import socket
import time
from typing import Any, Optional

from client import Connection, ServerError
from holdfast_writer import Busy, Deadline, Denied, NotResponding, Rejected, TimedOut, WrongState

LOCK_WAIT_TIMEOUT, ACCESS_DENIED, NO_SUCH_USER, TOO_MANY = 1205, 1227, 1045, 1040


def datadir(connection: Connection) -> str:
    return os.path.normpath(variable(connection, "datadir") or "")


def variable(connection: Connection, option: str) -> Optional[str]:
    rows = connection.query(f"SHOW GLOBAL VARIABLES LIKE '{option}'")
    return rows[0]["Value"] if rows else None


def status(connection: Connection, counter: str) -> str:
    rows = connection.query(f"SHOW GLOBAL STATUS LIKE '{counter}'")
    return (rows[0]["Value"] or "") if rows else ""


def flush_logs(session: Connection, deadline: Deadline) -> str:
    """Sees to it that every commit that was acknowledged is in the log's file; answers up to where that reaches."""
    committed = status(session, "Innodb_lsn_current")
    session.query("FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS", deadline.left())
    if committed and variable(session, "innodb_flush_log_at_trx_commit") == "0":
        # Then InnoDB takes no notice of the statement above. Its own thread writes the log once in a second.
        while int(status(session, "Innodb_lsn_flushed")) < int(committed):
            if not deadline.left():
                raise TimeoutError("the server does not write its log")
            time.sleep(0.005)
    return committed


def below(path: str, folder: str) -> bool:
    return os.path.normpath(os.path.join(folder, path)).startswith(folder + "/")


def refuse_what_lies_elsewhere(connection: Connection, data: str) -> None:
    """All that InnoDB and Aria need must be in one folder, so that it can be cut as one instant."""
    elsewhere = []
    for option in ("innodb_data_home_dir", "innodb_log_group_home_dir", "innodb_undo_directory", "aria_log_dir_path"):
        value = variable(connection, option)
        if value and os.path.normpath(os.path.join(data, value)) != data:
            elsewhere.append(f"{option}={value}")
    for part in (variable(connection, "innodb_data_file_path") or "").split(";"):
        if not below(part.split(":")[0], data):
            elsewhere.append(f"innodb_data_file_path={part}")
    try:
        files = connection.query(
            "SELECT FILENAME FROM information_schema.INNODB_SYS_TABLESPACES "
            "WHERE FILENAME NOT LIKE './%' LIMIT 1000"
        )
        elsewhere += [row["FILENAME"] or "" for row in files if not below(row["FILENAME"] or "", data)]
    except ServerError as error:
        if error.code == ACCESS_DENIED:
            raise  # the privilege PROCESS
    if elsewhere:
        raise Rejected(
            f"not all data lie in {data}: {', '.join(elsewhere[:5])}; they could not be cut as one instant"
        )


def is_down(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) in (errno.ENOENT, errno.ECONNREFUSED)


class errors:
    """Turns what the server and the socket say into the writer's errors."""

    def __init__(self, action: str, deadline: Optional[Deadline] = None):
        self.action, self.deadline = action, deadline

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, ServerError):
            if error.code in (ACCESS_DENIED, NO_SUCH_USER, 1044, 1142, 1698):
                raise Denied(f"asked to {self.action}: the server does not allow it") from error
            if error.code in (LOCK_WAIT_TIMEOUT, TOO_MANY):
                raise Busy(
                    f"asked to {self.action}: other sessions have locks; LOCK TABLES, a long statement, "
                    "or another backup"
                ) from error
            raise Rejected(f"asked to {self.action}") from error
        if isinstance(error, TimeoutError):
            budget = self.deadline.budget_ms if self.deadline else 10_000
            raise TimedOut(self.action, budget) from error
        if (
            isinstance(error, OSError)
            and error.errno in (errno.ENOENT, errno.ECONNREFUSED)
            and self.action == "connect"
        ):
            raise WrongState("down", "running") from error
        if isinstance(error, PermissionError):
            raise Denied(f"asked to {self.action}: {error}") from error
        if isinstance(error, OSError):
            raise NotResponding(f"asked to {self.action}") from error
