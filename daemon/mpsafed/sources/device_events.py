# SPDX-License-Identifier: Apache-2.0
"""Devices that come, go or change hands, as the kernel tells of them (uevents, through libudev).

The kernel's own events are enough: whether a udev daemon runs does not matter. libudev takes them from
the kernel only.
"""

import asyncio
import errno
from collections.abc import Callable, Mapping
from typing import Final

import pyudev

from mpsafe.errors import SourceLost
from mpsafed.signals import Cursor, DeviceChanged, SignalsLost
from mpsafed.sources import Emit, now_ns, readable

__all__ = ["DeviceEvents", "is_nvidia_gpu"]

READ_MAX: Final = 64
ACTIONS: Final = frozenset({"add", "remove", "bind", "unbind"})

_NVIDIA: Final = "10DE:"
_DISPLAY: Final = range(0x030000, 0x040000)


def is_nvidia_gpu(properties: Mapping[str, str]) -> bool:
    """Whether the device of an event is a GPU of NVIDIA's, with whatever driver: another one may take it."""
    try:
        kind = int(properties.get("PCI_CLASS", ""), 16)
    except ValueError:
        return False
    return kind in _DISPLAY and properties.get("PCI_ID", "").upper().startswith(_NVIDIA)


class DeviceEvents:
    """Emits DeviceChanged for each device of `subsystem` whose properties `matches` takes."""

    name = "device-events"

    def __init__(self, *, subsystem: str = "pci", matches: Callable[[Mapping[str, str]], bool] = is_nvidia_gpu) -> None:
        self._subsystem = subsystem
        self._matches = matches

    @property
    def cursor(self) -> Cursor:
        """Always the same: what happens while nobody listens is not kept."""
        return Cursor(self.name, "now", 0)

    async def run(self, emit: Emit, alive: Callable[[str], None]) -> None:
        """Listens for ever. Raises SourceLost where libudev is missing, OSError where the kernel will not tell."""
        try:
            context = pyudev.Context()
        except ImportError as error:
            raise SourceLost(self.name, f"libudev cannot be opened: {error}") from error
        monitor = pyudev.Monitor.from_netlink(context, "kernel")
        monitor.filter_by(self._subsystem)
        monitor.start()
        alive(f"{self._subsystem} devices")
        while True:
            await readable(monitor.fileno())
            while self._read(monitor, emit):
                await asyncio.sleep(0)

    def _read(self, monitor: pyudev.Monitor, emit: Emit) -> bool:
        """Reads what is there, READ_MAX events at most; says whether there may be more."""
        for _ in range(READ_MAX):
            try:
                device = monitor.poll(0)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                emit(SignalsLost(time_ns=now_ns(), source=self.name, count=1))
                continue
            if device is None:
                return False
            properties = device.properties
            if device.action in ACTIONS and self._matches(properties):
                pci = device.sys_name.rpartition(".")[0] or device.sys_name
                driver = properties.get("DRIVER", "")
                emit(DeviceChanged(time_ns=now_ns(), pci=pci, action=device.action, driver=driver))
        return True
