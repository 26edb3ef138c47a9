# SPDX-License-Identifier: Apache-2.0
"""Which process belongs to which tenant, and how each tenant is."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from mpsafe.errors import NotPermitted, UnknownTenant
from mpsafe.model import Client, Event, Identity, Server, Tenant, TenantHealth
from mpsafed.config import TenantConfig
from mpsafed.peer import Peer
from mpsafed.reports import Reports
from mpsafed.state import Line, Member, State

__all__ = ["Tenants"]


class Tenants:
    """Membership is remembered over restarts of the daemon; it ends with the process."""

    def __init__(self, configured: Iterable[TenantConfig], state: State) -> None:
        self.reports = Reports()
        self._configured = {tenant.name: tenant for tenant in configured}
        self._state = state

    def __contains__(self, name: str) -> bool:
        return name in self._configured

    def of(self, identity: Identity) -> str | None:
        """The tenant that a process attached for."""
        member = self._state.members.get(identity)
        return member.tenant if member is not None else None

    def members(self) -> dict[Identity, str]:
        """Every process that attached for a tenant."""
        return {identity: member.tenant for identity, member in self._state.members.items()}

    def admit(self, name: str, peer: Peer) -> int:
        """Makes the peer's process one of the tenant's; returns the tenant's generation."""
        tenant = self._configured.get(name)
        if tenant is None:
            raise UnknownTenant(name)
        if tenant.uid is not None and peer.uid != tenant.uid and not peer.admin:
            raise NotPermitted("io.mpsafe.Host.Attach", f"tenant {name} (uid {tenant.uid})", peer.uid)
        generation = self._state.generations.get(name, 0)
        if peer.identity is None:
            return generation
        if (member := self._state.members.get(peer.identity)) is not None and member.tenant == name:
            return member.generation
        member = Member(name, peer.identity, generation + 1)
        self._state.append(Line(member=member))
        return member.generation

    def cgroup_of(self, client: Identity) -> Path | None:
        """The cgroup that is said to be its tenant's alone.

        Membership ends with the process, and those frozen with it are still to be thawed: its fault names the tenant.
        """
        name = self.of(client)
        if name is None:
            blames = (event.blame for event in self._state.recent() if event.phase == "open")
            name = next((blame.tenant for blame in blames if blame.client == client), None)
        tenant = self._configured.get(name or "")
        return Path(tenant.cgroup) if tenant is not None and tenant.cgroup is not None else None

    def overview(
        self, clients: Mapping[Identity, Client], servers: Mapping[int, Server], fenced: set[Identity]
    ) -> list[Tenant]:
        """All tenants of the configuration, in its order."""
        return [self._tenant(tenant, clients, servers, fenced) for tenant in self._configured.values()]

    def _tenant(
        self,
        tenant: TenantConfig,
        clients: Mapping[Identity, Client],
        servers: Mapping[int, Server],
        fenced: set[Identity],
    ) -> Tenant:
        members = sorted(i for i, member in self._state.members.items() if member.tenant == tenant.name)
        health: TenantHealth = "healthy" if members else "absent"
        for identity in members:
            client = clients.get(identity)
            server = servers.get(client.server) if client is not None else None
            if identity in fenced:
                health = "fenced"
            elif server is not None and server.state == "fault" and health != "fenced":
                health = "lost"
        generation = self._state.generations.get(tenant.name, 0)
        return Tenant(tenant.name, tenant.uid, health, generation, members, self.reports.of(members))


def being_fenced(events: Iterable[Event]) -> set[Identity]:
    """The clients whose fence has begun and whose process has not been told gone."""
    return {
        action.target
        for event in events
        if event.phase == "open"
        for action in event.actions
        if action.kind == "fence" and action.target is not None
    }
