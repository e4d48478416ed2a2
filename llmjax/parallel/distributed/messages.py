"""JSON messages, a line each, between the processes of a run over TCP."""

import contextlib
import json
import socket
import sys
from typing import Any

from llmjax.errors import UserError
from llmjax.storage.json_documents import JsonLimits, parse_json

LINE = JsonLimits(size=1 << 16, marks=20_000)
"""Limits of a message; the longest has about 100 bytes per process."""
# The kernel reports a lost machine after IDLE + INTERVAL x COUNT seconds.
IDLE, INTERVAL, COUNT = 5, 3, 4


class Lost(Exception):
    """The connection was closed by the other side, or broke."""


class Connection:
    """Sends and receives JSON objects, a line each."""

    def __init__(self, sock: socket.socket):
        self._socket = sock
        self._received = b""
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (
            ("TCP_KEEPIDLE", IDLE),
            ("TCP_KEEPINTVL", INTERVAL),
            ("TCP_KEEPCNT", COUNT),
        ):
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: dict[str, Any]) -> None:
        """Sends a message; errors are ignored, since the other side may be gone."""
        with contextlib.suppress(OSError):
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, seconds: float | None = None) -> dict[str, Any]:
        """Returns the next message.

        Args:
          seconds: timeout of each read; None: no timeout.

        Raises:
          Lost: the connection was closed or broke, or the timeout passed.
          UserError: the data is not a message of ours.
        """
        self._socket.settimeout(seconds)
        while b"\n" not in self._received:
            if len(self._received) > LINE.size:
                raise UserError("a connection", "sends something else than a process of a run")
            try:
                part = self._socket.recv(1 << 14)
            except OSError as error:  # also a timeout
                raise Lost(error.strerror or str(error)) from error
            if not part:
                raise Lost("closed")
            self._received += part
        line, _, self._received = self._received.partition(b"\n")
        message = parse_json(line, "a message", limits=LINE)
        if not isinstance(message, dict):
            raise UserError("a message", "is not an object")
        return message

    def close(self) -> None:
        self._socket.close()


def say(text: str) -> None:
    """Prints a line to stderr, if it is writable."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            print(text, file=sys.stderr, flush=True)
