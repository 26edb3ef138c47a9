# SPDX-License-Identifier: Apache-2.0
"""An MPS server's side of the software kernel: questions, and what happens by itself."""

import os
from pathlib import Path

from mpsafe.soft.parts import CudaError
from mpsafe.soft.sockets import PACKET_MAX, connect

__all__ = ["Rm"]

NO_DEVICE = 100


class Rm:
    """Two connections; on `events` come "dead ..." and "gone ..." (kernel.py, ffi/soft/wire.h).

    Without a software kernel in MPSAFE_SOFT_DIR: CUDA_ERROR_NO_DEVICE.
    """

    def __init__(self) -> None:
        path = Path(os.environ.get("MPSAFE_SOFT_DIR", "/nonexistent")) / "rm"
        try:
            self._questions = connect(path)
            self.events = connect(path)
        except OSError:
            raise CudaError(NO_DEVICE) from None
        self.devices = int(self._ask("hello mps").split("devices=")[1].split()[0])
        self.events.send(b"hello mps")
        self.events.recv(PACKET_MAX)
        self.events.send(b"watch")
        self.events.recv(PACKET_MAX)
        self.events.setblocking(False)

    def describe(self, device: int) -> dict[str, str]:
        """The keys of `device`: uuid, pci, total, used, sms, name."""
        words = self._ask(f"device {device}").split(" ")
        return {key: value.replace("_", " ") for key, _, value in (word.partition("=") for word in words)}

    def create_group(self) -> str:
        """A new channel group; it dies with this process."""
        return self._ask("group")

    def recreate(self, group: str) -> None:
        """Makes the group anew where it died; CudaError while a client is still there."""
        self._ask(f"recreate {group}")

    def terminate(self, group: str, pid: int) -> None:
        """Ends a client's work; CudaError if it has none."""
        self._ask(f"terminate {group} {pid}")

    def running(self, group: str, device: int) -> list[int]:
        """The group's processes on a device."""
        words = [word.split(":") for word in self._ask(f"processes {device}").split(" ")[1:]]
        return [int(pid) for pid, _, number, _ in words if number == group]

    def _ask(self, request: str) -> str:
        try:
            self._questions.send(request.encode())
            status, _, rest = self._questions.recv(PACKET_MAX).decode().partition(" ")
        except OSError:
            raise CudaError(NO_DEVICE) from None
        if status != "ok":
            raise CudaError(int(rest or NO_DEVICE))
        return rest
