# SPDX-License-Identifier: Apache-2.0
"""What the daemon believes of the host at one moment: what `fuse` and `policy` may look at."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mpsafe.model import Client, Identity, Server

__all__ = ["Snapshot"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Clients by identity, servers by pid, device UUIDs by PCI address (`0000:01:00`).

    `standbys` has the tenants that somebody waits for, and who holds each one's epoch; `members` which tenant a process
    attached for. `boot_ns` is when the clock of start times was 0, CLOCK_REALTIME in nanoseconds, and `tick_ns` its
    unit: a process cannot have caused what happened before it was there.
    """

    clients: Mapping[Identity, Client] = field(default_factory=lambda: dict[Identity, Client]())
    servers: Mapping[int, Server] = field(default_factory=lambda: dict[int, Server]())
    devices: Mapping[str, str] = field(default_factory=lambda: dict[str, str]())
    standbys: Mapping[str, Identity | None] = field(default_factory=lambda: dict[str, Identity | None]())
    members: Mapping[Identity, str] = field(default_factory=lambda: dict[Identity, str]())
    boot_ns: int = 0
    tick_ns: int = 10_000_000

    def client_of(self, pid: int) -> Client | None:
        """The connected client with that pid, if there is exactly one."""
        found: Client | None = None
        for identity in self.clients:
            if identity.pid == pid:
                if found is not None:
                    return None
                found = self.clients[identity]
        return found

    def tenant_of(self, client: Identity) -> str | None:
        """The tenant that a process attached for."""
        known = self.clients.get(client)
        return self.members.get(client) or (known.tenant if known is not None else None)

    def started_ns(self, client: Identity) -> int:
        """When a process had started at the latest."""
        return self.boot_ns + (client.start_ticks + 1) * self.tick_ns

    def clients_of(self, server: int) -> list[Client]:
        """The clients of one server that have not ended, by identity."""
        found = (c for c in self.clients.values() if c.server == server and c.state != "gone")
        return sorted(found, key=lambda c: c.identity)
