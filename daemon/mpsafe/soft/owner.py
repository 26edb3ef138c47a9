# SPDX-License-Identifier: Apache-2.0
"""DIR/mpsafe stands for /dev/mpsafe (ffi/mpsafe_uapi.h): records and requests for one owner.

A packet from the kernel is one record, whose first four bytes are its size, or an answer, whose first four
are zero: then the tag and the errno, 32 bits each, and the struct. A packet to it is a request: the ioctl's
number and a tag, 32 bits each, and the struct. Number 0 is lseek(fd, 0, SEEK_SET): what comes before its
answer was for whoever read before, and the records behind it begin with the oldest. A second owner is told
"busy".
"""

import errno
import socket
import struct
from collections import deque
from pathlib import Path
from typing import Final

from mpsafe.soft.module import Module
from mpsafe.soft.records import RecordRing
from mpsafe.soft.sockets import Loop, listen, post

__all__ = ["OwnerPort"]

REWIND: Final = 0
ANSWERS_MAX: Final = 64

_ASKED: Final = struct.Struct("<II")
_ANSWERED: Final = struct.Struct("<IIi")


class OwnerPort:
    """Serves the owner, which `module` is told of."""

    def __init__(self, loop: Loop, path: Path, ring: RecordRing, module: Module) -> None:
        self._loop = loop
        self._ring = ring
        self._module = module
        self._owner: socket.socket | None = None
        self._next = 1
        self._answers: deque[bytes] = deque()
        loop.accept(listen(path, 0o600), self._accept)

    def flush(self) -> None:
        """Sends what the owner has not seen. What is overwritten before there is room for it is lost: `seq` tells."""
        if self._owner is None:
            return
        while self._answers:
            if not post(self._owner, self._answers[0]):
                self._loop.await_room(self._owner)
                return
            self._answers.popleft()
        if self._next < self._ring.first:
            self._module.lost += self._ring.first - self._next
            self._next = self._ring.first
        for record in self._ring.since(self._next):
            if not post(self._owner, record):
                self._loop.await_room(self._owner)
                return
            self._next += 1

    def _accept(self, sock: socket.socket) -> None:
        if self._owner is not None:
            post(sock, b"busy")
            sock.close()
            return
        self._owner = sock
        self._next = self._ring.first
        self._module.open()
        self._loop.hear(sock, self._hear, room=self.flush)
        self.flush()

    def _hear(self, packet: bytes) -> None:
        if len(packet) < _ASKED.size or len(self._answers) >= ANSWERS_MAX:
            self._drop()
            return
        number, tag = _ASKED.unpack_from(packet)
        payload, failed = packet[_ASKED.size :], 0
        if number == REWIND:
            self._next = self._ring.first
        else:
            try:
                payload = self._module.request(number, payload)
            except OSError as error:
                failed = error.errno or errno.EIO
                payload = error.filename or b""
        self._answers.append(_ANSWERED.pack(0, tag, failed) + payload)
        self.flush()

    def _drop(self) -> None:
        if self._owner is not None:
            self._loop.forget(self._owner)
            self._owner = None
            self._answers.clear()
            self._module.close()
