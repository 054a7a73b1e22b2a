"""What a Redis server says of its files, and what it says otherwise, in a writer's words."""

from __future__ import annotations

import errno
import os
import time
from typing import Any, Callable, Optional

from holdfast_writer import Busy, Deadline, Denied, NotResponding, RecoveryFailed, Rejected, TimedOut, WrongState
from resp import Redis, ReplyError

POLL = 0.005


def manifest(path: str) -> Optional[str]:
    """The list of the files that make up the append-only file, of Redis 7; it lies among them."""
    if not os.path.isdir(path):
        return None
    names = [name for name in sorted(os.listdir(path)) if name.endswith(".manifest")]
    if not names:
        raise RecoveryFailed(f"{path} has no manifest: it is no append-only file")
    return os.path.join(path, names[0])


def fingerprints(path: str) -> dict[str, tuple]:
    """Size and last bytes of each file at `path`; none where we may not look: then the counters have to do."""
    try:
        names = sorted(os.listdir(path)) if os.path.isdir(path) else [""]
        found = {}
        for name in names:
            with open(os.path.join(path, name) if name else path, "rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - 64))
                found[name or os.path.basename(path)] = (size, file.read())
        return found
    except PermissionError:
        return {}


def is_quiet(now: dict[str, str]) -> bool:
    """Whether no file is being rewritten that a start would read."""
    rewrites = ["aof_rewrite_in_progress", "aof_rewrite_scheduled"]
    busy = ["loading", *(rewrites if now["aof_enabled"] == "1" else ["rdb_bgsave_in_progress"])]
    return all(now.get(name, "0") == "0" for name in busy)


def counters(now: dict[str, str]) -> dict[str, str]:
    """What moves as soon as anything is written, or the files are exchanged."""
    if now["aof_enabled"] == "1":
        names = ["aof_current_size", "aof_buffer_length", "aof_base_size", "aof_rewrite_in_progress", "aof_rewrites"]
    else:
        names = ["rdb_changes_since_last_save", "rdb_last_save_time", "rdb_bgsave_in_progress", "rdb_saves"]
    return {name: now[name] for name in names if name in now}


def poll(redis: Redis, until: float, ready: Callable[[dict], bool], pause: float = POLL) -> dict[str, str]:
    """The server's persistence counters, once they are `ready`. Raises `TimeoutError`."""
    while True:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the server did not get ready in time")
        now = redis.info("persistence", timeout=left)
        if ready(now):
            return now
        time.sleep(min(pause, left))


class errors:
    """Turns what the server and the socket say into the writer's errors."""

    def __init__(self, action: str, deadline: Optional[Deadline] = None):
        self.action, self.deadline = action, deadline

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, ReplyError):
            if error.code in ("NOPERM", "NOAUTH", "WRONGPASS"):
                raise Denied(f"asked to {self.action}: the server does not allow it") from error
            if error.code in ("BUSY", "LOADING") or "in progress" in str(error):
                raise Busy(f"asked to {self.action}") from error
            raise Rejected(f"asked to {self.action}") from error
        if isinstance(error, TimeoutError) and self.deadline:
            raise TimedOut(self.action, self.deadline.budget_ms) from error
        if isinstance(error, TimeoutError):
            raise Busy(f"asked to {self.action}: the server did not get ready in time") from error
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
