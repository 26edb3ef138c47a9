# SPDX-License-Identifier: Apache-2.0
"""The event stream as it grows: written down, told to the journal, the counters and whoever watches."""

import asyncio
import contextlib
from collections.abc import Generator, Iterable
from dataclasses import replace

from mpsafe.model import Event
from mpsafed import journal
from mpsafed.metrics import Metrics
from mpsafed.signals import Cursor
from mpsafed.sources import now_ns
from mpsafed.state import State

__all__ = ["Stream"]


class Stream:
    """Appends to the state's stream of entries."""

    def __init__(self, state: State, metrics: Metrics) -> None:
        self._state = state
        self._metrics = metrics
        self._watching: set[asyncio.Event] = set()

    def record(self, event: Event, cursors: Iterable[Cursor]) -> Event:
        """One more entry, in one line with the cursors that led to it; returns it with its `seq`."""
        before = self._state.known(event.id)
        entry = self._state.record(replace(event, entered_ns=now_ns()), cursors)
        journal.tell(entry, before)
        self._metrics.entry(entry, before)
        for changed in self._watching:
            changed.set()
        return entry

    @contextlib.contextmanager
    def subscribed(self) -> Generator[asyncio.Event]:
        """An event that is set whenever the stream has grown."""
        changed = asyncio.Event()
        self._watching.add(changed)
        try:
            yield changed
        finally:
            self._watching.discard(changed)
