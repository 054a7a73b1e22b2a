"""Runs a program that asks for a passphrase on its terminal only, such as age, and answers its first prompt.

Arguments: the file whose first line is the passphrase, then the program with its arguments. Ends as the program does.
"""

import os
import pty
import select
import sys

with open(sys.argv[1], encoding="utf-8") as file:
    passphrase = file.readline().rstrip("\n")
command = sys.argv[2:]
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(command[0], command)
seen = b""
answered = False
while True:
    ready, _, _ = select.select([terminal], [], [], 60)
    if not ready:
        sys.exit("no answer within 60 s: " + repr(seen))
    try:
        piece = os.read(terminal, 4096)
    except OSError:
        break
    if not piece:
        break
    seen += piece
    if not answered and b"passphrase" in seen.lower():
        os.write(terminal, passphrase.encode() + b"\n")
        answered = True
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
if status != 0:
    sys.stderr.write(seen.decode(errors="replace"))
sys.exit(status)
