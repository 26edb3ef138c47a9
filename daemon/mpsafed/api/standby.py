# SPDX-License-Identifier: Apache-2.0
"""Behind io.mpsafe.Standby: who may wait for which tenant."""

from collections.abc import AsyncIterator

from mpsafe.errors import BadRequest, NotPermitted, UnknownTenant
from mpsafe.model import Standby
from mpsafe.protocol.standby import NAME, Awaited
from mpsafed.api.connection import CURRENT
from mpsafed.engine import Engine
from mpsafed.sources import now_ns
from mpsafed.state import Line
from mpsafed.tenants import Tenants

__all__ = ["StandbyService"]

RESIDENT_MAX = 2**63 - 1


class StandbyService:
    """A standby is a process that has attached for its tenant, outside the MPS server of the process that serves it."""

    def __init__(self, engine: Engine, tenants: Tenants) -> None:
        self._engine = engine
        self._tenants = tenants

    async def wait(self, tenant: str, resident_bytes: int) -> AsyncIterator[Awaited]:
        """See StandbyInterface.Await."""
        peer = CURRENT.get().peer
        if peer.identity is None or self._tenants.of(peer.identity) != tenant:
            raise NotPermitted(f"{NAME}.Await", f"process of tenant {tenant[:64]}", peer.uid)
        if not 0 <= resident_bytes <= RESIDENT_MAX:
            raise BadRequest("resident_bytes", f"0 to {RESIDENT_MAX}", str(resident_bytes))
        takeovers = self._engine.takeovers
        await self._engine.inventory.refresh()
        clients = self._engine.inventory.clients
        client = clients.get(peer.identity)
        holder = takeovers.epochs.holder_of(tenant)
        # Who holds the epoch itself was promoted by a daemon before this one, and asks what became of that.
        served = clients.get(holder) if holder not in (None, peer.identity) else None
        # Whom a daemon before this one has let wait comes back, also where the process that serves has ended meanwhile.
        unknown = holder is None and peer.identity not in takeovers.standbys.away(tenant)
        beside = unknown or (served is not None and client is not None and served.server == client.server)
        if client is not None and client.state != "gone" and beside:
            outside = f"a process outside MPS server {client.server}, with no CUDA_MPS_PIPE_DIRECTORY of its"
            raise BadRequest("tenant", outside, f"a client of it ({peer.pid})")
        standby = Standby(tenant, peer.identity, peer.uid, "warm", now_ns(), resident_bytes)
        waiting = takeovers.standbys.register(standby)
        if takeovers.epochs.holder_of(tenant) == peer.identity and not self._is_taken_over(tenant):
            waiting.tell("granted", takeovers.epochs.number_of(tenant), 0, "it holds the epoch already")
        takeovers.registered(peer.identity)
        if self._engine.state.standbys.get(peer.identity) != tenant:
            self._engine.state.append(Line(standby=(peer.identity, tenant)))
            self._engine.ends.watch(peer.identity)
        self._engine.board.refresh()
        try:
            if waiting.standby.phase == "warm":
                self._engine.standby_came(tenant)
                yield Awaited("warm", takeovers.epochs.number_of(tenant), 0, "")
            async for word in waiting.words():
                yield word
        finally:
            takeovers.standbys.unregister(waiting)
            self._engine.board.refresh()

    def _is_taken_over(self, tenant: str) -> bool:
        """Whether a takeover goes on, which has words of its own for the process that holds the epoch."""
        open_events = [event for event in self._engine.state.recent() if event.phase == "open"]
        return any(one.tenant == tenant for event in open_events for one in event.takeovers)

    def progress(self, event: int, *, received_ns: int | None, serving_ns: int | None) -> None:
        """See StandbyInterface.Progress. About the peer's own takeover, and no other."""
        peer = CURRENT.get().peer
        known = self._engine.state.known(event)
        if peer.identity is None or known is None or all(one.standby != peer.identity for one in known.takeovers):
            raise BadRequest("event", "one in which the peer was promoted", str(event))
        now = now_ns()
        for name, told in (("received_ns", received_ns), ("serving_ns", serving_ns)):
            if told is not None and not 0 < told <= now:
                raise BadRequest(name, "a time that is not yet to come, in nanoseconds since the epoch", str(told))
        self._engine.takeovers.progress(event, standby=peer.identity, received_ns=received_ns, serving_ns=serving_ns)

    def standbys(self) -> list[Standby]:
        """See StandbyInterface.List. Other users' standbys are shown to admins only."""
        peer = CURRENT.get().peer
        return [one for one in self._engine.takeovers.standbys.overview() if peer.may_see(one.uid)]

    def promote(self, tenant: str) -> int:
        """See StandbyInterface.Promote."""
        if tenant not in self._tenants:
            raise UnknownTenant(tenant[:64])
        return self._engine.promote_by_hand(tenant, CURRENT.get().peer)
