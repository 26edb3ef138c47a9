# SPDX-License-Identifier: Apache-2.0
"""What the daemon believes of the host at one moment: what `fuse` and `policy` may look at."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mpsafe.model import Client, Identity, Server

__all__ = ["Snapshot"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Clients by identity, servers by pid, device UUIDs by PCI address (`0000:01:00`)."""

    clients: Mapping[Identity, Client] = field(default_factory=lambda: dict[Identity, Client]())
    servers: Mapping[int, Server] = field(default_factory=lambda: dict[int, Server]())
    devices: Mapping[str, str] = field(default_factory=lambda: dict[str, str]())

    def client_of(self, pid: int) -> Client | None:
        """The connected client with that pid, if there is exactly one."""
        found = [client for identity, client in self.clients.items() if identity.pid == pid]
        return found[0] if len(found) == 1 else None

    def clients_of(self, server: int) -> list[Client]:
        """The clients of one server that have not ended, by identity."""
        found = (c for c in self.clients.values() if c.server == server and c.state != "gone")
        return sorted(found, key=lambda c: c.identity)
