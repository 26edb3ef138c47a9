# SPDX-License-Identifier: Apache-2.0
"""DIR/mpsafe stands for /dev/mpsafe (ffi/mpsafe_uapi.h): records for one owner, a policy, a dead man's switch.

A packet from the kernel is one record. A packet to it is "policy off|observe|absorb", "heartbeat" or
"rewind"; whatever else comes is ignored. "rewound" answers the last one: what came before it was for
whoever read before, and the records behind it begin with the oldest. A second owner is told "busy".
"""

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mpsafe.soft.parts import Mode
from mpsafe.soft.records import RecordRing
from mpsafe.soft.sockets import Loop, listen, post

__all__ = ["OwnerPort"]

_MODES: Final[dict[bytes, Mode]] = {b"policy off": "off", b"policy observe": "observe", b"policy absorb": "absorb"}


class OwnerPort:
    """Serves the owner; `set_mode` puts a mode in force. Without a heartbeat for `limit_s` it is off again."""

    def __init__(
        self, loop: Loop, path: Path, ring: RecordRing, *, set_mode: Callable[[Mode], None], limit_s: float
    ) -> None:
        self._loop = loop
        self._ring = ring
        self._set_mode = set_mode
        self._limit_s = limit_s
        self._owner: socket.socket | None = None
        self._next = 1
        self._rewinding = False
        self._expires: float | None = None
        loop.accept(listen(path, 0o600), self._accept)

    def remaining_s(self) -> float | None:
        """How long the mode may stay in force without a sign of life; None while it is off."""
        return None if self._expires is None else max(0.0, self._expires - time.monotonic())

    def check(self) -> None:
        """Puts the mode off if its time is over."""
        if self.remaining_s() == 0.0:
            self._change("off")

    def flush(self) -> None:
        """Sends what the owner has not seen. What is overwritten before there is room for it is lost: `seq` tells."""
        if self._owner is None:
            return
        if self._rewinding:
            if not post(self._owner, b"rewound"):
                self._loop.await_room(self._owner)
                return
            self._rewinding = False
        self._next = max(self._next, self._ring.first)
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
        self._next = 1
        self._rewinding = False
        self._loop.hear(sock, self._hear, room=self.flush)
        self.flush()

    def _hear(self, packet: bytes) -> None:
        if not packet:
            self._drop()
        elif packet == b"heartbeat":
            if self._expires is not None:
                self._expires = time.monotonic() + self._limit_s
        elif packet == b"rewind":
            self._next = 1
            self._rewinding = True
            self.flush()
        elif (mode := _MODES.get(packet)) is not None:
            self._change(mode)

    def _drop(self) -> None:
        if self._owner is not None:
            self._loop.forget(self._owner)
            self._owner = None
        if self._expires is not None:
            self._change("off")

    def _change(self, mode: Mode) -> None:
        self._expires = None if mode == "off" else time.monotonic() + self._limit_s
        self._set_mode(mode)
        self._ring.policy(mode)
        self.flush()
