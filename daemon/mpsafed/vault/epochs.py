# SPDX-License-Identifier: Apache-2.0
"""Who may write durable memory: the law of epochs over the index, and nothing else.

A tenant's epoch has one holder; a durable region has one process that may be writing it. Both change at once only
where that process is proven stopped. Where it is not, the region is suspect: to be read, and written by nobody.
Everything may be done twice, and in any order: so it is after a restart of the daemon.
"""

from collections.abc import Callable
from dataclasses import replace

import msgspec

from mpsafe.errors import EpochHeld
from mpsafe.model import Identity, Region
from mpsafed.vault.index import Epoch, Held, Index, Line

__all__ = ["Epochs"]


class Epochs:
    """`write` appends a line to the index and makes sure that it is held. `alive`: whether a process has not ended."""

    def __init__(
        self, index: Callable[[], Index], write: Callable[[Line], None], alive: Callable[[Identity], bool]
    ) -> None:
        self._index = index
        self._write = write
        self._alive = alive

    def of(self, tenant: str) -> Epoch:
        """The newest epoch of a tenant; number 0: there was none yet."""
        return self._index().epochs.get(tenant) or Epoch(tenant, 0)

    def holder_of(self, tenant: str) -> Identity | None:
        """The process that holds the newest epoch."""
        return self.of(tenant).holder

    def number_of(self, tenant: str) -> int:
        """The newest epoch's number."""
        return self.of(tenant).number

    def holders(self) -> set[Identity]:
        """The processes that hold an epoch."""
        return {epoch.holder for epoch in self._index().epochs.values() if epoch.holder is not None}

    def claim(self, tenant: str, process: Identity) -> int:
        """The next epoch begins with this holder, unless it holds the newest already. EpochHeld: another one does."""
        now = self.of(tenant)
        if now.holder is not None and now.holder != process and self._alive(now.holder):
            raise EpochHeld(tenant, now.number, now.holder.pid)
        return self.move(tenant, process)

    def move(self, tenant: str, process: Identity) -> int:
        """The same, whoever holds it: a holder before is cut off."""
        now = self.of(tenant)
        if now.holder == process:
            return now.number
        if now.holder is not None:
            self.cut(now.holder)
        self._write(Line(epoch=Epoch(tenant, now.number + 1, process)))
        for held in self._durable(lambda held: held.writer is None and held.region.tenant == tenant):
            self._grant(held, process, now.number + 1)
        return now.number + 1

    def cut(self, process: Identity) -> None:
        """This process may write no more, and whether it does is not known yet."""
        for held in self._durable(lambda held: held.writer == process and held.region.state == "open"):
            self._write(Line(held=msgspec.structs.replace(held, region=replace(held.region, state="suspect"))))

    def writers(self, tenant: str) -> set[Identity]:
        """Those that may be writing durable memory of the tenant's."""
        durable = self._durable(lambda held: held.region.tenant == tenant)
        return {held.writer for held in durable if held.writer is not None}

    def proven(self, process: Identity) -> list[Region]:
        """The work of this process is proven stopped. Returns what its tenant's holder may write from now on."""
        self._let_go(process)
        granted: list[Region] = []
        for held in self._durable(lambda held: held.writer == process):
            now = self.of(held.region.tenant)
            if now.holder is not None:
                granted.append(self._grant(held, now.holder, now.number))
            else:
                region = replace(held.region, state="open")
                self._write(Line(held=msgspec.structs.replace(held, region=region, writer=None)))
        return granted

    def ended(self, process: Identity) -> None:
        """This process has ended, which by itself proves nothing."""
        self.cut(process)
        self._let_go(process)

    def _let_go(self, process: Identity) -> None:
        for epoch in list(self._index().epochs.values()):
            if epoch.holder == process:
                self._write(Line(epoch=Epoch(epoch.tenant, epoch.number)))

    def _grant(self, held: Held, holder: Identity, number: int) -> Region:
        region = replace(held.region, state="open", epoch=number)
        self._write(Line(held=msgspec.structs.replace(held, region=region, writer=holder)))
        return region

    def _durable(self, wanted: Callable[[Held], bool]) -> list[Held]:
        return [held for held in self._index().held.values() if held.region.kind == "durable" and wanted(held)]
