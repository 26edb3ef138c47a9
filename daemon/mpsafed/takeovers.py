# SPDX-License-Identifier: Apache-2.0
"""The takeovers that go on, as the engine sees them: what proves that a lost process has stopped, and the timeline."""

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from mpsafe.errors import VaultClosed
from mpsafe.model import Action, ActionKind, ActionState, Client, Event, Identity, Standby, Takeover
from mpsafed import policy, steps
from mpsafed.processes import Process, has_ended
from mpsafed.sources import now_ns
from mpsafed.standbys import Standbys, Waiting
from mpsafed.takeover import Epochs, Proofs, TakeoverLimits, TakeoverProgress, take_over

__all__ = ["Takeovers"]

_log = logging.getLogger(__name__)


class Takeovers:
    """`remembered` are standbys of an earlier run of the daemon, by process. `clients` are those that the engine knows,
    by identity; `latest`, `recent` and `update` are about the newest entries of events. `ended` tells the vault of the
    end of a process. `stop` has a process fenced in the name of an event: one whose server recovered by itself would
    serve beside the new one.
    """

    def __init__(
        self,
        epochs: Epochs,
        *,
        remembered: Mapping[Identity, str],
        clients: Mapping[Identity, Client],
        latest: Callable[[int], Event],
        recent: Callable[[], list[Event]],
        update: Callable[[Event], Event],
        stop: Callable[[int, Identity], None],
        ended: Callable[[Identity], None],
        limits: TakeoverLimits,
    ) -> None:
        self.standbys = Standbys(remembered)
        self.epochs = epochs
        self._clients = clients
        self._latest = latest
        self._recent = recent
        self._update = update
        self._stop = stop
        self._ended = ended
        self._outside: set[Identity] = set()
        self._limits = limits
        self._proofs = Proofs(epochs)

    def standing(self) -> dict[str, Identity | None]:
        """The tenants for which somebody waits, and who holds each one's epoch."""
        return {tenant: self.epochs.holder_of(tenant) for tenant in self.standbys.tenants()}

    def unserved(self, tenant: str) -> tuple[Event, Identity] | None:
        """The event in which the tenant's last takeover failed, and whose it was, if nobody serves the tenant since."""
        lost = [(event, one.victim) for event in self._recent() for one in event.takeovers if one.tenant == tenant]
        if not lost or lost[-1][0].phase != "closed":
            return None
        event, victim = lost[-1]
        failed = any((one.kind, one.target, one.state) == ("takeover", victim, "failed") for one in event.actions)
        if victim is None:
            return None
        nobody = has_ended(victim) and self.epochs.holder_of(tenant) in (None, victim)
        return (event, victim) if failed and nobody else None

    async def run(
        self, decision: policy.Takeover, event: int, *, progress: TakeoverProgress, reached: ActionState = "requested"
    ) -> None:
        """One takeover, from the step `reached` on."""
        if reached == "requested" and (other := self._taken_over(decision, event)) is not None:
            progress("done", f"event {other} has done it")
            return
        stopping = any(action.kind in ("fence", "restart_server") for action in self._latest(event).actions)
        if not stopping and has_ended(decision.victim):
            self._proofs.unproven(decision.victim, "it ended by itself while its work may have gone on")
        await take_over(
            decision,
            event,
            standbys=self.standbys,
            epochs=self.epochs,
            proofs=self._proofs,
            outside=self._is_outside,
            end=self._end,
            being_stopped=self._being_stopped,
            limits=self._limits,
            progress=progress,
            promoted=self._known(decision, event) if reached != "requested" else None,
            reached=reached,
        )

    def told(self, entry: Event, before: Event | None) -> None:
        """A new entry of the stream: what it proves of whom."""
        old: dict[tuple[ActionKind, Identity | None], ActionState] = {}
        if before is not None:
            old = {(action.kind, action.target): action.state for action in before.actions}
        for action in entry.actions:
            if (was := old.get((action.kind, action.target))) != action.state:
                self._weigh(entry, action, was)

    def registered(self, standby: Identity) -> None:
        """A standby that is no client of an MPS server. Its end will prove that its work has stopped, as long as it
        never becomes one: the kernel closes its device files before it tells of its end."""
        if standby not in self._clients:
            self._outside.add(standby)

    def came(self, client: Identity) -> None:
        """A process is a client of an MPS server: of its work only a fence or its server's end tells."""
        self._outside.discard(client)

    def cut(self, process: Identity) -> None:
        """A process may write no durable memory any more: it is being fenced."""
        try:
            self.epochs.cut(process)
        except VaultClosed as error:
            _log.error("process %d is not cut off from the vault: %s", process.pid, error)

    def ended(self, process: Identity) -> None:
        """A process has ended."""
        self.standbys.forget(process)
        self._ended(process)
        if process in self._outside:
            self._outside.discard(process)
            self._proofs.proven(process)

    def progress(self, event: int, *, standby: Identity, received_ns: int | None, serving_ns: int | None) -> None:
        """What a promoted standby says of itself."""
        waiting = self.standbys.of(standby)
        for name, ns in (("received_ns", received_ns), ("serving_ns", serving_ns)):
            if ns:
                self._stamp_once(event, standby, name, ns)
        if waiting is not None and (received_ns or serving_ns):
            waiting.received.set()
        if waiting is not None and serving_ns:
            waiting.serving.set()

    def _stamp_once(self, event: int, standby: Identity, name: str, ns: int) -> None:
        def is_new(one: Takeover) -> bool:
            return one.standby == standby and not getattr(one, name)

        self.stamp(event, is_new, **{name: ns})

    def stamp(self, event: int, of: Callable[[Takeover], bool], **changes: Any) -> None:
        """Changes the timelines of an event that are meant."""
        entry = self._latest(event)
        takeovers = [replace(one, **changes) if of(one) else one for one in entry.takeovers]
        if takeovers != entry.takeovers:
            self._update(replace(entry, takeovers=takeovers))

    def _taken_over(self, decision: policy.Takeover, event: int) -> int | None:
        """Another event in which this process was taken over by the one that serves now: the end of a process that
        ended while the daemon was away may be told twice."""
        holder = self.epochs.holder_of(decision.tenant)
        for other in self._recent():
            ways = [(one.kind, one.target, one.state) for one in other.actions]
            serves = any(one.victim == decision.victim and one.standby == holder for one in other.takeovers)
            if other.id != event and ("takeover", decision.victim, "done") in ways and serves and holder is not None:
                return other.id
        return None

    def _known(self, decision: policy.Takeover, event: int) -> Waiting | None:
        """The standby that had said that it knows, if it still is the tenant's process; it may not come back to us."""
        for one in self._latest(event).takeovers:
            process = one.standby
            mine = one.victim == decision.victim and self.epochs.holder_of(decision.tenant) == process
            if mine and process is not None and one.received_ns and not has_ended(process):
                standby = Standby(decision.tenant, process, 0, "promoted", one.promoted_ns)
                waiting = self.standbys.of(process) or self.standbys.register(standby)
                waiting.received.set()
                if one.serving_ns:
                    waiting.serving.set()
                return waiting
        return None

    def _being_stopped(self) -> set[Identity]:
        open_events = [event for event in self._recent() if event.phase == "open"]
        return {one.victim for event in open_events for one in event.takeovers if one.victim is not None}

    def _end(self, standby: Identity) -> None:
        with contextlib.suppress(OSError), Process(standby) as process:
            process.kill()

    def _is_outside(self, standby: Identity, victim: Identity) -> bool:
        ours, theirs = self._clients.get(standby), self._clients.get(victim)
        return ours is None or theirs is None or ours.server != theirs.server

    def _weigh(self, entry: Event, action: Action, was: ActionState | None) -> None:
        """Whose work a new step proves stopped, and of whom it says that there will be no proof."""
        victims = {one.victim for one in entry.takeovers if one.victim is not None}
        if action.kind == "fence":
            about = [action.target] if action.target is not None else []
        elif action.kind == "restart_server":
            about = [*victims | {process for process, one in self._clients.items() if one.server == entry.server}]
        else:
            return
        recovered = action.kind == "restart_server" and action.state == "done" and was in ("requested", "terminating")
        for process in about:
            if steps.grants_durable(action.kind, action.state):
                self._prove(entry, process)
            elif recovered and process in victims:
                self._stop(entry.id, process)
            elif action.state in ("assumed", "failed"):
                self._proofs.unproven(process, f"{action.kind} of event {entry.id}: {action.state}, {action.detail}")

    def _prove(self, entry: Event, process: Identity) -> None:
        self._proofs.proven(process)
        if any(one.victim == process and not one.proven_ns for one in entry.takeovers):
            self.stamp(entry.id, lambda one: one.victim == process, proven_ns=now_ns())
