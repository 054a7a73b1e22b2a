"""A connection to a MariaDB server over its socket: as much of its protocol as a writer needs.

Users are known by their uid (`unix_socket`) or by a password (`mysql_native_password`). Answers are text.
"""

from __future__ import annotations

import hashlib
import socket
from typing import Optional

MAX_ANSWER_BYTES = 64 << 20

# LONG_PASSWORD, LONG_FLAG, PROTOCOL_41, TRANSACTIONS, SECURE_CONNECTION, PLUGIN_AUTH
_CAPABILITIES = 0x1 | 0x4 | 0x200 | 0x2000 | 0x8000 | 0x80000
_UTF8MB4 = 45
_QUIT, _QUERY = 0x01, 0x03

Row = dict[str, Optional[str]]


class ServerError(Exception):
    """The server's own error, by its number."""

    def __init__(self, code: int, text: str):
        super().__init__(f"{text} ({code})")
        self.code = code


class Connection:
    """One session. It ends on the server as soon as this socket closes. After an `OSError` it is of no further use."""

    def __init__(self, path: str, user: str, password: Optional[str] = None, timeout: float = 10):
        self._socket = socket.socket(socket.AF_UNIX)
        self._buffer, self._sequence = b"", 0
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(path)
            self._log_in(user, password or "")
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        """Closes the socket: the server ends the session, and with it whatever it held."""
        self._socket.close()

    def shut_down(self) -> None:
        """The same from another thread, while one waits for an answer: that one gets none."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is closed already

    def query(self, sql: str, timeout: Optional[float] = None) -> list[Row]:
        """One statement and its rows. Raises `ServerError`, and `OSError` if there is no answer in `timeout` seconds."""
        if timeout is not None:
            self._socket.settimeout(max(0.001, timeout))
        self._sequence = 0
        self._send(bytes([_QUERY]) + sql.encode())
        first = self._packet()
        if first[0] == 0x00:
            return []
        if first[0] == 0xFB:
            raise ConnectionAbortedError("the server wants a file")
        columns = [self._column(self._packet()) for _ in range(_integer(first, 0)[0])]
        self._packet()  # the end of the columns
        rows: list[Row] = []
        while True:
            packet = self._packet()
            if packet[0] == 0xFE and len(packet) < 9:
                return rows
            at, row = 0, {}
            for column in columns:
                row[column], at = _text(packet, at)
            rows.append(row)

    def value(self, sql: str, timeout: Optional[float] = None) -> Optional[str]:
        """The first column of the first row."""
        rows = self.query(sql, timeout)
        return next(iter(rows[0].values())) if rows else None

    # --- the protocol

    def _log_in(self, user: str, password: str) -> None:
        greeting = self._packet()
        at = greeting.index(b"\0", 1) + 1 + 4  # protocol, version, connection
        salt, at = greeting[at : at + 8], at + 8 + 1 + 2 + 1 + 2 + 2 + 1 + 6 + 4
        salt += greeting[at : at + 12]
        proof = _native(password, salt)
        answer = (
            _CAPABILITIES.to_bytes(4, "little")
            + MAX_ANSWER_BYTES.to_bytes(4, "little")
            + bytes([_UTF8MB4])
            + bytes(23)
            + user.encode()
            + b"\0"
            + bytes([len(proof)])
            + proof
            + b"mysql_native_password\0"
        )
        self._send(answer)
        packet = self._packet()
        if packet[0] == 0xFE:  # it wants it another way
            plugin, _, salt = packet[1:].partition(b"\0")
            if plugin == b"mysql_native_password":
                self._send(_native(password, salt.rstrip(b"\0")))
            elif plugin in (b"auth_socket", b"unix_socket"):
                self._send(b"")
            else:
                raise PermissionError(
                    f"the server wants `{plugin.decode(errors='replace')}`, which is not spoken here"
                )
            packet = self._packet()
        if packet[0] != 0x00:
            raise ConnectionAbortedError("the server's answer to the login is not understood")

    @staticmethod
    def _column(packet: bytes) -> str:
        at, name = 0, None
        for _ in range(5):  # catalog, schema, table, original table, name
            name, at = _text(packet, at)
        return name or ""

    def _send(self, payload: bytes) -> None:
        self._socket.sendall(len(payload).to_bytes(3, "little") + bytes([self._sequence & 0xFF]) + payload)
        self._sequence += 1

    def _packet(self) -> bytes:
        payload = b""
        while True:
            header = self._read(4)
            length, self._sequence = int.from_bytes(header[:3], "little"), header[3] + 1
            payload += self._read(length)
            if len(payload) > MAX_ANSWER_BYTES or not payload:
                raise ConnectionAbortedError("what answers there is no MariaDB server")
            if length < 0xFFFFFF:
                break
        if payload[0] == 0xFF:
            text = payload[3:].decode("utf-8", "replace")
            raise ServerError(int.from_bytes(payload[1:3], "little"), text[6:] if text.startswith("#") else text)
        return payload

    def _read(self, length: int) -> bytes:
        while len(self._buffer) < length:
            try:
                chunk = self._socket.recv(65536)
            except socket.timeout:  # a TimeoutError of its own before Python 3.10
                raise TimeoutError("the server does not answer") from None
            if not chunk:
                raise ConnectionResetError("the server closed the connection")
            self._buffer += chunk
        taken, self._buffer = self._buffer[:length], self._buffer[length:]
        return taken


def quoted(text: str) -> str:
    """A text as a literal; whatever is in it, it ends nothing. Needs the server's usual SQL mode."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def name(text: str) -> str:
    """A table's or schema's name as an identifier."""
    return "`" + text.replace("`", "``") + "`"


def _native(password: str, salt: bytes) -> bytes:
    """`mysql_native_password`: SHA1(password) xor SHA1(salt + SHA1(SHA1(password)))."""
    if not password:
        return b""
    once = hashlib.sha1(password.encode()).digest()
    mask = hashlib.sha1(salt + hashlib.sha1(once).digest()).digest()
    return bytes(a ^ b for a, b in zip(once, mask))


def _integer(packet: bytes, at: int) -> tuple[int, int]:
    first = packet[at]
    if first < 0xFB:
        return first, at + 1
    width = {0xFC: 2, 0xFD: 3, 0xFE: 8}[first]
    return int.from_bytes(packet[at + 1 : at + 1 + width], "little"), at + 1 + width


def _text(packet: bytes, at: int) -> tuple[Optional[str], int]:
    if packet[at] == 0xFB:
        return None, at + 1
    length, at = _integer(packet, at)
    return packet[at : at + length].decode("utf-8", "surrogateescape"), at + length
