# SPDX-License-Identifier: Apache-2.0
"""Who waits to take over, for which tenant, and what each is told. In memory: a standby that lost us asks again."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace

from mpsafe.model import Identity, Standby, StandbyPhase
from mpsafe.protocol.standby import Awaited, Phase

__all__ = ["Standbys", "Waiting"]


class Waiting:
    """One standby that listens. `received` and `serving` are set by its own word, `gone` when its process has ended."""

    def __init__(self, standby: Standby) -> None:
        self.standby = standby
        self.received = asyncio.Event()
        self.serving = asyncio.Event()
        self.gone = asyncio.Event()
        self._words: asyncio.Queue[Awaited] = asyncio.Queue()

    def take_over(self, known: "Waiting") -> None:
        """The same process listens anew: what it was not told yet it is told here."""
        self.received, self.serving, self.gone = known.received, known.serving, known.gone
        self._words = known._words
        self.set_phase(known.standby.phase)

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
    """The standbys of all tenants, in the order in which they came.

    `remembered` are those that waited when the daemon before this one died, by process: they are on their way back.
    """

    def __init__(self, remembered: Mapping[Identity, str]) -> None:
        self._waiting: list[Waiting] = []
        self._away = dict(remembered)
        self._arrived = asyncio.Event()

    def register(self, standby: Standby) -> Waiting:
        """One more; a process that asks again takes its own place."""
        self._away.pop(standby.identity, None)
        known = self.of(standby.identity)
        waiting = Waiting(standby)
        if known is not None:
            waiting.take_over(known)
            self._waiting[self._waiting.index(known)] = waiting
        else:
            self._waiting.append(waiting)
        self._arrived.set()
        return waiting

    def unregister(self, waiting: Waiting) -> None:
        """It has hung up. One that was promoted is known until its process ends."""
        if waiting in self._waiting and waiting.standby.phase == "warm":
            self._waiting.remove(waiting)

    def forget(self, process: Identity) -> None:
        """It is no standby any more, whatever it was."""
        self._away.pop(process, None)
        if (known := self.of(process)) is not None:
            known.gone.set()
        self._waiting = [one for one in self._waiting if one.standby.identity != process]
        self._arrived.set()

    def of(self, process: Identity) -> Waiting | None:
        """The standby that this process is."""
        return next((one for one in self._waiting if one.standby.identity == process), None)

    async def back(self, process: Identity, seconds: float) -> Waiting | None:
        """That standby once it is here, if it comes in time and has not ended: a daemon before this one had promoted
        it."""
        try:
            async with asyncio.timeout(seconds):
                while (found := self.of(process)) is None and process in self._away:
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            return None
        return found

    async def anybody(self, tenant: str, may: Callable[[Waiting], bool], seconds: float) -> list[Waiting]:
        """Those that are warm and may be promoted, as soon as one is that was away, if it comes in time."""
        try:
            async with asyncio.timeout(seconds):
                while not (found := [one for one in self.warm(tenant) if may(one)]) and self.away(tenant):
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            return []
        return found

    def warm(self, tenant: str) -> list[Waiting]:
        """Those that may be promoted."""
        return [one for one in self._waiting if one.standby.tenant == tenant and one.standby.phase == "warm"]

    def away(self, tenant: str) -> list[Identity]:
        """Those that waited, and are not back."""
        return [process for process, waited_for in self._away.items() if waited_for == tenant]

    def tenants(self) -> set[str]:
        """Those for whom somebody may be promoted."""
        return {one.standby.tenant for one in self._waiting if one.standby.phase == "warm"} | {*self._away.values()}

    def overview(self) -> list[Standby]:
        """All of them."""
        return [one.standby for one in self._waiting]
