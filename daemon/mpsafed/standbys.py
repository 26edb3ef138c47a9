# SPDX-License-Identifier: Apache-2.0
"""Who waits to take over, for which tenant, and what each is told. In memory: a standby that lost us asks again."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

from mpsafe.model import Identity, Standby, StandbyPhase
from mpsafe.protocol.standby import Awaited, Phase

__all__ = ["Standbys", "Waiting"]


class Waiting:
    """One standby that listens. `received` and `serving` are set by its own word."""

    def __init__(self, standby: Standby) -> None:
        self.standby = standby
        self.received = asyncio.Event()
        self.serving = asyncio.Event()
        self._words: asyncio.Queue[Awaited] = asyncio.Queue()

    def tell(self, phase: Phase, epoch: int = 0, event: int = 0, detail: str = "") -> None:
        """One word, in order; it is sent before the event loop has waited again."""
        if phase != "refused":
            self.set_phase(phase)
        self._words.put_nowait(Awaited(phase, epoch, event, detail))

    def set_phase(self, phase: StandbyPhase) -> None:
        """How far it is, as it is shown."""
        self.standby = replace(self.standby, phase=phase)

    async def words(self) -> AsyncIterator[Awaited]:
        """What it is told, until there is no more to tell."""
        while True:
            word = await self._words.get()
            yield word
            if word.phase in ("granted", "refused"):
                return


class Standbys:
    """The standbys of all tenants, in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: list[Waiting] = []
        self._arrived = asyncio.Event()

    def register(self, standby: Standby) -> Waiting:
        """One more; a process that asks again takes its own place."""
        known = self.of(standby.identity)
        waiting = Waiting(standby)
        if known is not None:
            waiting.received, waiting.serving = known.received, known.serving
            waiting.set_phase(known.standby.phase)
            self._waiting[self._waiting.index(known)] = waiting
        else:
            self._waiting.append(waiting)
        self._arrived.set()
        return waiting

    def unregister(self, waiting: Waiting) -> None:
        """It has hung up."""
        if waiting in self._waiting:
            self._waiting.remove(waiting)

    def of(self, process: Identity) -> Waiting | None:
        """The standby that this process is."""
        return next((one for one in self._waiting if one.standby.identity == process), None)

    async def back(self, process: Identity, seconds: float) -> Waiting | None:
        """That standby once it is here, if it comes in time: a daemon before this one had promoted it."""
        try:
            async with asyncio.timeout(seconds):
                while (found := self.of(process)) is None:
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            return None
        return found

    def warm(self, tenant: str) -> list[Waiting]:
        """Those that may be promoted."""
        return [one for one in self._waiting if one.standby.tenant == tenant and one.standby.phase == "warm"]

    def tenants(self) -> set[str]:
        """Those for whom somebody may be promoted."""
        return {one.standby.tenant for one in self._waiting if one.standby.phase == "warm"}

    def overview(self) -> list[Standby]:
        """All of them."""
        return [one.standby for one in self._waiting]
