"""Reads from a server's option files what a copy of its data cannot be opened without."""

from __future__ import annotations

import os
import re
from typing import Callable, Iterator

_GROUP = re.compile(r"\[(mysqld|mariadbd?|server)(-[0-9.]+)?\]")
_DEPTH = 8

# What decides whether the data can be read at all, and the value the server takes if it is not told.
NEEDED = {
    "innodb_page_size": "16384",
    "innodb_data_file_path": "ibdata1:12M:autoextend",
    "innodb_undo_tablespaces": "0",
    "innodb_encrypt_log": "OFF",
    "lower_case_table_names": "0",
    "aria_encrypt_tables": "OFF",
    "file_key_management_encryption_algorithm": "aes_cbc",
}
# Engines and compressions live in libraries of their own.
_LIBRARY = re.compile(r"(provider_|ha_|auth_)\w+(\.so)?")


def read(paths: list[str], locate: Callable[[str], str]) -> list[str]:
    """The options of the files and folders `paths` that a private server has to be given, as `--name=value`.

    `locate` says where a file lies now: what is restored counts, not what is on this machine.
    """
    found: dict[str, str] = {}
    libraries: list[str] = []
    for path in paths:
        for option, value in _options(path, locate, _DEPTH):
            if option in NEEDED:
                found[option] = value
            elif option in ("plugin_load_add", "plugin_load"):
                libraries += [part for part in re.split("[;,]", value) if _LIBRARY.fullmatch(part)]
    return [f"--{name}={value}" for name, value in found.items()] + [f"--plugin-load-add={one}" for one in libraries]


def _options(path: str, locate: Callable[[str], str], depth: int) -> Iterator[tuple[str, str]]:
    here = locate(path)
    if depth == 0:
        return
    if os.path.isdir(here):
        for entry in sorted(os.listdir(here)):
            if entry.endswith(".cnf"):
                yield from _options(os.path.join(path, entry), locate, depth - 1)
        return
    try:
        with open(here, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return
    ours = False
    for line in map(str.strip, lines):
        if line.startswith(("!include ", "!includedir ")):
            yield from _options(line.split(None, 1)[1], locate, depth - 1)
        elif line.startswith("["):
            ours = bool(_GROUP.match(line))
        elif ours and line and line[0] not in "#;!":
            option, _, value = line.split(" #")[0].partition("=")
            option = option.strip().replace("-", "_").lower()
            yield option[6:] if option.startswith("loose_") else option, value.strip().strip("\"'")
