# SPDX-License-Identifier: Apache-2.0
"""Behind io.mpsafe.Host."""

import asyncio
import os
from collections import Counter
from typing import Final

from asyncvarlink import FileDescriptor

from mpsafe import __version__
from mpsafe.errors import BadRequest, TooManyReports, UnknownClient
from mpsafe.model import Client, Device, Figures, SourceState, Tenant
from mpsafe.protocol.host import Attached, Description
from mpsafed.api.connection import CURRENT
from mpsafed.devices import Devices
from mpsafed.engine import Engine

__all__ = ["HostService"]

ATTACHMENTS_MAX: Final = 64
REPORTS_PER_SECOND: Final = 20
TEXT_MAX: Final = 256
# What the status page has room for; CUresult ends with CUDA_ERROR_UNKNOWN (cuda.h).
FIGURES_MAX: Final = {"queue": 2**32 - 1, "in_flight": 2**32 - 1, "latency_ns": 2**63 - 1, "resident_bytes": 2**63 - 1}
RESULT_MAX: Final = 999
FEATURES = [
    "events",
    "explain",
    "fence",
    "leases",
    "link",
    "mps",
    "report",
    "restart-server",
    "standby",
    "status-page",
    "store",
    "takeover",
    "vault",
]


class HostService:
    """Tells what the engine and NVML know."""

    def __init__(self, engine: Engine, devices: Devices, driver: str) -> None:
        self._engine = engine
        self._devices = devices
        self._driver = driver
        self._version = __version__
        self._reports: Counter[int] = Counter()
        self._second = 0

    async def describe(self) -> Description:
        """See HostInterface.Describe."""
        engine = self._engine
        await engine.inventory.refresh()
        return Description(
            version=self._version,
            pid=os.getpid(),
            epoch=engine.board.page.epoch,
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
        self._engine.board.wakes.add(wake)

        def forget() -> None:
            self._engine.board.wakes.discard(wake)
            os.close(wake)

        connection.at_end(forget)
        return Attached(
            epoch=self._engine.board.page.epoch,
            generation=generation,
            page=FileDescriptor(self._engine.board.page.fd),
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

    def report(self, figures: Figures, *, error: int | None, text: str) -> None:
        """See HostInterface.Report. About the peer's own process, and nobody else."""
        peer = CURRENT.get().peer
        if peer.identity is None or peer.identity not in self._engine.state.members:
            raise UnknownClient(peer.pid)
        _check_report(figures, error, text)
        self._count_report(peer.uid)
        self._engine.report(None if figures == Figures() else figures, error=error, text=text, peer=peer)

    def _count_report(self, uid: int) -> None:
        """Counted by uid within one second, so that nothing has to be kept of those who are silent."""
        if (second := int(asyncio.get_running_loop().time())) != self._second:
            self._second = second
            self._reports.clear()
        if self._reports[uid] >= REPORTS_PER_SECOND:
            raise TooManyReports(uid, REPORTS_PER_SECOND)
        self._reports[uid] += 1


def _check_report(figures: Figures, error: int | None, text: str) -> None:
    for name, most in FIGURES_MAX.items():
        value: int | None = getattr(figures, name)
        if value is not None and not 0 <= value <= most:
            raise BadRequest(name, f"0 to {most}", str(value))
    if error is not None and not 1 <= error <= RESULT_MAX:
        raise BadRequest("error", f"a CUresult that is no success, 1 to {RESULT_MAX}", str(error))
    if len(text) > TEXT_MAX or not text.isprintable():
        raise BadRequest("text", f"one line of at most {TEXT_MAX} printable characters", f"{len(text)} characters")
    if text and error is None:
        raise BadRequest("error", "the CUresult that the text is about", "none")


def _journal_state(engine: Engine) -> SourceState:
    trouble = engine.state.trouble
    return SourceState("state", not trouble, trouble or f"{engine.state.damaged} damaged lines were left out at start")
