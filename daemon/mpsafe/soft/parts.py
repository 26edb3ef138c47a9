# SPDX-License-Identifier: Apache-2.0
"""What the software device is made of, and what can happen to it."""

from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

__all__ = [
    "PLACES",
    "SINK_BYTES",
    "Absorbed",
    "Channel",
    "ClientMode",
    "CudaError",
    "Device",
    "Effect",
    "Fatal",
    "Gone",
    "Group",
    "Mode",
    "Place",
    "Process",
    "SinkPolicy",
]

Mode: TypeAlias = Literal["off", "observe", "absorb"]

ClientMode: TypeAlias = Literal["off", "observe", "absorb", "inherit"]
Place: TypeAlias = Literal["wild", "hole", "external"]

SINK_BYTES: Final = (64 << 10, 2 << 20, 512 << 20)
PLACES: Final[dict[str, Place]] = {"pde": "wild", "pte": "hole", "ro": "external"}


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


@dataclass(frozen=True, slots=True)
class SinkPolicy:
    """`struct mpsafe_policy` of ffi/mpsafe_uapi.h. A budget and a hold mean nothing here: nothing waits."""

    mode: Mode = "off"
    places: frozenset[Place] = frozenset(PLACES.values())
    units: int = 0b110
    sinks_max: int = 1024
    budget_us: int = 2_000_000
    grow_after: tuple[int, int] = (8, 64)
    hold_ms: int = 2000
    kill_ms: int = 0


@dataclass(eq=False, slots=True)
class Process:
    """One connected process. `error` is the sticky CUresult that its notifier shows.

    `sinks` are (base, bytes). Times are CLOCK_MONOTONIC in nanoseconds, 0 where there is none yet.
    """

    number: int
    pid: int
    uid: int
    start_ticks: int
    comm: str
    role: str
    error: int = 0
    doomed: bool = False
    faults: int = 0
    sinks: set[tuple[int, int]] = field(default_factory=lambda: set[tuple[int, int]]())
    mode: ClientMode = "inherit"
    created_ns: int = 0
    doomed_ns: int = 0
    kill_ns: int = 0
    released: bool = False
    refused: int = 0
    spent_ns: int = 0
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
    """A sink, (base, bytes), took the access. `new` is false where an earlier sink covers the address already."""

    process: Process
    device: int
    va: int
    access: str
    detail: str
    new: bool
    sink: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Fatal:
    """A channel group died on `devices`. `victims` found the error just now, the guilty process included.

    Without victims nothing has died: the process had its error before. `status` says why it was not absorbed.
    `newest` is the channel that the device's log names: of an MPS server's clients it is the one made last.
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
    status: int = 0
    newest: Channel | None = None


@dataclass(frozen=True, slots=True)
class Gone:
    """A process let go of a shared group: it exited, closed its contexts or was terminated."""

    process: Process
    group: int


Effect: TypeAlias = Absorbed | Fatal | Gone
