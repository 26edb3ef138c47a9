# SPDX-License-Identifier: Apache-2.0
"""The patched driver's device, ffi/mpsafe_uapi.h: records by read(), a policy, clients, a dead-man switch."""

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from mpsafe.model import Identity

__all__ = [
    "ClientMode",
    "ClientState",
    "Description",
    "Driver",
    "DriverClient",
    "Mode",
    "Place",
    "Policy",
    "Stats",
    "Unit",
]

Mode: TypeAlias = Literal["off", "observe", "absorb"]
ClientMode: TypeAlias = Literal["off", "observe", "absorb", "inherit"]
ClientState: TypeAlias = Literal["live", "doomed", "released", "unknown"]
Place: TypeAlias = Literal["unknown", "wild", "hole", "external", "managed", "channel"]
Unit: TypeAlias = Literal["unknown", "sm", "copy"]


@dataclass(frozen=True, slots=True)
class Description:
    """What the module says of itself: HELLO. `ring` is in records, `loaded_ns` CLOCK_BOOTTIME.

    `driver` is the version of the driver that is patched, "none" where there is none behind it.
    """

    abi: int
    load: int
    loaded_ns: int
    features: tuple[str, ...]
    ring: int
    record_bytes: int
    driver: str


@dataclass(frozen=True, slots=True)
class Policy:
    """What the driver is to do with memory faults: POLICY_SET and POLICY_GET.

    `sinks_max` and `budget_us` bound one client. With `grow_after[0]` sinks the next covers 2 MiB, with
    `grow_after[1]` 512 MiB. `hold_ms`: how long a doomed client's page directory waits for a release;
    `kill_ms`: SIGKILL by the kernel so long after the fault, 0 never. `in_force` is read, never set.
    """

    mode: Mode = "off"
    places: frozenset[Place] = frozenset({"wild", "hole", "external"})
    units: frozenset[Unit] = frozenset({"sm", "copy"})
    sinks_max: int = 1024
    budget_us: int = 2_000_000
    grow_after: tuple[int, int] = (8, 64)
    hold_ms: int = 2000
    kill_ms: int = 0
    in_force: Mode = "off"


@dataclass(frozen=True, slots=True)
class DriverClient:
    """One address space of the driver. Times are CLOCK_MONOTONIC in nanoseconds, 0 where there is none yet.

    `number` is never used twice within one load. `faults` are absorbed and passed, `refused` new ranges.
    """

    number: int
    identity: Identity
    uid: int
    name: str
    state: ClientState
    mode: ClientMode
    created_ns: int
    doomed_ns: int
    kill_ns: int
    faults: int
    sinks: int
    sink_bytes: int
    spent_ns: int
    refused: int


@dataclass(frozen=True, slots=True)
class Stats:
    """What the module has counted since it was loaded; `clients`, `doomed` and `sinks` are those of now."""

    absorbed: int
    passed: int
    orphans: int
    refused: int
    killed: int
    records: int
    lost: int
    expired: int
    latency_max_ns: int
    clients: int
    doomed: int
    sinks: int


class Driver(Protocol):
    """One opened device. Closing it returns new faults to stock behaviour, unless the fd store holds it as well.

    A request that is refused raises OSError with the errno that the contract names.
    """

    def fileno(self) -> int:
        """Readable when a record is there that no request has met on its way: read() after each request."""
        ...

    def read(self) -> list[bytes]:
        """The records that are there, oldest first; none if there is none. OSError if the device is gone."""
        ...

    def rewind(self) -> None:
        """Goes back to the oldest record that is still there."""
        ...

    def describe(self) -> Description:
        """What the module says of itself."""
        ...

    def policy(self) -> Policy:
        """The policy that was set, and in `in_force` the mode that is in force now."""
        ...

    def set_policy(self, policy: Policy) -> None:
        """Replaces all of it; counts as a heartbeat."""
        ...

    def heartbeat(self) -> None:
        """The owner lives. Due every MPSAFE_HEARTBEAT_MS at the latest."""
        ...

    def clients(self) -> list[DriverClient]:
        """All clients, by number."""
        ...

    def set_client_mode(self, number: int, mode: ClientMode) -> None:
        """A mode of its own for one client: it is absorbed only if both say so."""
        ...

    def stats(self) -> Stats:
        """What was counted."""
        ...

    def release(self, number: int) -> None:
        """A doomed client's work is proven stopped."""
        ...

    def extend(self, number: int, ms: int) -> None:
        """Puts the kernel's own kill and the hold of a doomed client off until `ms` from now."""
        ...

    def kill(self, number: int) -> None:
        """SIGKILL to a doomed client's process, whoever has its pid by then."""
        ...

    def inject(self, number: int, address: int, *, access: str, fault: str, unit: Unit, place: Place) -> int:
        """A fault as if the hardware had reported it; its status, 0 if it was absorbed."""
        ...

    def close(self) -> None:
        """Lets the device go."""
        ...
