"""A connection to a Redis server: as much of its protocol (RESP2) as a writer needs."""

from __future__ import annotations

import socket
from typing import Any, Optional, Union

MAX_REPLY_BYTES = 16 << 20

Address = Union[str, tuple]  # the path of a socket, or host and port


class ReplyError(Exception):
    """The server's own error. `code` is its first word: NOPERM, BUSY, LOADING, ERR."""

    def __init__(self, text: str):
        super().__init__(text)
        self.code = text.split(" ", 1)[0]


class Redis:
    """One connection. After an `OSError` it is of no further use."""

    def __init__(self, address: Address, timeout: float, user: Optional[str] = None, password: Optional[str] = None):
        if isinstance(address, str):
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(timeout)
            try:
                self._socket.connect(address)
            except BaseException:
                self._socket.close()
                raise
        else:
            self._socket = socket.create_connection(address, timeout)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._replies = self._socket.makefile("rb")
        self.timeout = timeout
        if password is not None:
            try:
                self.call("AUTH", *([user] if user else []), password)
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        self._replies.close()
        self._socket.close()

    def call(self, *words: Any, timeout: Optional[float] = None) -> Any:
        """One command and its reply. Raises `ReplyError`, and `OSError` if there is none within `timeout` seconds."""
        encoded = [str(word).encode("utf-8", "surrogateescape") for word in words]
        command = b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded)
        self._socket.settimeout(max(0.001, self.timeout if timeout is None else timeout))
        try:
            self._socket.sendall(command)
            return self._reply()
        except socket.timeout:  # a TimeoutError of its own before Python 3.10
            raise TimeoutError("the server does not answer") from None

    def _reply(self) -> Any:
        line = self._replies.readline(65536)
        if not line.endswith(b"\r\n"):
            raise ConnectionResetError("the server closed the connection")
        kind, rest = line[:1], line[1:-2].decode("utf-8", "surrogateescape")
        if kind == b"-":
            raise ReplyError(rest)
        if kind == b"+":
            return rest
        if kind == b":":
            return int(rest)
        length = int(rest)
        if kind not in (b"$", b"*") or length > MAX_REPLY_BYTES:
            raise ConnectionAbortedError("what answers there is no Redis server")
        if length < 0:
            return None
        if kind == b"*":
            return [self._reply() for _ in range(length)]
        text = self._replies.read(length + 2)
        if len(text) != length + 2:
            raise ConnectionResetError("the server closed the connection")
        return text[:-2].decode("utf-8", "surrogateescape")

    def info(self, section: str, timeout: Optional[float] = None) -> dict[str, str]:
        lines = self.call("INFO", section, timeout=timeout).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))

    def config(self, name: str) -> Optional[str]:
        """A setting of the server, as it counts now; `None` if its version does not know it."""
        pair = self.call("CONFIG", "GET", name)
        return pair[1] if pair else None
