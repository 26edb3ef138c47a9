# SPDX-License-Identifier: Apache-2.0
"""Servers and clients: what the logs said last, corrected by what the control program lists."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from mpsafe.errors import ControlFailed
from mpsafe.model import Client, ClientState, Identity, Server, ServerState
from mpsafed.mps.control import Control
from mpsafed.processes import has_ended, identify, name_and_uid

__all__ = ["Inventory"]


class Inventory:
    """The servers by pid and the clients by identity. `came` is called with each client that was not known."""

    def __init__(
        self, control: Control, *, tenant_of: Callable[[Identity], str | None], came: Callable[[Client], None]
    ) -> None:
        self._control = control
        self._tenant_of = tenant_of
        self._came = came
        self._refreshing: asyncio.Task[None] | None = None
        self._begun = 0
        self._answered = 0
        self._stale = asyncio.Event()
        self.servers: dict[int, Server] = {}
        self.clients: dict[Identity, Client] = {}
        self._uids: dict[int, int] = {}
        self.trouble = "not asked yet"

    async def close(self) -> None:
        """Stops asking."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])

    def invalidate(self) -> None:
        """The lists have changed somehow: ask again soon."""
        self._stale.set()

    async def follow(self) -> None:
        """Asks whenever the lists are stale."""
        while True:
            await self._stale.wait()
            self._stale.clear()
            await self.refresh()

    async def refresh(self) -> None:
        """Asks the control program for everything; those who ask while it answers share the next answers."""
        wanted = self._begun + 1
        while self._answered < wanted:
            if self._refreshing is None or self._refreshing.done():
                self._begun += 1
                self._refreshing = asyncio.create_task(self._refresh(self._begun))
            await asyncio.shield(self._refreshing)

    async def _refresh(self, number: int) -> None:
        before = set(self.clients)
        try:
            servers: dict[int, Server] = {}
            for pid in await self._control.servers():
                state, listed = await self._control.server(pid)
                for client in listed:
                    self.connected(pid, client)
                self._drop_missing(pid, set(listed), before)
                servers[pid] = self._server(pid, state, len(listed))
            self.servers = servers
            self.trouble = ""
        except ControlFailed as error:
            self.trouble = str(error)
        finally:
            self._answered = number

    def _drop_missing(self, server: int, listed: set[int], before: set[Identity]) -> None:
        """Who was known before the list was asked for and is not in it has left; who has ended is told by its end."""
        for identity in before & set(self.clients):
            client = self.clients[identity]
            left = client.server == server and client.state == "connected" and identity.pid not in listed
            if left and not has_ended(identity):
                del self.clients[identity]

    def connected(self, server: int, pid: int) -> None:
        """Takes in a client that a log line or a list names, unless it has ended."""
        identity = identify(pid)
        if identity is None or (identity in self.clients and self.clients[identity].server == server):
            return
        about = name_and_uid(identity)
        if about is None:
            return
        client = Client(identity, about[1], about[0], server, self._tenant_of(identity), "connected")
        self.clients[identity] = client
        if server not in self.servers:
            self.servers[server] = self._server(server, "unknown", 1)
            self.invalidate()
        self._came(client)

    def changed(self, server: int, state: ServerState, uid: int | None) -> None:
        """Takes in a server's state, and for whom it was started, that a log line names."""
        if uid is not None:
            self._uids[server] = uid
        if state == "gone":
            self.servers.pop(server, None)
        else:
            known = self.servers.get(server)
            self.servers[server] = replace(known, state=state) if known else self._server(server, state, 0)
        self.invalidate()

    def set_state(self, client: Identity, state: ClientState) -> None:
        """What became of a client, if it is known."""
        if client in self.clients:
            self.clients[client] = replace(self.clients[client], state=state)

    def set_tenant(self, client: Identity, tenant: str) -> None:
        """A process attached for a tenant, before or after it connected to its server."""
        if client in self.clients:
            self.clients[client] = replace(self.clients[client], tenant=tenant)

    def gone(self, client: Identity) -> None:
        """The client's process has ended."""
        self.clients.pop(client, None)

    def _server(self, pid: int, state: ServerState, clients: int) -> Server:
        if pid not in self._uids:
            identity = identify(pid)
            about = name_and_uid(identity) if identity else None
            self._uids[pid] = about[1] if about else 0
        return Server(pid, self._uids[pid], state, clients)
