# SPDX-License-Identifier: Apache-2.0
"""Behind io.mpsafe.Host."""

import os
from importlib.metadata import version
from typing import Final

from asyncvarlink import FileDescriptor

from mpsafe.errors import BadRequest
from mpsafe.model import Client, Device, SourceState, Tenant
from mpsafe.protocol.host import Attached, Description
from mpsafed.api.connection import CURRENT
from mpsafed.devices import Devices
from mpsafed.engine import Engine

__all__ = ["HostService"]

ATTACHMENTS_MAX: Final = 64
FEATURES = ["events", "fence", "restart-server", "status-page"]


class HostService:
    """Tells what the engine and NVML know."""

    def __init__(self, engine: Engine, devices: Devices, driver: str) -> None:
        self._engine = engine
        self._devices = devices
        self._driver = driver
        self._version = version("mpsafe")

    async def describe(self) -> Description:
        """See HostInterface.Describe."""
        engine = self._engine
        await engine.inventory.refresh()
        return Description(
            version=self._version,
            pid=os.getpid(),
            epoch=engine.page.epoch,
            features=FEATURES,
            acting=engine.policy.act,
            driver=self._driver,
            servers=sorted(engine.inventory.servers.values(), key=lambda server: server.pid),
            trouble=engine.inventory.trouble,
            sources=[*engine.sources.values(), self._devices.state, _journal_state(engine)],
            last_event=engine.state.next_seq - 1,
            lost_signals=engine.lost_signals,
        )

    def attach(self, tenant: str | None) -> Attached:
        """See HostInterface.Attach."""
        connection = CURRENT.get()
        if connection.attachments >= ATTACHMENTS_MAX:
            raise BadRequest("tenant", f"at most {ATTACHMENTS_MAX} attachments of one connection", "one more")
        connection.attachments += 1
        generation = 0
        if tenant is not None:
            generation = self._engine.attach(tenant, connection.peer)
        wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._engine.wakes.add(wake)

        def forget() -> None:
            self._engine.wakes.discard(wake)
            os.close(wake)

        connection.at_end(forget)
        return Attached(
            epoch=self._engine.page.epoch,
            generation=generation,
            page=FileDescriptor(self._engine.page.fd),
            wake=FileDescriptor(wake),
        )

    async def devices(self) -> list[Device]:
        """See HostInterface.ListDevices."""
        return await self._devices.list()

    async def clients(self) -> list[Client]:
        """See HostInterface.ListClients."""
        peer = CURRENT.get().peer
        await self._engine.inventory.refresh()
        clients = [c for c in self._engine.inventory.clients.values() if c.state != "gone"]
        known = sorted(clients, key=lambda client: client.identity)
        return [client for client in known if peer.may_see(client.uid)]

    def tenants(self) -> list[Tenant]:
        """See HostInterface.ListTenants."""
        return self._engine.tenants()


def _journal_state(engine: Engine) -> SourceState:
    trouble = engine.state.trouble
    return SourceState("state", not trouble, trouble or f"{engine.state.damaged} damaged lines were left out at start")
