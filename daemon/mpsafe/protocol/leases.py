# SPDX-License-Identifier: Apache-2.0
"""io.mpsafe.Leases: timed grants of device memory and of SM share, and the budget of a device's link.

A lease belongs to the process that acquired it and ends with that connection, with the process, or when it is not
renewed in time. It is a promise among those who ask: nothing that is allocated is ever taken from a living process.
Acquire first and allocate then: what a process uses when it acquires counts as its own, beside the lease, but for
what it says is `resident` in the lease already.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias, TypedDict

from asyncvarlink import FileDescriptor, VarlinkInterface, varlinkmethod

from mpsafe.errors import BadRequest, LeasePressed, NoRoom, NotPermitted, UnknownDevice, UnknownLease, UnknownTenant
from mpsafe.model import Identity
from mpsafe.protocol.replies import declared

__all__ = [
    "NAME",
    "TTL_MS_MAX",
    "TTL_MS_MIN",
    "Lease",
    "LeaseState",
    "LeaseWord",
    "Leases",
    "LeasesInterface",
    "LinkCell",
    "Resized",
    "Said",
    "Span",
]

NAME: Final = "io.mpsafe.Leases"
TTL_MS_MIN: Final = 500
TTL_MS_MAX: Final = 3_600_000

LeaseState: TypeAlias = Literal["waiting", "held", "pressed", "late"]
Said: TypeAlias = Literal["granted", "shrink", "late", "grow", "ended"]


@dataclass(frozen=True, slots=True)
class Span:
    """What somebody wants of one thing: never less than `floor`, rather `target`, never more than `ceiling`."""

    floor: int = 0
    target: int = 0
    ceiling: int = 0


@dataclass(frozen=True, slots=True)
class Lease:
    """One lease on the device of that UUID; memory in bytes, SM share in per cent.

    `waiting`: others were asked to make room for its floor. `held`: it has `granted_bytes`. `pressed`: it is asked to
    go down to `asked_bytes`. `late`: it was, and has not in time: nothing more is granted to it. `asked_bytes` is
    `granted_bytes` where nothing is asked. `version` grows with each change, also over all leases. Times are
    nanoseconds since the epoch of the clock.
    """

    id: int
    tenant: str
    device: str
    identity: Identity
    uid: int
    state: LeaseState
    memory: Span
    sm: Span
    granted_bytes: int
    asked_bytes: int
    sm_percent: int
    created_ns: int = 0
    expires_ns: int = 0
    version: int = 0


@dataclass(frozen=True, slots=True)
class LeaseWord:
    """One word to the holder of a lease.

    `granted`: it has `granted_bytes`, and nothing is asked of it. `shrink`: it is to free memory until it is down to
    `granted_bytes`, and to say so with Renew before `deadline_ns` (CLOCK_MONOTONIC). `late`: that time is over; the
    same is still asked, and nothing more is granted before. `grow`: it may use `granted_bytes` now. `ended`: it is no
    more, `detail` says why. What was told or answered with a greater `version` is newer.
    """

    lease: int
    word: Said
    granted_bytes: int
    deadline_ns: int
    version: int
    detail: str


@dataclass(frozen=True, slots=True)
class Resized:
    """`replacement_required`: the SM share stays as it was. A context has the share that it was made with: only
    another process, with a lease of its own, can have another one."""

    lease: Lease
    replacement_required: bool


class LinkCell(TypedDict):
    """A device's link page (mpsafe.link), and the cell of it that this connection's process alone writes."""

    page: FileDescriptor
    cell: int


class Leases(Protocol):
    """What the daemon implements."""

    async def acquire(
        self, tenant: str, device: str, memory: Span, sm: Span, *, resident_bytes: int, ttl_ms: int | None
    ) -> Lease: ...
    async def resize(self, lease: int, memory: Span | None, sm: Span | None) -> Resized: ...
    def renew(self, lease: int, granted_bytes: int | None) -> Lease: ...
    def release(self, lease: int) -> None: ...
    def overview(self) -> list[Lease]: ...
    def watch(self) -> AsyncIterator[LeaseWord]: ...
    async def link_quota(self, device: str, weight: int) -> LinkCell: ...


class LeasesInterface(VarlinkInterface, name=NAME):
    """Timed grants of device memory and of SM share."""

    errors = declared(NAME, NotPermitted, UnknownTenant, UnknownDevice, UnknownLease, NoRoom, LeasePressed, BadRequest)

    def __init__(self, leases: Leases) -> None:
        self._leases = leases

    @varlinkmethod(return_parameter="lease")
    async def Acquire(
        self,
        *,
        tenant: str,
        device: str,
        memory: Span | None = None,
        sm: Span | None = None,
        resident_bytes: int | None = None,
        ttl_ms: int | None = None,
    ) -> Lease:
        """A lease for the peer's process, which has attached for the tenant; at least its floors, or NoRoom.

        Where others hold the floor's memory above their own floors, they are asked for it, and this waits that long.
        """
        return await self._leases.acquire(
            tenant, device, memory or Span(), sm or Span(), resident_bytes=resident_bytes or 0, ttl_ms=ttl_ms
        )

    @varlinkmethod(return_parameter="resized")
    async def Resize(self, *, lease: int, memory: Span | None = None, sm: Span | None = None) -> Resized:
        """Other wishes for a lease of the peer's process; what is over the new ceiling it has freed before it asks."""
        return await self._leases.resize(lease, memory, sm)

    @varlinkmethod(return_parameter="lease")
    def Renew(self, *, lease: int, granted_bytes: int | None = None) -> Lease:
        """Holds a lease on; with `granted_bytes` the peer says that it has gone down to that, and stays there."""
        return self._leases.renew(lease, granted_bytes)

    @varlinkmethod
    def Release(self, *, lease: int) -> None:
        """Gives a lease back: by the peer's own process, or by an admin."""
        self._leases.release(lease)

    @varlinkmethod(return_parameter="leases")
    def List(self) -> list[Lease]:
        """The leases that the peer may see."""
        return self._leases.overview()

    @varlinkmethod(return_parameter="told", delay_generator=False)
    async def Watch(self) -> AsyncIterator[LeaseWord]:
        """What becomes of the leases of the peer's process; of each first where it stands, later words as they come.

        Of several words about one lease that were not read yet, the last one is told.
        """
        async for told in self._leases.watch():
            yield told

    @varlinkmethod
    async def LinkQuota(self, *, device: str, weight: int | None = None) -> LinkCell:
        """A cell of the device's link page, for as long as the connection: wants a process of a tenant's.

        `weight`, 1 to 1000, 100 by default, is its share among all cells that are in use.
        """
        return await self._leases.link_quota(device, 100 if weight is None else weight)
