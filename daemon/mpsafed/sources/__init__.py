# SPDX-License-Identifier: Apache-2.0
"""Where signals come from, one kind a file. A source may vanish and come back; it says which it is.

A source reads, checks the form, and emits. It judges nothing: what a signal means is fuse's matter.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final, Protocol, TypeAlias

from mpsafe.errors import SourceLost
from mpsafe.model import SourceState
from mpsafed.signals import Cursor, Signal

__all__ = ["Emit", "Source", "keep_running", "monotonic_to_realtime_ns", "now_ns", "readable"]

Emit: TypeAlias = Callable[[Signal], None]

_log = logging.getLogger(__name__)

RETRY_SECONDS: Final = 1.0


class Source(Protocol):
    """One kind of observation."""

    name: str

    @property
    def cursor(self) -> Cursor:
        """Where it has read to; known before it runs, so that what comes while nobody runs is read later."""
        ...

    async def run(self, emit: Emit, alive: Callable[[str], None]) -> None:
        """Emits until cancelled. Calls `alive` with what it reads once it can; raises SourceLost or
        OSError when it cannot any more."""
        ...


async def keep_running(source: Source, emit: Emit, tell: Callable[[SourceState], None]) -> None:
    """Runs a source for ever: what ends it is told, until it sees again, and it is tried again."""
    unseen = SourceState(source.name, False, "not seen yet")
    tell(unseen)
    while True:
        try:
            await source.run(emit, lambda detail: tell(SourceState(source.name, True, detail)))
            tell(unseen)
        except SourceLost as error:
            tell(SourceState(source.name, False, error.reason))
        except OSError as error:
            tell(SourceState(source.name, False, str(error)))
        except Exception as error:  # what one line of a log can do must not end the daemon
            _log.exception("source %s failed; it goes on behind what it was reading", source.name)
            tell(SourceState(source.name, False, f"failed: {error!r}"))
        await asyncio.sleep(RETRY_SECONDS)


async def readable(fd: int) -> None:
    """Waits until a descriptor has something to read."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(fd, wake)
    try:
        await ready
    finally:
        loop.remove_reader(fd)


def now_ns() -> int:
    """CLOCK_REALTIME in nanoseconds, as signals carry it."""
    return time.time_ns()


def monotonic_to_realtime_ns(monotonic_ns: int) -> int:
    """A time of CLOCK_MONOTONIC as CLOCK_REALTIME shows it now, both in nanoseconds."""
    return time.time_ns() - (time.monotonic_ns() - monotonic_ns)
