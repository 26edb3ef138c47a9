# SPDX-License-Identifier: Apache-2.0
"""Servers and clients: what the logs said last, corrected by what the control programs list.

A line of a log counts as much as its `writer` may be believed: 0, only root can have written it; a
uid, that user can have, so it adds processes of that user's and no others; None, anybody can have, so
it says no more than that it is time to ask. Whoever wrote it, a server is gone when its process is.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from mpsafe.errors import ControlFailed
from mpsafe.model import Client, ClientState, Identity, Server, ServerState
from mpsafed.mps.control import Control, uid_of
from mpsafed.mps.controls import Controls
from mpsafed.processes import has_ended, identify, name_and_uid, started_ns
from mpsafed.signals import ClientConnected

__all__ = ["Inventory"]

# Between the clock of a log's lines and that of start times, which moves when the host's clock is set.
CLOCKS_APART_NS: Final = 1_000_000_000


class Inventory:
    """The servers by pid and the clients by identity.

    `came` is called with each client that was not known, `faulted` when a control daemon says of a server for
    the first time that it is in FAULT: logs may be blind.
    """

    def __init__(
        self,
        controls: Controls,
        *,
        tenant_of: Callable[[Identity], str | None],
        came: Callable[[Client], None],
        faulted: Callable[[Server, int | None], None],
    ) -> None:
        self._controls = controls
        self._tenant_of = tenant_of
        self._came = came
        self._faulted = faulted
        self._refreshing: asyncio.Task[None] | None = None
        self._begun = 0
        self._answered = 0
        self._stale = asyncio.Event()
        self.servers: dict[int, Server] = {}
        self.clients: dict[Identity, Client] = {}
        self._identities: dict[int, Identity] = {}
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
        """Asks the control programs for everything; those who ask while they answer share the next answers."""
        wanted = self._begun + 1
        while self._answered < wanted:
            if self._refreshing is None or self._refreshing.done():
                self._begun += 1
                self._refreshing = asyncio.create_task(self._refresh(self._begun))
            await asyncio.shield(self._refreshing)

    async def _refresh(self, number: int) -> None:
        try:
            troubles = await asyncio.gather(*map(self._refresh_one, self._controls))
            self.trouble = "; ".join(filter(None, troubles))
        finally:
            self._answered = number

    async def _refresh_one(self, control: Control) -> str:
        """Takes in what one control daemon lists; of one that does not answer stays what still runs. Says why."""
        before = set(self.clients)
        try:
            servers: dict[int, Server] = {}
            for pid in await control.servers():
                state, listed = await control.server(pid)
                for client in listed:
                    self._take_in(pid, client, control.name)
                self._drop_missing(pid, set(listed), before)
                servers[pid] = self._server(pid, state, clients=len(listed), control=control.name)
                known = self.servers.get(pid)
                if state == "fault" and (known is None or known.state != "fault"):
                    self._faulted(servers[pid], control.declared.uid)
        except ControlFailed as error:
            self._forget_ended(server.pid for server in self.servers.values() if server.control == control.name)
            return f"{control.name}: {error}"
        others = {pid: server for pid, server in self.servers.items() if server.control not in ("", control.name)}
        self.servers = others | servers
        self._forget_ended(set(self._uids) - set(self.servers))
        return f"{control.name}: {control.trouble}" if control.trouble else ""

    def _drop_missing(self, server: int, listed: set[int], before: set[Identity]) -> None:
        """Who was known before the list was asked for and is not in it has left; who has ended is told by its end."""
        for identity in before & set(self.clients):
            client = self.clients[identity]
            left = client.server == server and client.state == "connected" and identity.pid not in listed
            if left and not has_ended(identity):
                del self.clients[identity]

    def named(self, signal: ClientConnected) -> None:
        """Takes in a client that a line of a log names.

        A line that is read late, after this daemon was started again, names a pid that may be somebody else's by now:
        a process that came after the line is not meant by it, and the lists say who is a client.
        """
        identity = identify(signal.pid)
        if identity is not None and started_ns(identity) > signal.time_ns + CLOCKS_APART_NS:
            self.invalidate()
        else:
            self.connected(signal.server, signal.pid, control=signal.control, writer=signal.writer)

    def connected(self, server: int, pid: int, *, control: str = "", writer: int | None = 0) -> None:
        """Takes in a client that a line of a log names, unless it has ended or the writer may not name it."""
        if writer == 0 or (writer is not None and writer == uid_of(pid) == self._owner_of(server)):
            self._take_in(server, pid, control)
        else:
            self.invalidate()

    def changed(
        self, server: int, state: ServerState, uid: int | None, *, control: str = "", writer: int | None = 0
    ) -> None:
        """Takes in a server's state, and for whom it was started, that a line of a log names, as above."""
        self.invalidate()
        if state == "gone":
            self._forget_ended([server])
            return
        if writer != 0 and not (writer is not None and writer == self._owner_of(server) and uid in (None, writer)):
            return
        if uid is not None:
            self._uids[server] = uid
        known = self.servers.get(server)
        self.servers[server] = replace(known, state=state) if known else self._server(server, state, control=control)

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

    def _take_in(self, server: int, pid: int, control: str) -> None:
        identity = identify(pid)
        if identity is None or (identity in self.clients and self.clients[identity].server == server):
            return
        about = name_and_uid(identity)
        if about is None:
            return
        client = Client(identity, about[1], about[0], server, self._tenant_of(identity), "connected")
        self.clients[identity] = client
        if server not in self.servers:
            self.servers[server] = self._server(server, "unknown", clients=1, control=control)
            self.invalidate()
        self._came(client)

    def _server(self, pid: int, state: ServerState, *, clients: int = 0, control: str) -> Server:
        if pid not in self._identities and (identity := identify(pid)) is not None:
            self._identities[pid] = identity
        if pid not in self._uids:
            self._uids[pid] = uid_of(pid) or 0
        return Server(pid, self._uids[pid], state, clients, control)

    def _forget_ended(self, servers: Iterable[int]) -> None:
        """Forgets those whose process has ended."""
        for server in list(servers):
            identity = self._identities.get(server) or identify(server)
            if identity is None or has_ended(identity):
                self.servers.pop(server, None)
                self._identities.pop(server, None)
                self._uids.pop(server, None)

    def _owner_of(self, pid: int) -> int | None:
        """Whose a server is that is known; else whose process has its pid."""
        return self.servers[pid].uid if pid in self.servers else uid_of(pid)
