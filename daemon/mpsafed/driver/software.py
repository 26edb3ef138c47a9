# SPDX-License-Identifier: Apache-2.0
"""The software driver: the software kernel's socket in the place of /dev/mpsafe.

mpsafe/soft/owner.py says what is spoken there.
"""

import errno
import os
import secrets
import socket
import struct as structs
from pathlib import Path
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from mpsafe.errors import SourceLost
from mpsafed.driver._uapi import ffi
from mpsafed.driver.device import RECORD_MAX, Device, refused

if TYPE_CHECKING:
    from mpsafed.driver._uapi import Struct

__all__ = ["SoftwareDriver"]

BATCH: Final = 256
ANSWER_SECONDS: Final = 2.0
REWIND: Final = 0

_ASKED: Final = structs.Struct("<II")
_ANSWERED: Final = structs.Struct("<IIi")


class SoftwareDriver(Device):
    """With `stored` it is a connection to that path which an earlier process made.

    Its records are read from the oldest on then. OSError if it leads nowhere any more; the descriptor is
    closed then.

    A request waits for its answer and blocks its caller as an ioctl does: as long as a software kernel that hangs is
    given, see ANSWER_SECONDS.
    """

    def __init__(self, path: Path, stored: int | None = None) -> None:
        self._records: list[bytes] = []
        self._socket = _connected(path) if stored is None else _taken_over(stored, path)
        try:
            if stored is not None:
                self.rewind()
            self._greet()
        except (OSError, SourceLost):
            self._socket.close()
            raise

    def fileno(self) -> int:
        """Readable when a record is there that no request has met on its way."""
        return self._socket.fileno()

    def read(self) -> list[bytes]:
        """The records that are there: those that a request has met, or at most BATCH."""
        self._socket.setblocking(False)
        while len(self._records) < BATCH:
            try:
                self._receive()
            except BlockingIOError:
                break
        found = list(self._records)
        self._records.clear()
        return found

    def rewind(self) -> None:
        """Goes back to the oldest record: what comes before the answer was for whoever read before."""
        self._request(REWIND, None)
        self._records.clear()

    def close(self) -> None:
        """Closes the connection: the dead man's switch, unless a keeper holds it as well."""
        self._socket.close()

    @override
    def _request(self, number: int, struct: "Struct | None") -> None:
        tag = secrets.randbits(32)
        payload = b"" if struct is None else bytes(ffi.buffer(struct))
        self._socket.settimeout(ANSWER_SECONDS)
        self._socket.send(_ASKED.pack(number, tag) + payload)
        while (answer := self._receive()) is None or answer[0] != tag:
            pass
        _, failed, filled = answer
        if struct is not None and len(filled) == len(payload):
            ffi.buffer(struct)[:] = filled
        if failed:
            raise refused(failed)

    def _receive(self) -> tuple[int, int, bytes] | None:
        """One packet: a record is kept, an answer returned with its tag and errno."""
        packet = self._socket.recv(RECORD_MAX)
        if packet == b"busy":
            raise SourceLost("driver", "another process owns the device")
        if not packet:
            raise ConnectionResetError(errno.ECONNRESET, "the software kernel is gone")
        if packet[:4] != bytes(4) or len(packet) < _ANSWERED.size:
            self._records.append(packet)
            return None
        _, tag, failed = _ANSWERED.unpack_from(packet)
        return tag, failed, packet[_ANSWERED.size :]


def _connected(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        sock.connect(os.fspath(path))
    except OSError:
        sock.close()
        raise
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
    except OSError:
        sock.close()
        raise
    return sock
