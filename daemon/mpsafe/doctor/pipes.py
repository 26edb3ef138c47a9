# SPDX-License-Identifier: Apache-2.0
"""Who listens in a pipe directory. A socket file proves nothing, a connection does (550.163.01)."""

import itertools
import os
import socket
import struct
from pathlib import Path
from typing import Final

__all__ = ["Pipes"]

SERVERS_MAX: Final = 64

_CREDENTIALS: Final = struct.Struct("iII")


class Pipes:
    """Asks each directory once: every connection is a line in the control daemon's log."""

    def __init__(self) -> None:
        self._asked: dict[tuple[int, int], int | None] = {}

    def listener(self, directory: Path) -> int | None:
        """The pid of the control daemon that listens there; 0 if it is hidden from us, None if nobody does.

        Raises OSError where that cannot be seen: no such directory, or not ours to enter.
        """
        fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            key = (status.st_dev, status.st_ino)
            if key not in self._asked:
                # By way of the descriptor: a path to a socket is at most 107 bytes long (unix(7)).
                self._asked[key] = _listening(Path(f"/proc/self/fd/{fd}"))
            return self._asked[key]
        finally:
            os.close(fd)


def _listening(directory: Path) -> int | None:
    """In the directory itself (v2), or below it for one server or namespace (v3)."""
    for path in [directory / "control", *itertools.islice(directory.glob("*/control"), SERVERS_MAX)]:
        if (listener := _connected(path)) is not None:
            return listener
    return None


def _connected(path: Path) -> int | None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.connect(os.fspath(path))
        except BlockingIOError:
            return 0  # somebody listens, and does not accept
        except (ConnectionRefusedError, FileNotFoundError):
            return None
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return int(_CREDENTIALS.unpack(raw)[0])
