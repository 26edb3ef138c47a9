# SPDX-License-Identifier: Apache-2.0
"""From an event to what is done about it: asks the policy, writes the answer down, and has it carried out."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from mpsafe.model import Action, Event, Identity
from mpsafe.model import Takeover as Timeline
from mpsafed.executors import Executors, requested, waiting
from mpsafed.fuse import WINDOW_NS
from mpsafed.mps.inventory import Inventory
from mpsafed.policy import Decision, Fence, Note, Policy, RestartServer, Takeover, decide
from mpsafed.snapshot import Snapshot
from mpsafed.sources import now_ns
from mpsafed.state import Line, State

__all__ = ["Actions"]


class Actions:
    """`record` writes an entry of the stream and returns it."""

    def __init__(
        self,
        *,
        state: State,
        policy: Policy,
        inventory: Inventory,
        snapshot: Callable[[], Snapshot],
        record: Callable[[Event], Event],
        executors: Executors,
    ) -> None:
        self._state = state
        self._policy = policy
        self._inventory = inventory
        self._snapshot = snapshot
        self._record = record
        self._executors = executors
        self._closed = False

    async def close(self) -> None:
        """Stops acting; nothing is undone."""
        self._closed = True
        await self._executors.close()

    def act(self, event: Event) -> None:
        """Decides about an event, if there is anything to decide."""
        decisions = decide(self._snapshot(), event, self._policy)
        if decisions:
            self.carry_out(event, decisions)

    def carry_out(self, event: Event, decisions: list[Decision]) -> None:
        """Writes down what was decided about an event, and begins it."""
        for decision in decisions:
            if isinstance(decision, RestartServer):
                self._state.append(Line(server=self._inventory.servers[decision.server]))
        entry = self._record(
            replace(
                event,
                actions=[*event.actions, *map(requested, decisions)],
                takeovers=[*event.takeovers, *_timelines(event, decisions)],
                phase="open",
            )
        )
        for decision in decisions:
            self._begin(entry, decision)
        if all(isinstance(decision, Note) for decision in decisions) and not any(map(waiting, entry.actions)):
            self.close_later(entry)

    def stop(self, number: int, process: Identity) -> None:
        """One more fence in the name of an event."""
        event = self._state.latest(number)
        self.carry_out(event, [Fence(process, event.server)])

    def take_up(self, event: Event) -> None:
        """What an earlier run of the daemon left of an open event."""
        for action in filter(waiting, event.actions):
            self._take_up(event, action)
        if not event.actions:
            self.act(event)
        elif not any(map(waiting, event.actions)):
            self.close_later(event)

    def close_later(self, event: Event) -> None:
        """Closes an event about which nothing is done, once nothing more can belong to it."""
        delay = WINDOW_NS / 1e9 if event.kind == "fault" else 0
        asyncio.get_running_loop().call_later(delay, self._close_event, event.id)

    def _begin(self, event: Event, decision: Decision) -> None:
        match decision:
            case Fence():
                self._inventory.set_state(decision.client, "doomed")
                self._executors.fence(event.id, decision)
            case RestartServer():
                self._executors.restart(event.id, decision)
            case Takeover():
                self._executors.take_over(event.id, decision)
            case Note():
                pass

    def _take_up(self, event: Event, action: Action) -> None:
        if action.kind == "fence" and action.target is not None:
            self._executors.fence(event.id, Fence(action.target, event.server))
        elif action.kind == "restart_server" and (server := self._state.servers.get(event.server or 0)) is not None:
            clients = tuple(client.identity for client in self._snapshot().clients_of(server.pid))
            self._executors.restart(event.id, RestartServer(server.pid, server.uid, clients))
        elif action.kind == "takeover":
            for one in event.takeovers:
                if one.victim is not None and one.victim == action.target:
                    self._executors.take_over(event.id, Takeover(one.tenant, one.victim))

    def _close_event(self, number: int) -> None:
        event = self._state.latest(number)
        if not self._closed and event.phase == "open" and not any(map(waiting, event.actions)):
            self._record(replace(event, phase="closed"))


def _timelines(event: Event, decisions: list[Decision]) -> list[Timeline]:
    """Those of the takeovers that were decided."""
    begun = [decision for decision in decisions if isinstance(decision, Takeover)]
    decided_ns = now_ns()
    return [Timeline(one.tenant, one.victim, None, signal_ns=event.entered_ns, decided_ns=decided_ns) for one in begun]
