# SPDX-License-Identifier: Apache-2.0
"""The software driver: the software kernel's socket in the place of /dev/mpsafe."""

import os
import socket
from pathlib import Path
from typing import Final

from mpsafe.errors import SourceLost
from mpsafed.driver import Mode

__all__ = ["SoftwareDriver"]

RECORD_MAX: Final = 4096
BATCH: Final = 256


class SoftwareDriver:
    """A packet read is a record; a packet written is "policy MODE", "heartbeat" or "rewind".

    With `stored` it is a connection to that path which an earlier process made; its records are read from
    the oldest on. OSError if it leads nowhere any more; the descriptor is closed then.
    """

    def __init__(self, path: Path, stored: int | None = None) -> None:
        self._rewinding = stored is not None
        self._socket = _connected(path) if stored is None else _taken_over(stored, path)

    def fileno(self) -> int:
        """Readable when a record is there."""
        return self._socket.fileno()

    def read(self) -> list[bytes]:
        """The records that are there, at most BATCH of them."""
        records: list[bytes] = []
        while len(records) < BATCH:
            try:
                packet = self._socket.recv(RECORD_MAX)
            except BlockingIOError:
                break
            if packet == b"busy":
                raise SourceLost("driver", "another process owns the device")
            if not packet:
                raise ConnectionResetError("the software kernel is gone")
            if packet == b"rewound":
                self._rewinding = False
            elif not self._rewinding:
                records.append(packet)
        return records

    def set_mode(self, mode: Mode) -> None:
        """Asks for a mode."""
        self._socket.send(f"policy {mode}".encode())

    def heartbeat(self) -> None:
        """The owner lives."""
        self._socket.send(b"heartbeat")

    def close(self) -> None:
        """Closes the connection: the dead man's switch, unless a keeper holds it as well."""
        self._socket.close()


def _connected(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        sock.connect(os.fspath(path))
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def _taken_over(stored: int, path: Path) -> socket.socket:
    try:
        sock = socket.socket(fileno=stored)
    except OSError:
        os.close(stored)
        raise
    try:
        if (peer := sock.getpeername()) != os.fspath(path):
            raise ConnectionError(f"it leads to {peer!r}, expected {os.fspath(path)!r}")
        sock.setblocking(False)
        sock.send(b"rewind")
    except OSError:
        sock.close()
        raise
    return sock
