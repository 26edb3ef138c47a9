# SPDX-License-Identifier: Apache-2.0
"""What the software device is made of, and what can happen to it."""

from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

__all__ = [
    "SINK_BYTES",
    "Absorbed",
    "Channel",
    "CudaError",
    "Device",
    "Effect",
    "Fatal",
    "Gone",
    "Group",
    "Mode",
    "Process",
]

Mode: TypeAlias = Literal["off", "observe", "absorb"]

SINK_BYTES: Final = 64 << 10


class CudaError(Exception):
    """A request ends with this CUresult."""

    def __init__(self, result: int) -> None:
        super().__init__(result)
        self.result = result


@dataclass(frozen=True, slots=True)
class Device:
    """One software device. `total_bytes` bounds what may be allocated; host memory is used lazily."""

    index: int
    uuid: str
    pci: str
    name: str
    total_bytes: int
    sms: int


@dataclass(eq=False, slots=True)
class Process:
    """One connected process. `error` is the sticky CUresult that its notifier shows."""

    number: int
    pid: int
    uid: int
    start_ticks: int
    comm: str
    role: str
    error: int = 0
    doomed: bool = False
    faults: int = 0
    sinks: set[int] = field(default_factory=lambda: set[int]())
    group: "Group | None" = None


@dataclass(eq=False, slots=True)
class Group:
    """A channel group (TSG) on each device: private to one process, or shared by one MPS server's clients."""

    number: int
    owner: Process
    shared: bool
    dead_on: set[int] = field(default_factory=lambda: set[int]())


@dataclass(eq=False, slots=True)
class Channel:
    """One context's way to one device."""

    number: int
    process: Process
    device: int
    group: Group


@dataclass(frozen=True, slots=True)
class Absorbed:
    """A sink took the access. `new` is false where an earlier sink covers the address already."""

    process: Process
    device: int
    va: int
    access: str
    detail: str
    new: bool


@dataclass(frozen=True, slots=True)
class Fatal:
    """A channel group died on `devices`. `victims` found the error just now, the guilty process included.

    Without victims nothing has died: the process had its error before.
    """

    process: Process
    channel: int
    device: int
    group: int
    fault_class: str
    detail: str
    va: int
    access: str
    victims: tuple[Process, ...]
    devices: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Gone:
    """A process let go of a shared group: it exited, closed its contexts or was terminated."""

    process: Process
    group: int


Effect: TypeAlias = Absorbed | Fatal | Gone
