# SPDX-License-Identifier: Apache-2.0
"""Carries a signal to an action: fuse, write down, decide, act. The one place where state changes.

Signals wait in a bounded queue; those that find it full are counted, and the count becomes an event.
Everything here runs on the event loop, in batches that leave the service time to answer.
"""

import asyncio
import contextlib
import logging
import os
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Final

from mpsafe.errors import UnknownClient
from mpsafe.model import Action, Blame, Client, Event, Evidence, Identity, SourceState, Tenant
from mpsafed import journal
from mpsafed.executors import Executors, waiting
from mpsafed.fence import FenceLimits
from mpsafed.fuse import WINDOW_NS, fuse
from mpsafed.mps.control import Control
from mpsafed.mps.inventory import Inventory
from mpsafed.page import Page
from mpsafed.peer import Peer
from mpsafed.policy import Fence, Note, Policy, RestartServer, decide
from mpsafed.restart import RestartLimits
from mpsafed.signals import ClientConnected, ClientGone, Cursor, ServerChanged, Signal, SignalsLost
from mpsafed.snapshot import Snapshot
from mpsafed.sources import now_ns
from mpsafed.sources.process_ends import ProcessEnds
from mpsafed.state import Line, State
from mpsafed.tenants import Tenants, being_fenced

__all__ = ["Engine"]

QUEUE_MAX: Final = 65_536
BATCH: Final = 512
MEMORY_SECONDS: Final = 10.0

_log = logging.getLogger(__name__)


