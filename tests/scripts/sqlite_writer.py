"""Commits one row after the other to a SQLite database; one JSON line per commit. Ends when standard input closes.

Arguments: database, journal mode, busy timeout in seconds, pause between commits in seconds.
"""

import sqlite3
import sys
import time

from load import stop, tell

path, journal, timeout, pause = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
database = sqlite3.connect(path, timeout=timeout, isolation_level=None)
database.execute(f"PRAGMA journal_mode={journal}")
database.execute("PRAGMA synchronous=FULL")
database.execute("CREATE TABLE IF NOT EXISTS entry (id INTEGER PRIMARY KEY, begun_ns INTEGER NOT NULL, filler TEXT)")
number = database.execute("SELECT coalesce(max(id), 0) FROM entry").fetchone()[0]

while not stop.is_set():
    begun = time.monotonic_ns()
    try:
        database.execute("INSERT INTO entry VALUES (?, ?, ?)", (number + 1, begun, "x" * 200))
    except sqlite3.OperationalError as refusal:
        tell(refused=str(refusal), begun_ns=begun, refused_ns=time.monotonic_ns())
        time.sleep(0.005)
        continue
    number += 1
    tell(name=str(number), begun_ns=begun, acked_ns=time.monotonic_ns())
    if pause:
        stop.wait(pause)
