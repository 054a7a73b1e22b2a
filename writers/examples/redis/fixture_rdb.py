#!/usr/bin/python3 -B
"""The same for a server that keeps a dump instead of an append-only file."""

import sys

from fixture import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], "rdb"))
