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
    """A packet read is a record; a packet written is "policy MODE" or "heartbeat"."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            self._socket.connect(os.fspath(path))
        except OSError:
            self._socket.close()
            raise
        self._socket.setblocking(False)

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
            records.append(packet)
        return records

    def set_mode(self, mode: Mode) -> None:
        """Asks for a mode."""
        self._socket.send(f"policy {mode}".encode())

    def heartbeat(self) -> None:
        """The owner lives."""
        self._socket.send(b"heartbeat")

    def close(self) -> None:
        """Closes the connection: the dead man's switch."""
        self._socket.close()
