# SPDX-License-Identifier: Apache-2.0
"""io.mpsafe.Events: what happened, who did it, what was done."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, Protocol

from asyncvarlink import VarlinkInterface, varlinkmethod

from mpsafe.errors import BadRequest, NoInjection, NotPermitted, UnknownClient
from mpsafe.model import Event
from mpsafe.protocol.replies import declared

__all__ = ["NAME", "Events", "EventsInterface", "Explanation", "Watched"]

NAME: Final = "io.mpsafe.Events"


@dataclass(frozen=True, slots=True)
class Watched:
    """One entry of the stream. `lost` entries before it were forgotten before they could be sent.

    Without `event` it says only that the stream is live from `seq` on.
    """

    seq: int
    lost: int
    event: Event | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """An event, and in a few sentences why its client is blamed or nobody is (mpsafe.blame)."""

    event: Event
    because: list[str]


class Events(Protocol):
    """What the daemon implements."""

    def watch(self, since: int | None) -> AsyncIterator[Watched]: ...
    def recent(self, since: int | None, limit: int) -> list[Event]: ...
    def explain(self, number: int) -> Explanation: ...
    def fence(self, pid: int) -> int: ...
    def inject(self, pid: int) -> None: ...


class EventsInterface(VarlinkInterface, name=NAME):
    """What happened, who did it, what was done."""

    errors = declared(NAME, NotPermitted, UnknownClient, BadRequest, NoInjection)

    def __init__(self, events: Events) -> None:
        self._events = events

    @varlinkmethod(return_parameter="watched", delay_generator=False)
    async def Watch(self, *, since: int | None = None) -> AsyncIterator[Watched]:
        """Entries with a `seq` greater than `since`, then each new one; without it new ones only."""
        async for watched in self._events.watch(since):
            yield watched

    @varlinkmethod(return_parameter="events")
    def List(self, *, since: int | None = None, limit: int | None = None) -> list[Event]:
        """The latest entry of each event with a `seq` greater than `since`, oldest first, at most `limit`."""
        return self._events.recent(since, 1000 if limit is None else limit)

    @varlinkmethod(return_parameter="explanation")
    def Explain(self, *, id: int) -> Explanation:
        """The latest entry of the event of that `id`, and why its client is blamed or nobody is."""
        return self._events.explain(id)

    @varlinkmethod(return_parameter="event")
    def Fence(self, *, pid: int) -> int:
        """Fences a client by hand; returns the `id` of the event that tells how it goes."""
        return self._events.fence(pid)

    @varlinkmethod
    def Inject(self, *, pid: int) -> None:
        """A write of a client to nowhere, as if its device had reported it; only where the driver lets one."""
        self._events.inject(pid)
