# SPDX-License-Identifier: Apache-2.0
"""A software kernel's driver port with nothing behind it: its records are what a test puts into the ring."""

import contextlib
import os
import queue
import socket
import struct
import threading
from pathlib import Path

from mpsafe.soft.machine import Absorbed, Machine, Process
from mpsafe.soft.module import Module
from mpsafe.soft.records import RecordRing

__all__ = ["UUID", "Kernel"]

PATIENCE_S = 60
UUID = bytes(range(16))


class Kernel:
    """The kernel's end of the device: a thread answers requests, and a test has the records in its hands."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ring = RecordRing(capacity=4)
        self.said: list[int] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(os.fspath(path))
        self._listener.listen()
        self._owners: list[socket.socket] = []
        self._accepted: queue.Queue[socket.socket] = queue.Queue()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def accept(self) -> socket.socket:
        """The daemon's connection; every record that is still there was sent at once."""
        return self._accepted.get(timeout=PATIENCE_S)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                owner, _ = self._listener.accept()
                self._owners.append(owner)
                for record in self.ring.since(1):
                    owner.send(record)
                self._accepted.put(owner)
                threading.Thread(target=self._answer, args=(owner,), daemon=True).start()

    def _answer(self, owner: socket.socket) -> None:
        module = Module(Machine([]), RecordRing(), driver="a test's", limit_s=PATIENCE_S, inject=None)
        module.open()
        with contextlib.suppress(OSError):
            while packet := owner.recv(4096):
                number, tag = struct.unpack_from("<II", packet)
                self.said.append(number)
                owner.send(struct.pack("<IIi", 0, tag, 0) + module.request(number, packet[8:]))

    def absorbed(self, pid: int) -> bytes:
        who = Process(number=pid, pid=pid, uid=1000, start_ticks=pid * 10, comm="python", role="cuda")
        fault = Absorbed(process=who, device=0, va=0x5000, access="read", detail="pde", new=True)
        self.ring.absorbed("absorb", fault, UUID, 1)
        return self.ring.since(self.ring.first)[-1]

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE_S)
        for sock in (*self._owners, self._listener):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
