# SPDX-License-Identifier: Apache-2.0
"""One connection to the software kernel, and the process behind it."""

import os
import socket
import struct
from typing import Final

from mpsafe.soft.parts import CudaError, Process
from mpsafe.soft.sockets import credentials

__all__ = ["Peer", "identity"]

NOTIFIER_BYTES: Final = 4096
NOT_INITIALIZED: Final = 3

_NOTIFIER: Final = struct.Struct("=II")


class Peer:
    """A connection to DIR/rm. `pid` and `uid` are the kernel's word; `process` is there from hello on."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.pid, self.uid, _ = credentials(sock)
        self.process: Process | None = None
        self.watching = False
        self._notifier = -1

    def known(self) -> Process:
        """The process behind this connection; CUDA_ERROR_NOT_INITIALIZED before its hello."""
        if self.process is None:
            raise CudaError(NOT_INITIALIZED)
        return self.process

    @property
    def role(self) -> str:
        """What it said that it is; nothing before its hello."""
        return self.process.role if self.process else ""

    def make_notifier(self) -> int:
        """The page that is shared with the process (struct soft_notifier): its descriptor, which stays ours."""
        self._notifier = os.memfd_create("notifier", os.MFD_CLOEXEC)
        os.ftruncate(self._notifier, NOTIFIER_BYTES)
        return self._notifier

    def show(self) -> None:
        """Writes the process's state into its notifier."""
        if self._notifier >= 0 and self.process is not None:
            os.pwrite(self._notifier, _NOTIFIER.pack(self.process.error, self.process.doomed), 0)

    def close(self) -> None:
        """Closes the notifier; the socket is the loop's."""
        if self._notifier >= 0:
            os.close(self._notifier)
            self._notifier = -1


def identity(pid: int) -> tuple[int, str]:
    """Start time in clock ticks and name of a process, from /proc (proc(5)). OSError if it is gone."""
    with open(f"/proc/{pid}/stat", "rb") as stat:
        head, _, tail = stat.read().rpartition(b")")
    return int(tail.split()[19]), head.partition(b"(")[2].decode("utf-8", "replace")
