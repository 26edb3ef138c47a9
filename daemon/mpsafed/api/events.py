# SPDX-License-Identifier: Apache-2.0
"""Behind io.mpsafe.Events."""

from bisect import bisect_right
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Final

from mpsafe.blame import because
from mpsafe.errors import BadRequest, UnknownClient
from mpsafe.model import Action, Blame, Event, Identity
from mpsafe.protocol.events import Explanation, Watched
from mpsafed.api.connection import CURRENT
from mpsafed.engine import Engine
from mpsafed.peer import Peer

__all__ = ["EventsService"]

LIMIT_MAX: Final = 10_000


class EventsService:
    """Reads the stream, never keeps a copy of it for a slow watcher. `inject` has the driver make a client fault."""

    def __init__(self, engine: Engine, *, inject: Callable[[Identity], None]) -> None:
        self._engine = engine
        self._inject = inject

    async def watch(self, since: int | None) -> AsyncIterator[Watched]:
        """See EventsInterface.Watch."""
        peer = CURRENT.get().peer
        state = self._engine.state
        seen = state.next_seq - 1 if since is None else max(0, min(since, state.next_seq - 1))
        yield Watched(seen, 0, None)
        with self._engine.subscribed() as changed:
            while True:
                for event in state.stream[bisect_right(state.stream, seen, key=lambda event: event.seq) :]:
                    lost, seen = event.seq - seen - 1, event.seq
                    yield Watched(event.seq, lost, _shown(event, peer))
                changed.clear()
                if state.next_seq - 1 > seen:
                    continue
                await changed.wait()

    def recent(self, since: int | None, limit: int) -> list[Event]:
        """See EventsInterface.List."""
        if not 1 <= limit <= LIMIT_MAX:
            raise BadRequest("limit", f"1 to {LIMIT_MAX}", str(limit))
        peer = CURRENT.get().peer
        found = [event for event in self._engine.state.events() if event.seq > (since or 0)]
        return [_shown(event, peer) for event in found[-limit:]]

    def explain(self, number: int) -> Explanation:
        """See EventsInterface.Explain."""
        try:
            latest = self._engine.state.latest(number)
        except KeyError:
            raise BadRequest("id", "the id of an event that is still known", str(number)) from None
        event = _shown(latest, CURRENT.get().peer)
        return Explanation(event, because(event))

    def fence(self, pid: int) -> int:
        """See EventsInterface.Fence."""
        return self._engine.fence_by_hand(pid, CURRENT.get().peer)

    def inject(self, pid: int) -> None:
        """See EventsInterface.Inject."""
        client = self._engine.snapshot().client_of(pid)
        if client is None or client.state == "gone":
            raise UnknownClient(pid)
        self._inject(client.identity)


def _shown(event: Event, peer: Peer) -> Event:
    """What a peer may see of an event: of another user's client only that something happened.

    Where nobody knows whose client it is, the evidence may name another user's process.
    """
    if peer.admin or event.uid == peer.uid:
        return event
    if event.uid is None:
        return replace(event, blame=replace(event.blame, evidence=[]))
    actions = [Action(action.kind, None, action.state, "") for action in event.actions]
    return replace(event, summary=f"{event.kind} of another user's client", blame=Blame(), actions=actions, uid=None)
