"""What the scripts that write under load have in common: one JSON line each time, and an end when standard input closes."""

import json
import os
import threading

stop = threading.Event()


def tell(**line):
    print(json.dumps(line), flush=True)


def _end_with_parent():
    # Not sys.stdin: a buffered reader still held by this thread would abort the interpreter's exit.
    while os.read(0, 4096):
        pass
    stop.set()


threading.Thread(target=_end_with_parent, daemon=True).start()
