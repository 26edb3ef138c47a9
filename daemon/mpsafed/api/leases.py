# SPDX-License-Identifier: Apache-2.0
"""Behind io.mpsafe.Leases: who may ask for what, and what ends with a connection."""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final

from asyncvarlink import FileDescriptor

from mpsafe.errors import BadRequest, NotPermitted, UnknownDevice, UnknownLease, UnknownTenant
from mpsafe.model import Identity
from mpsafe.protocol.leases import NAME, TTL_MS_MAX, TTL_MS_MIN, Lease, LeaseWord, LinkCell, Resized, Span
from mpsafed.api.connection import CURRENT, Connection
from mpsafed.devices import Devices
from mpsafed.leases.grants import Usage
from mpsafed.leases.leases import Leases
from mpsafed.leases.links import Links
from mpsafed.tenants import Tenants

__all__ = ["LeasesService", "usage_of"]

TEXT_MAX: Final = 96
BYTES_MAX: Final = 1 << 50
WEIGHT_MAX: Final = 1000


class LeasesService:
    """A process speaks for the tenant that it attached for. `watch` has the end of a process seen."""

    def __init__(
        self, leases: Leases, links: Links, devices: Devices, tenants: Tenants, watch: Callable[[Identity], None]
    ) -> None:
        self._leases = leases
        self._links = links
        self._devices = devices
        self._tenants = tenants
        self._watch = watch
        self._held: dict[Connection, set[int]] = {}
        self._cells: dict[Connection, dict[str, int]] = {}

    async def acquire(
        self, tenant: str, device: str, memory: Span, sm: Span, *, resident_bytes: int, ttl_ms: int | None
    ) -> Lease:
        """See LeasesInterface.Acquire."""
        process, connection = self._member("Acquire", tenant), CURRENT.get()
        _demand_span("memory", memory, BYTES_MAX)
        _demand_span("sm", sm, 100)
        if not memory.ceiling and not sm.ceiling:
            raise BadRequest("memory", "a ceiling over 0, of memory or of SM share", "neither")
        if not 0 <= resident_bytes <= BYTES_MAX:
            raise BadRequest("resident_bytes", f"0 to {BYTES_MAX}", str(resident_bytes))
        if ttl_ms is not None and not TTL_MS_MIN <= ttl_ms <= TTL_MS_MAX:
            raise BadRequest("ttl_ms", f"{TTL_MS_MIN} to {TTL_MS_MAX}", str(ttl_ms))
        self._watch(process)
        wanted = Lease(0, tenant, device, process, connection.peer.uid, "held", memory, sm, 0, 0, 0)
        ttl_s = None if ttl_ms is None else ttl_ms / 1000
        lease = await self._leases.acquire(wanted, resident_bytes=resident_bytes, ttl_s=ttl_s)
        if connection not in self._held:
            self._held[connection] = set()
            connection.at_end(lambda: self._hung_up(connection))
        self._held[connection].add(lease.id)
        return lease

    async def resize(self, lease: int, memory: Span | None, sm: Span | None) -> Resized:
        """See LeasesInterface.Resize."""
        found = self._own(lease)
        if memory is not None:
            _demand_span("memory", memory, BYTES_MAX)
            found = await self._leases.resize(lease, memory)
        if sm is not None:
            _demand_span("sm", sm, 100)
        return Resized(found, sm is not None and sm != found.sm)

    def renew(self, lease: int, granted_bytes: int | None) -> Lease:
        """See LeasesInterface.Renew."""
        self._own(lease)
        return self._leases.renew(lease, granted_bytes)

    def release(self, lease: int) -> None:
        """See LeasesInterface.Release."""
        if not CURRENT.get().peer.admin:
            self._own(lease)
        self._leases.release(lease)
        for held in self._held.values():
            held.discard(lease)

    def overview(self) -> list[Lease]:
        """See LeasesInterface.List. Other users' leases are shown to admins only."""
        peer = CURRENT.get().peer
        return [lease for lease in self._leases.overview() if peer.may_see(lease.uid)]

    async def watch(self) -> AsyncIterator[LeaseWord]:
        """See LeasesInterface.Watch."""
        peer = CURRENT.get().peer
        if peer.identity is None or self._tenants.of(peer.identity) is None:
            raise NotPermitted(f"{NAME}.Watch", "process of a tenant", peer.uid)
        async for word in self._leases.words(peer.identity):
            yield word

    async def link_quota(self, device: str, weight: int) -> LinkCell:
        """See LeasesInterface.LinkQuota. A connection has one cell of a device."""
        connection = CURRENT.get()
        process = connection.peer.identity
        if process is None or self._tenants.of(process) is None:
            raise NotPermitted(f"{NAME}.LinkQuota", "process of a tenant", connection.peer.uid)
        if not 1 <= weight <= WEIGHT_MAX:
            raise BadRequest("weight", f"1 to {WEIGHT_MAX}", str(weight))
        if device not in {one.uuid for one in await self._devices.list()}:
            raise UnknownDevice(device[:TEXT_MAX], "NVML lists no such device")
        if connection not in self._cells:
            self._cells[connection] = {}
            connection.at_end(lambda: self._give_back(connection))
        cells = self._cells[connection]
        if device not in cells:
            _, cells[device] = self._links.take(device, process, weight)
        return LinkCell(page=FileDescriptor(self._links.fd_of(device)), cell=cells[device])

    def ended(self, process: Identity) -> None:
        """A process has ended; its connections may live on in others that inherited them."""
        self._leases.ended(process)
        for connection in [one for one in self._cells if one.peer.identity == process]:
            self._free_cells(connection)

    def _hung_up(self, connection: Connection) -> None:
        for number in self._held.pop(connection):
            try:
                self._leases.release(number, "its connection has ended")
            except UnknownLease:
                continue

    def _give_back(self, connection: Connection) -> None:
        self._free_cells(connection)
        del self._cells[connection]

    def _free_cells(self, connection: Connection) -> None:
        cells = self._cells[connection]
        for device, cell in cells.items():
            self._links.give_back(device, cell)
        cells.clear()

    def _member(self, method: str, tenant: str) -> Identity:
        """The peer's process, which has attached for the tenant. NotPermitted."""
        peer = CURRENT.get().peer
        if tenant not in self._tenants:
            raise UnknownTenant(tenant[:TEXT_MAX])
        if peer.identity is None or self._tenants.of(peer.identity) != tenant:
            raise NotPermitted(f"{NAME}.{method}", f"process of tenant {tenant[:TEXT_MAX]}", peer.uid)
        return peer.identity

    def _own(self, number: int) -> Lease:
        """A lease of the peer's own process. UnknownLease."""
        lease = self._leases.known(number)
        if lease.identity != CURRENT.get().peer.identity:
            raise UnknownLease(number)
        return lease


async def usage_of(devices: Devices) -> Mapping[str, Usage] | None:
    """What NVML says of all devices; None where it does not answer."""
    seen = await devices.usage()
    if seen is None:
        return None
    listed, processes = seen
    return {
        device.uuid: Usage(
            device.memory_total_bytes,
            device.memory_used_bytes,
            {one.pid: one.used_bytes for one in processes if one.uuid == device.uuid},
        )
        for device in listed
    }


def _demand_span(name: str, span: Span, most: int) -> None:
    if not 0 <= span.floor <= span.target <= span.ceiling <= most:
        got = f"{span.floor}, {span.target}, {span.ceiling}"
        raise BadRequest(name, f"floor, target and ceiling in this order, from 0 to {most}", got)