class Engine:
    """Owns the state; sources emit into it, the service reads from it."""

    def __init__(
        self,
        *,
        state: State,
        policy: Policy,
        tenants: Tenants,
        control: Control,
        fence_limits: FenceLimits,
        restart_limits: RestartLimits,
        cut: Callable[[int], None],
    ) -> None:
        self.state = state
        self.policy = policy
        self.page = Page()
        self.inventory = Inventory(control, tenant_of=tenants.of, came=self._client_came)
        self.sources: dict[str, SourceState] = {}
        self.wakes: set[int] = set()
        self.devices: dict[str, str] = {}
        self.lost_signals = 0
        self._tenants = tenants
        self._queue: deque[Signal] = deque()
        self._dropped = 0
        self._scheduled = False
        self._page_is_stale = False
        self._closed = False
        self._cursors: dict[str, Cursor] = {}
        self._changed: set[asyncio.Event] = set()
        self._ends = ProcessEnds(lambda identity: self.emit(ClientGone(time_ns=now_ns(), client=identity)))
        self._cut_connections = cut
        self._executors = Executors(
            control,
            fence_limits=fence_limits,
            restart_limits=restart_limits,
            latest=state.latest,
            update=self._record,
            cut=self._cut,
        )

    async def resume(self) -> None:
        """Takes up what an earlier run left: clients to watch, fences and restarts half done."""
        self.inventory.clients.update(self.state.clients)
        await self.inventory.refresh()
        for identity in [*self.state.clients, *self.state.members]:
            self._ends.watch(identity)
        for event in [event for event in self.state.events() if event.phase == "open"]:
            for action in [action for action in event.actions if waiting(action)]:
                self._take_up(event, action)
            if not event.actions:
                self._act(event)
            elif not any(map(waiting, event.actions)):
                self._close_later(event)
        self.refresh_page()

    async def close(self) -> None:
        """Stops acting; nothing is undone."""
        self._closed = True
        await self._executors.close()
        await self.inventory.close()
        self._ends.close()
        self.page.close()

    def emit(self, signal: Signal) -> None:
        """Takes in one signal; it is dealt with in order, soon."""
        if len(self._queue) >= QUEUE_MAX:
            self._dropped += 1
        else:
            self._queue.append(signal)
        self._schedule()

    def source_changed(self, state: SourceState) -> None:
        """A source sees again, or does not see any more."""
        self.sources[state.name] = state

    def attach(self, tenant: str, peer: Peer) -> int:
        """The peer's process becomes one of the tenant's."""
        generation = self._tenants.admit(tenant, peer)
        if peer.identity is not None:
            self.inventory.set_tenant(peer.identity, tenant)
            self._ends.watch(peer.identity)
        self.refresh_page()
        return generation

    def fence_by_hand(self, pid: int, peer: Peer | None) -> int:
        """An admin wants a client stopped; returns the event's id."""
        client = self.snapshot().client_of(pid)
        if client is None or client.state == "gone":
            raise UnknownClient(pid)
        text = f"asked for by uid {peer.uid if peer else 0}"
        blame = Blame(client.identity, client.name, client.tenant, [Evidence("self_report", text, pid)])
        action = Action("fence", client.identity, "requested", text)
        summary = f"{client.tenant or client.name} ({pid}) is fenced by hand"
        event = self._record(
            Event(
                0,
                0,
                now_ns(),
                "exit",
                "open",
                summary,
                server=client.server,
                blame=blame,
                actions=[action],
                uid=client.uid,
            )
        )
        self._executors.fence(event.id, Fence(client.identity, client.server))
        return event.id

    def tenants(self) -> list[Tenant]:
        """The tenants and how they are."""
        fenced = being_fenced(self.state.recent())
        return self._tenants.overview(self.inventory.clients, self.inventory.servers, fenced)

    def snapshot(self) -> Snapshot:
        """What is believed now."""
        return Snapshot(self.inventory.clients, self.inventory.servers, self.devices)

    def refresh_page(self) -> None:
        """Writes the status page soon, once however often it is asked, and wakes those who watch it."""
        if not self._page_is_stale:
            self._page_is_stale = True
            asyncio.get_running_loop().call_soon(self._write_page)

    def _write_page(self) -> None:
        self._page_is_stale = False
        if self._closed:
            return
        self.page.write(self.tenants(), self.state.next_seq - 1)
        for wake in self.wakes:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_write(wake, 1)

    @contextlib.contextmanager
    def subscribed(self) -> Generator[asyncio.Event]:
        """An event that is set whenever the stream has grown."""
        changed = asyncio.Event()
        self._changed.add(changed)
        try:
            yield changed
        finally:
            self._changed.discard(changed)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._drain)

    def _drain(self) -> None:
        self._scheduled = False
        for _ in range(min(BATCH, len(self._queue))):
            signal = self._queue.popleft()
            try:
                self._take(signal)
            except Exception:  # one signal must not cost those behind it
                _log.exception("%s could not be dealt with", signal)
        if self._dropped and not self._queue:
            lost, self._dropped = self._dropped, 0
            self._take(SignalsLost(time_ns=now_ns(), source="mpsafed's own queue", count=lost))
        if self._cursors:
            self.state.append(Line(cursors=list(self._cursors.values())))
            self._cursors.clear()
        if self._queue:
            self._schedule()

    def _take(self, signal: Signal) -> None:
        if isinstance(signal, ClientConnected):
            self.inventory.connected(signal.server, signal.pid)
        elif isinstance(signal, ServerChanged):
            self.inventory.changed(signal.server, signal.state, signal.uid)
        elif isinstance(signal, SignalsLost):
            self.lost_signals += signal.count
        event = fuse(signal, self.state.recent(), self.snapshot())
        if signal.cursor is not None:
            self._cursors[signal.cursor.source] = signal.cursor
        if event is not None:
            entry = self._record(event)
            self._act(entry)
        if isinstance(signal, ClientGone):
            self._client_gone(signal.client)

    def _record(self, event: Event) -> Event:
        entry = self.state.record(replace(event, entered_ns=now_ns()), self._cursors.values())
        self._cursors.clear()
        journal.tell(entry)
        for changed in self._changed:
            changed.set()
        self.refresh_page()
        return entry

    def _act(self, event: Event) -> None:
        decisions = decide(self.snapshot(), event, self.policy)
        if not decisions:
            return
        for decision in decisions:
            if isinstance(decision, RestartServer):
                self.state.append(Line(server=self.inventory.servers[decision.server]))
        actions = [_action(decision) for decision in decisions]
        entry = self._record(replace(event, actions=[*event.actions, *actions]))
        for decision in decisions:
            self._start(entry, decision)
        if all(isinstance(decision, Note) for decision in decisions) and not any(map(waiting, entry.actions)):
            self._close_later(entry)

    def _start(self, event: Event, decision: Fence | RestartServer | Note) -> None:
        match decision:
            case Fence():
                self.inventory.set_state(decision.client, "doomed")
                self._executors.fence(event.id, decision)
            case RestartServer():
                self._executors.restart(event.id, decision)
            case Note():
                pass

    def _take_up(self, event: Event, action: Action) -> None:
        if action.kind == "fence" and action.target is not None:
            self._executors.fence(event.id, Fence(action.target, event.server), reached=action.state)
        elif action.kind == "restart_server" and (server := self.state.servers.get(event.server or 0)) is not None:
            clients = tuple(client.identity for client in self.snapshot().clients_of(server.pid))
            self._executors.restart(event.id, RestartServer(server.pid, server.uid, clients))

    def _close_later(self, event: Event) -> None:
        delay = WINDOW_NS / 1e9 if event.kind == "fault" else 0
        asyncio.get_running_loop().call_later(delay, self._close_event, event.id)

    def _close_event(self, number: int) -> None:
        if self._closed:
            return
        event = self.state.latest(number)
        if event.phase == "open" and not any(map(waiting, event.actions)):
            self._record(replace(event, phase="closed"))

    def _client_came(self, client: Client) -> None:
        """Remembered, so that its end is seen even after a restart."""
        self.state.append(Line(client=client))
        self._ends.watch(client.identity)
        self.refresh_page()

    def _client_gone(self, identity: Identity) -> None:
        """It stays known for a while, also over a restart: what it did may be read after its end."""
        client = self.inventory.clients.get(identity)
        self.state.append(Line(gone=identity))
        if client is not None:
            self.inventory.set_state(identity, "gone")
            self.state.append(Line(client=replace(client, state="gone")))
            asyncio.get_running_loop().call_later(MEMORY_SECONDS, self._forget, identity)
        self.inventory.invalidate()
        self.refresh_page()

    def _forget(self, identity: Identity) -> None:
        if self._closed:
            return
        self.inventory.gone(identity)
        self.state.append(Line(gone=identity))

    def _cut(self, client: Identity) -> None:
        self.inventory.set_state(client, "fenced")
        self._cut_connections(client.pid)


def _action(decision: Fence | RestartServer | Note) -> Action:
    match decision:
        case Fence():
            return Action("fence", decision.client, "requested", "")
        case RestartServer():
            return Action("restart_server", None, "requested", f"server {decision.server}, uid {decision.uid}")
        case Note():
            return Action("note", None, "done", decision.reason)
