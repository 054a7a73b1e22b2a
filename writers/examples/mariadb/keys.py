"""The encryption keys of a server's data (`file_key_management`): declared, sealed by `age`, and given back."""

from __future__ import annotations

import hashlib
import os
import subprocess

from client import Connection
from holdfast_writer import ComponentRef, Key, KeyFile, Places, Rejected, SealedKey
from server import variable


def declared(connection: Connection) -> list[KeyFile]:
    """The files without which nobody reads the data. Raises `Rejected` for keys that could not be given back."""
    plugins = connection.query(
        "SELECT PLUGIN_NAME FROM information_schema.PLUGINS "
        "WHERE PLUGIN_TYPE = 'ENCRYPTION' AND PLUGIN_STATUS = 'ACTIVE'"
    )
    names = [row["PLUGIN_NAME"] for row in plugins]
    if names and names != ["file_key_management"]:
        raise Rejected(
            f"the keys of the data are kept by the plugin {', '.join(map(str, names))}, which this writer "
            "does not know: it would store data that cannot be read"
        )
    if not names:
        return []
    keys = [KeyFile(variable(connection, "file_key_management_filename") or "", "encryption keys")]
    password = variable(connection, "file_key_management_filekey")
    if password:
        if not password.startswith("FILE:"):
            raise Rejected(
                "the password of the encryption keys stands in the server's options, which are stored in "
                "plain; move it into a file of its own: file_key_management_filekey=FILE:/…"
            )
        keys.append(KeyFile(password[5:], "password of the encryption keys"))
    return keys


def seal(component: ComponentRef, key: KeyFile, recipients: list[str], started: float) -> SealedKey:
    """Sealed by `age`: the key goes through a pipe, what is public through its arguments."""
    try:
        with open(key.path, "rb") as file:
            content, about = file.read(1 << 20), os.fstat(file.fileno())
    except OSError as error:
        raise Key(f"{key.path}: {error.strerror}") from None
    to = [word for recipient in recipients for word in ("-r", recipient)]
    try:
        done = subprocess.run(["age", "-e", *to], input=content, capture_output=True)
    except FileNotFoundError:
        raise Key(f"{key.path} cannot be sealed: the program `age` is not installed") from None
    if done.returncode != 0:
        raise Key(f"{key.path} cannot be sealed: {done.stderr.decode(errors='replace').strip()[:500]}")
    proof: dict[str, str] = {"algorithm": "the running server decrypts with it: unchanged since it was loaded"}
    if max(about.st_ctime, about.st_mtime) >= started:
        proof = {"why": "the file was changed after the server had loaded it; start the server anew"}
    # Of keys that nobody can guess; a password's would give it away.
    is_password = key.purpose.startswith("password")
    digest = (
        "unknown" if is_password else "SHA256:" + hashlib.sha256(b"holdfast mariadb keys\0" + content).hexdigest()
    )
    return SealedKey(
        component,
        key.path,
        key.purpose,
        digest,
        about.st_mode & 0o7777,
        about.st_uid,
        about.st_gid,
        done.stdout,
        **proof,
    )


def options(paths: list[str], staged: Places) -> list[str]:
    """What a private server has to be told to read data with these keys, wherever they lie now."""
    if not paths:
        return []
    paths = [staged.locate_key(path) or path for path in paths]
    missing = [path for path in paths if not os.path.exists(path)]
    if missing:
        raise Key(f"the data are encrypted, and {', '.join(missing)} is not there")
    found = ["--plugin-load-add=file_key_management", f"--file-key-management-filename={paths[0]}"]
    return found + [f"--file-key-management-filekey=FILE:{path}" for path in paths[1:]]
