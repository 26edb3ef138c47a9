# SPDX-License-Identifier: Apache-2.0
"""Carries a signal to an action: fuse, write down, decide, act. The one place where state changes.

Signals wait in a bounded queue; those that find it full are counted, and the count becomes an event.
Everything here runs on the event loop, in batches that leave the service time to answer.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from mpsafe.errors import NoStandby, UnknownClient
from mpsafe.model import Client, ControlDaemon, Event, Figures, Identity, Server, SourceState, Tenant
from mpsafed import journal
from mpsafed.actions import Actions
from mpsafed.executors import Executors
from mpsafed.fence import FenceLimits, Surroundings
from mpsafed.freezer import Freezer
from mpsafed.fuse import by_hand, fuse, standby_came
from mpsafed.guard import Guard
from mpsafed.metrics import Metrics, Overview
from mpsafed.mps.control import Control
from mpsafed.mps.controls import Controls
from mpsafed.mps.inventory import Inventory
from mpsafed.page import Board
from mpsafed.peer import Peer
from mpsafed.policy import Fence, Policy, Takeover, is_dealt_with
from mpsafed.processes import has_ended
from mpsafed.restart import RestartLimits
from mpsafed.signals import (
    ClientConnected,
    ClientGone,
    ControlChanged,
    Cursor,
    DeviceChanged,
    SelfReported,
    ServerChanged,
    Signal,
    SignalsLost,
    XidSeen,
)
from mpsafed.snapshot import Snapshot
from mpsafed.sources import now_ns
from mpsafed.sources.process_ends import ProcessEnds
from mpsafed.state import Line, State
from mpsafed.stream import Stream
from mpsafed.takeover import Epochs, TakeoverLimits
from mpsafed.takeovers import Takeovers
from mpsafed.tenants import Tenants, being_fenced

__all__ = ["Engine"]

QUEUE_MAX: Final = 16_384
BATCH: Final = 512
MEMORY_SECONDS: Final = 10.0
LOOK_SECONDS: Final = 0.5
TICK_NS: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")

_log = logging.getLogger(__name__)


class Engine:
    """Owns the state; sources emit into it, the service reads from it.

    `apply_limits` sets the limits that are declared for a control daemon: of one of its servers, or (None)
    the default ones. `cut` closes a process's connections. `devices_changed` is called when a device came,
    went or failed. `epochs` is the vault's law of who may write, and `ended` tells the vault of the end of a process.
    """

    def __init__(
        self,
        *,
        state: State,
        policy: Policy,
        tenants: Tenants,
        controls: Controls,
        apply_limits: Callable[[Control, int | None], Awaitable[list[str]]],
        fence_limits: FenceLimits,
        restart_limits: RestartLimits,
        takeover_limits: TakeoverLimits,
        epochs: Epochs,
        ended: Callable[[Identity], None],
        freezer: Freezer,
        release: Callable[[Identity], None],
        metrics: Metrics,
        cut: Callable[[int], None],
        devices_changed: Callable[[], None],
    ) -> None:
        self.state = state
        self.policy = policy
        self.board = Board(tenants=self.tenants, last_event=lambda: state.next_seq - 1)
        self.inventory = Inventory(controls, tenant_of=tenants.of, came=self._client_came, faulted=self._server_faulted)
        self.ends = ProcessEnds(self.emit)
        self.sources: dict[str, SourceState] = {}
        self.devices: dict[str, str] = {}
        self.lost_signals = 0
        self._tenants = tenants
        self._metrics = metrics
        self._queue: deque[Signal] = deque()
        self._dropped = 0
        self._scheduled = False
        self._closed = False
        self._cursors: dict[str, Cursor] = {}
        self._stream = Stream(state, metrics)
        self._drifts: dict[str, list[str]] = {}
        self._look_at = 0.0
        self._cut_connections = cut
        self._devices_changed = devices_changed
        self.takeovers = Takeovers(
            epochs,
            remembered=state.standbys,
            clients=self.inventory.clients,
            latest=state.latest,
            recent=state.recent,
            update=self._record,
            stop=self._stop,
            ended=ended,
            limits=takeover_limits,
        )
        guard = Guard(controls, self.inventory, remembered=state.servers, tenant_of=tenants.of)
        executors = Executors(
            around=Surroundings(
                controls=guard.controls_of,
                cut=self._cut,
                may_signal=guard.may_signal,
                cgroup_of=tenants.cgroup_of,
                neighbours=guard.neighbours,
                freezer=freezer,
                release=release,
            ),
            fence_limits=fence_limits,
            restart_limits=restart_limits,
            control_of=guard.control_of,
            snapshot=self.snapshot,
            apply_limits=apply_limits,
            takeovers=self.takeovers,
            latest=state.latest,
            update=self._record,
        )
        self._actions = Actions(
            state=state,
            policy=policy,
            inventory=self.inventory,
            snapshot=self.snapshot,
            record=self._record,
            executors=executors,
        )

    async def resume(self) -> None:
        """Takes up what an earlier run left: clients to watch, fences and restarts half done."""
        self.inventory.clients.update(self.state.clients)
        await self.inventory.refresh()
        for identity in [*self.state.clients, *self.state.members]:
            self.ends.watch(identity)
        for event in [event for event in self.state.events() if event.phase == "open"]:
            self.takeovers.told(event, None)
            self._actions.take_up(self.state.latest(event.id))
        self.board.refresh()

    async def close(self) -> None:
        """Stops acting; nothing is undone."""
        self._closed = True
        await self._actions.close()
        await self.inventory.close()
        self.ends.close()
        self.board.close()

    def emit(self, signal: Signal) -> None:
        """Takes in one signal; it is dealt with in order, soon."""
        if len(self._queue) >= QUEUE_MAX:
            self._dropped += 1
        else:
            self._queue.append(signal)
        self._schedule()

    def source_changed(self, state: SourceState) -> None:
        """A source sees again, or does not see any more."""
        before = self.sources.get(state.name)
        self.sources[state.name] = state
        self._metrics.source(state)
        if before is not None and before.alive and not state.alive:
            journal.source_lost(state)

    def attach(self, tenant: str, peer: Peer) -> int:
        """The peer's process becomes one of the tenant's."""
        generation = self._tenants.admit(tenant, peer)
        if peer.identity is not None:
            self.inventory.set_tenant(peer.identity, tenant)
            self.ends.watch(peer.identity)
        self.board.refresh()
        return generation

    def report(self, figures: Figures | None, *, error: int | None, text: str, peer: Peer) -> None:
        """What a tenant's process says of itself: figures for the status page, a CUDA error that it has met."""
        process = peer.identity
        if process is None:
            return
        if figures is not None:
            self._tenants.reports.put(process, figures)
            self.board.refresh()
        if error is not None:
            tenant = self._tenants.of(process) or ""
            self.emit(
                SelfReported(time_ns=now_ns(), client=process, uid=peer.uid, tenant=tenant, error=error, text=text)
            )

    def fence_by_hand(self, pid: int, peer: Peer | None) -> int:
        """An admin wants a client stopped; returns the event's id."""
        client = self.snapshot().client_of(pid)
        if client is None or client.state == "gone" or has_ended(client.identity):
            raise UnknownClient(pid)
        event = self._record(by_hand(client, now_ns(), uid=peer.uid if peer else 0))
        self._actions.carry_out(event, [Fence(client.identity, client.server)])
        return event.id

    def promote_by_hand(self, tenant: str, peer: Peer | None) -> int:
        """An admin wants a standby promoted: what serves the tenant now is fenced. Returns the event's id."""
        holder = self.takeovers.epochs.holder_of(tenant)
        served = [c for c in self.inventory.clients.values() if c.tenant == tenant and c.state == "connected"]
        client = next((one for one in served if holder in (None, one.identity)), None)
        if client is None or tenant not in self.takeovers.standing():
            raise NoStandby(tenant)
        event = self._record(by_hand(client, now_ns(), uid=peer.uid if peer else 0))
        fence = Fence(client.identity, client.server)
        self._actions.carry_out(event, [Takeover(tenant, client.identity), fence])
        return event.id

    def standby_came(self, tenant: str) -> None:
        """A takeover that failed since nobody was warm is done now that somebody is, if nobody serves meanwhile."""
        if (unserved := self.takeovers.unserved(tenant)) is not None:
            event = self._record(standby_came(unserved[0], tenant, now_ns()))
            self._actions.carry_out(event, [Takeover(tenant, unserved[1])])

    def tenants(self) -> list[Tenant]:
        """The tenants and how they are."""
        fenced = being_fenced(self.state.recent())
        return self._tenants.overview(self.inventory.clients, self.inventory.servers, fenced)

    def snapshot(self) -> Snapshot:
        """What is believed now."""
        return Snapshot(
            self.inventory.clients,
            self.inventory.servers,
            self.devices,
            standbys=self.takeovers.standing(),
            members=self._tenants.members(),
            boot_ns=time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME),
            tick_ns=TICK_NS,
        )

    def measure(self, controls: list[ControlDaemon], *, beat_ns: int | None) -> None:
        """Tells the counters how the host is, and the journal each limit that has drifted since it was told."""
        self._metrics.overview(
            Overview(
                controls=controls,
                servers=list(self.inventory.servers.values()),
                clients=list(self.inventory.clients.values()),
                tenants=self.tenants(),
                beat_ns=beat_ns,
            )
        )
        for control in controls:
            if control.drift and control.drift != self._drifts.get(control.name):
                journal.limits_drifted(control)
            self._drifts[control.name] = control.drift

    def subscribed(self) -> contextlib.AbstractContextManager[asyncio.Event]:
        """An event that is set whenever the stream has grown."""
        return self._stream.subscribed()

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
        self._take_in(signal)
        event = fuse(signal, self.state.recent(), self.snapshot())
        if signal.cursor is not None:
            self._cursors[signal.cursor.source] = signal.cursor
            self._metrics.signal(signal.cursor.source)
        if event is not None:
            entry = self._record(event)
            self._actions.act(entry)
            if entry.fault is not None and entry.fault.fault_class == "device":
                self._devices_changed()
        if isinstance(signal, ClientGone):
            self._client_gone(signal.client)

    def _take_in(self, signal: Signal) -> None:
        """What a signal says of the host, before it is asked what it means."""
        match signal:
            case ClientConnected():
                self.inventory.named(signal)
            case ServerChanged():
                self.inventory.changed(
                    signal.server, signal.state, signal.uid, control=signal.control, writer=signal.writer
                )
            case XidSeen() if signal.xid.pid is not None and self.snapshot().client_of(signal.xid.pid) is None:
                self._look_again()
            case ControlChanged():
                self.inventory.invalidate()
                if not signal.running:
                    journal.control_ended(signal)
            case DeviceChanged():
                self._devices_changed()
            case SignalsLost():
                self.lost_signals += signal.count
                self._metrics.lost(signal.count)
            case _:
                pass

    def _look_again(self) -> None:
        """Asks the control programs, at most once in LOOK_SECONDS: a client may have faulted of which nobody told."""
        now = asyncio.get_running_loop().time()
        if now >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            self.inventory.invalidate()

    def _record(self, event: Event) -> Event:
        before = self.state.known(event.id)
        entry = self._stream.record(event, self._cursors.values())
        self._cursors.clear()
        self.board.refresh()
        self.takeovers.told(entry, before)
        return entry

    def _client_came(self, client: Client) -> None:
        """Remembered, so that its end is seen even after a restart."""
        self.takeovers.came(client.identity)
        self.state.append(Line(client=client))
        self.ends.watch(client.identity)
        self.board.refresh()

    def _server_faulted(self, server: Server, uid: int | None) -> None:
        """Its control daemon says so, which speaks for its own user's servers only; what is dealt with is no news."""
        if is_dealt_with(server.pid, self.state.recent()):
            return
        text = f"the control program says that server {server.pid} is in FAULT"
        self.emit(
            ServerChanged(
                time_ns=now_ns(), server=server.pid, state="fault", text=text, control=server.control, writer=uid or 0
            )
        )

    def _client_gone(self, identity: Identity) -> None:
        """It stays known for a while, also over a restart: what it did may be read after its end."""
        client = self.inventory.clients.get(identity)
        self.takeovers.ended(identity)
        self._tenants.reports.forget(identity)
        self.state.append(Line(gone=identity))
        if client is not None:
            self.inventory.set_state(identity, "gone")
            self.state.append(Line(client=replace(client, state="gone")))
            asyncio.get_running_loop().call_later(MEMORY_SECONDS, self._forget, identity)
        self.inventory.invalidate()
        self.board.refresh()

    def _forget(self, identity: Identity) -> None:
        if self._closed:
            return
        self.inventory.gone(identity)
        self.state.append(Line(gone=identity))

    def _stop(self, number: int, process: Identity) -> None:
        self._actions.stop(number, process)

    def _cut(self, client: Identity) -> None:
        self.takeovers.cut(client)
        self.inventory.set_state(client, "fenced")
        self._cut_connections(client.pid)
