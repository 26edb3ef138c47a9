# SPDX-License-Identifier: Apache-2.0
"""io.mpsafe.Host: what this host has and how it is."""

from dataclasses import dataclass
from typing import Final, Protocol, TypedDict

from asyncvarlink import FileDescriptor, VarlinkInterface, varlinkmethod

from mpsafe.errors import BadRequest, NotPermitted, TooManyReports, UnknownClient, UnknownTenant
from mpsafe.model import Client, Device, Figures, Server, SourceState, Tenant
from mpsafe.protocol.replies import declared

__all__ = ["NAME", "Attached", "Description", "Host", "HostInterface"]

NAME: Final = "io.mpsafe.Host"


@dataclass(frozen=True, slots=True)
class Description:
    """The daemon and what it sees. `features` are names that later versions add to, never change.

    `trouble` is empty, or says why the MPS control program gives no list. `last_event` is the `seq`
    of the newest entry of the event stream.
    """

    version: str
    pid: int
    epoch: int
    features: list[str]
    acting: bool
    driver: str
    servers: list[Server]
    trouble: str
    sources: list[SourceState]
    last_event: int
    lost_signals: int


class Attached(TypedDict):
    """The status page (mpsafe.status) and an eventfd that is written whenever the page changed."""

    epoch: int
    generation: int
    page: FileDescriptor
    wake: FileDescriptor


class Host(Protocol):
    """What the daemon implements."""

    async def describe(self) -> Description: ...
    def attach(self, tenant: str | None) -> Attached: ...
    async def devices(self) -> list[Device]: ...
    async def clients(self) -> list[Client]: ...
    def tenants(self) -> list[Tenant]: ...
    def report(self, figures: Figures, *, error: int | None, text: str) -> None: ...


class HostInterface(VarlinkInterface, name=NAME):
    """What this host has and how it is."""

    errors = declared(NAME, NotPermitted, UnknownTenant, UnknownClient, TooManyReports, BadRequest)

    def __init__(self, host: Host) -> None:
        self._host = host

    @varlinkmethod(return_parameter="host")
    async def Describe(self) -> Description:
        """The daemon's version and features, the MPS servers, and what each source sees."""
        return await self._host.describe()

    @varlinkmethod
    def Attach(self, *, tenant: str | None = None) -> Attached:
        """The status page and a wake-up; with `tenant` the peer's process becomes one of that tenant's."""
        return self._host.attach(tenant)

    @varlinkmethod(return_parameter="devices")
    async def ListDevices(self) -> list[Device]:
        """The devices as NVML describes them."""
        return await self._host.devices()

    @varlinkmethod(return_parameter="clients")
    async def ListClients(self) -> list[Client]:
        """The clients of the MPS servers; other users' clients are shown to admins only."""
        return await self._host.clients()

    @varlinkmethod(return_parameter="tenants")
    def ListTenants(self) -> list[Tenant]:
        """The tenants of the configuration and how they are."""
        return self._host.tenants()

    @varlinkmethod
    def Report(
        self,
        *,
        queue: int | None = None,
        in_flight: int | None = None,
        latency_ns: int | None = None,
        resident_bytes: int | None = None,
        error: int | None = None,
        text: str | None = None,
    ) -> None:
        """What the peer's process says of itself, once it has attached for a tenant; all of it may be left out.

        The figures are shown on the status page. `error` is the CUresult that its calls return since its
        context was lost, and `text` one line about it.
        """
        self._host.report(Figures(queue, in_flight, latency_ns, resident_bytes), error=error, text=text or "")
