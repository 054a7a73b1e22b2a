"""A writer with every fault that tests want of it. Holds a file by `flock`. A better example is in writers/examples/."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time

import holdfast_writer as api
from holdfast_writer import Component, FileSet, Mark, Metadata, Writer, serve


class Sample(Writer):
    type = "sample"
    version = "1"

    def __init__(self, id, settings):
        super().__init__(id, settings)
        self.file = settings.path("file")
        self.fault = settings.text("fault", "")
        self.held = None

    def identify(self):
        kind = "nonsense" if self.fault == "bad metadata" else "file_group"
        files = [FileSet(os.path.dirname(self.file), os.path.basename(self.file))]
        return Metadata("a sample", [Component("data", files, kind=kind, held=True)])

    def prepare_backup(self, deadline):
        if self.fault == "print":
            print("said by the writer")
            subprocess.run([sys.executable, "-c", "print('said by its child')"], check=True)
        if self.fault == "child":
            subprocess.Popen(["sleep", "60"])

    def freeze(self, deadline):
        held = open(self.file)
        fcntl.flock(held, fcntl.LOCK_EX)
        self.held = held
        if self.fault == "hold, then block":
            time.sleep(600)
        if self.fault == "hog":
            # One call into C that gives no other thread a turn.
            sum(range(10**15))
        if self.fault == "hold, then refuse":
            raise api.Rejected("as asked")
        if self.fault == "hold, then raise":
            raise KeyError("as asked")
        if self.fault == "hold, then answer nonsense":
            return Mark(7)
        if self.fault == "endless mark":
            return Mark("x" * api.MAX_MESSAGE_BYTES)
        if self.fault == "mark that is no text":
            return Mark("\udc80")
        return Mark("7", {"file": self.file})

    def thaw(self):
        held, self.held = self.held, None
        if held and self.fault == "block in thaw":
            time.sleep(600)
        if held and self.fault == "raise in thaw":
            raise KeyError("as asked")
        if held:
            held.close()
        return held is not None

    def abort(self):
        if self.fault == "raise in abort":
            raise KeyError("as asked")

    def list_streams(self):
        # How many descriptors of pipes and of the file are open here: a leak would show.
        there = [os.readlink(f"/proc/self/fd/{fd}") for fd in range(3, 64) if os.path.exists(f"/proc/self/fd/{fd}")]
        leaked = sum(1 for name in there if name.startswith("pipe:") or name == self.file)
        return [api.StreamFile("pipe", api.ComponentRef("data"), "/pipe", leaked)]

    def open_stream(self, name):
        if name == "pipe":
            read, write = os.pipe()
            threading.Thread(target=self.fill, args=(write,), daemon=True).start()
            return read
        if name == "file":
            return open(self.file, "rb")
        if name == "Busy":
            try:
                raise ValueError("inner")
            except ValueError as error:
                raise api.Busy("outer") from error
        raise {
            "TimedOut": api.TimedOut("prepare", 5),
            "WrongState": api.WrongState("running", "down"),
            "InvalidSetting": api.InvalidSetting("file", "gone"),
            "PartialFailure": api.PartialFailure({"data": ValueError("gone")}),
            "Unsupported": api.Unsupported("this"),
            "Denied": PermissionError(errno.EACCES, os.strerror(errno.EACCES)),
            "OutOfResources": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
            "NotResponding": KeyError("x"),
            "Skipped": api.Skipped("not today"),
        }[name]

    def fill(self, write):
        with os.fdopen(write, "wb") as pipe:
            pipe.write(b"x" * 1_000_000)

    def close_stream(self, name, bytes):
        if bytes != (1_000_000 if name == "pipe" else 0):
            raise api.InconsistentSnapshot(f"{bytes} bytes are not all of it")


if __name__ == "__main__":
    serve(Sample)
