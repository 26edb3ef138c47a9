# SPDX-License-Identifier: Apache-2.0
"""The vault: regions come in, are committed, given out and let go of. The daemon holds descriptors and maps nothing.

    create   written down, then held, then written down as whole, then answered for
    release  written down, then let go of

So a daemon that finds the index after a SIGKILL knows what nobody was answered for, and rolls it back.
"""

import contextlib
import fcntl
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from mpsafe.errors import (
    BadHandle,
    BadRequest,
    EpochHeld,
    NotGranted,
    QuotaExceeded,
    RegionLost,
    UnknownRegion,
    VaultClosed,
)
from mpsafe.model import Identity, Region
from mpsafe.protocol.vault import HANDLES_MAX, LAYOUT_BYTES_MAX, Collected
from mpsafed.processes import has_ended
from mpsafed.vault.epochs import Epochs
from mpsafed.vault.holder import PREFIX, Holder
from mpsafed.vault.index import Held, Index, Line

__all__ = ["Checker", "Quota", "Vault"]

INDEX: Final = f"{PREFIX}index"
SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
_DIGEST: Final = re.compile(r"[a-z0-9]{1,16}:[0-9a-f]{8,128}")

_log = logging.getLogger(__name__)

Checker = Callable[[Sequence[int], Sequence[int], str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Quota:
    """What one tenant may hold; None: as much as there is. `readers`: tenants that may read its immutable regions."""

    nbytes: int | None = None
    handles: int = 256
    readers: frozenset[str] = frozenset()


class Vault:
    """`check` raises BadHandle for descriptors that are not device memory of those sizes on that device.

    `alive` says whether a process has not ended. `changed` is called after every change.
    """

    def __init__(
        self,
        holder: Holder,
        quotas: Mapping[str, Quota],
        *,
        handles_max: int,
        check: Checker,
        alive: Callable[[Identity], bool],
        changed: Callable[[], None],
    ) -> None:
        self.holder = holder
        self.closed = ""
        self._quotas = quotas
        self._handles_max = handles_max
        self._check = check
        self._changed = changed
        self._fds = holder.handed_over()
        self._index_is_held = INDEX in self._fds
        self._index = Index(self._fds.pop(INDEX, None))
        self._creating: Counter[str] = Counter()
        self._lost: dict[int, str] = {}
        self.epochs = Epochs(lambda: self._index, self._write, alive)
        self._roll_back()

    def close(self) -> None:
        """Lets go of our own copies; the holder keeps its, but for an index that says nothing."""
        if self._index_is_held and not self._index.held and not self.epochs.holders():
            self.holder.let_go([INDEX])
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()
        self._index.close()

    def regions(self) -> list[Region]:
        """All regions, oldest first."""
        return [self._shown(held.region) for held in self._index.held.values() if held.whole]

    def memory_of(self, region: Region) -> list[int] | None:
        """The descriptors of a region's memory, which stay ours; None where it was let go of."""
        names = _names(region)[: len(region.sizes)]
        return [self._fds[name] for name in names] if all(name in self._fds for name in names) else None

    def lose(self, number: int, why: str) -> bool:
        """The driver does not know its memory any more, or (no reason) does; whether it is lost just now."""
        if not why:
            self._lost.pop(number, None)
            return False
        news = number not in self._lost
        self._lost[number] = why
        if news:
            self._changed()
        return news

    def processes(self) -> set[Identity]:
        """Those whose end the vault wants to hear of."""
        found = {epoch.holder for epoch in self._index.epochs.values()}
        found |= {held.writer for held in self._index.held.values()}
        found |= {region.creator for region in self.regions() if region.kind == "immutable" and region.state == "open"}
        return {process for process in found if process is not None}

    def known(self, number: int) -> Region:
        """The region of that id. UnknownRegion."""
        held = self._index.held.get(number)
        if held is None or not held.whole:
            raise UnknownRegion(str(number))
        return self._shown(held.region)

    def newest(self, tenant: str, name: str) -> Region:
        """The newest region of that name that its readers may open. UnknownRegion."""
        found = [r for r in self.regions() if (r.tenant, r.name) == (tenant, name)]
        usable = [r for r in found if r.state == "committed" or (r.kind == "durable" and r.state != "lost")] or found
        if not usable:
            raise UnknownRegion(f"{tenant}/{name}"[:128])
        return usable[-1]

    def readers(self, tenant: str) -> frozenset[str]:
        """The tenants that may read the immutable regions of this one, besides itself."""
        return self._quotas[tenant].readers if tenant in self._quotas else frozenset()

    async def create(
        self,
        region: Region,
        fds: Sequence[int],
        layout: int | None,
    ) -> Region:
        """Takes in what the region says, and gives it its id and epoch. The descriptors stay the caller's."""
        self._demand_form(region, fds, layout)
        self._demand_room(region)
        self._creating[region.tenant] += region.nbytes
        try:
            self._epoch(region)
            await self._check(fds, region.sizes, region.device)
            return self._take_in(replace(region, epoch=self._epoch(region)), fds, layout)
        except OSError as error:
            raise VaultClosed(f"it can take nothing in: {error.strerror}") from error
        finally:
            self._creating[region.tenant] -= region.nbytes

    def commit(self, number: int, digest: str, process: Identity | None) -> Region:
        """Ends the writing of an immutable region; twice is once. BadRequest, UnknownRegion."""
        region = self.known(number)
        self._demand_memory(region)
        if region.kind != "immutable" or region.creator != process:
            raise BadRequest("region", "an immutable region of the peer's own", f"region {number}")
        if _DIGEST.fullmatch(digest) is None:
            raise BadRequest("digest", "algorithm:hexadecimal", repr(digest[:80]))
        if region.state == "committed":
            if digest != region.digest:
                raise BadRequest("digest", f"that of the commit before, {region.digest}", digest)
            return region
        region = replace(region, state="committed", digest=digest, committed_ns=time.time_ns())
        self._write(Line(held=msgspec.structs.replace(self._index.held[number], region=region)))
        self._changed()
        return region

    def handles(self, region: Region, process: Identity | None, *, write: bool) -> tuple[list[int], int | None]:
        """The descriptors of a region, which stay ours, and of its layout. NotGranted, EpochHeld, BadRequest."""
        self._demand_memory(region)
        if region.kind == "immutable" and region.state != "committed" and region.creator != process:
            raise BadRequest("region", "a committed region", f"region {region.id}, which is {region.state}")
        if write:
            self._demand_writer(region, process)
        held = [self._fds[name] for name in _names(region)[: len(region.sizes)]]
        return held, self._fds[_layout_name(region)] if region.layout_bytes else None

    def release(self, number: int) -> None:
        """Lets go of a region."""
        region = self.known(number)
        self._drop(region)
        self._changed()

    def collect(self, *, dry_run: bool) -> list[Collected]:
        """Lets go of regions that nobody can use any more, or only names them."""
        found = [Collected(region, why) for region in self.regions() if (why := self._of_no_use(region))]
        if not dry_run:
            for one in found:
                self._drop(one.region)
            if found:
                self._changed()
        return found

    def drain(self) -> int:
        """Lets go of everything, and takes nothing in any more."""
        self.closed = "it was drained"
        for process in self.epochs.holders():
            self.epochs.ended(process)
        dropped = self.regions()
        for region in dropped:
            self._drop(region)
        self._changed()
        return len(dropped)

    def ended(self, process: Identity) -> None:
        """A process has ended, which does not say that its work has: see Epochs. What it had not committed goes."""
        for region in self.regions():
            if region.kind == "immutable" and region.state == "open" and region.creator == process:
                self._drop(region)
        self.epochs.ended(process)
        self._changed()

    def _shown(self, region: Region) -> Region:
        return replace(region, state="lost") if region.id in self._lost else region

    def _demand_memory(self, region: Region) -> None:
        if region.id in self._lost:
            raise RegionLost(region.id, region.name, self._lost[region.id])

    def _demand_form(self, region: Region, fds: Sequence[int], layout: int | None) -> None:
        if self.closed:
            raise VaultClosed(self.closed)
        if _NAME.fullmatch(region.name) is None:
            raise BadRequest(
                "name", "1 to 63 of a-z, 0-9, '_', '.' and '-', first a letter or a digit", repr(region.name[:80])
            )
        if not 1 <= len(region.sizes) <= HANDLES_MAX or len(fds) != len(region.sizes):
            raise BadRequest(
                "handles", f"1 to {HANDLES_MAX}, as many as sizes", f"{len(fds)} and {len(region.sizes)} sizes"
            )
        if min(region.sizes) <= 0 or max(region.sizes) > 1 << 50:
            raise BadRequest("sizes", "bytes, over 0", str(min(region.sizes)))
        if layout is not None:
            _demand_layout(layout)

    def _demand_room(self, region: Region) -> None:
        quota = self._quotas[region.tenant]
        own = [r for r in self.regions() if r.tenant == region.tenant]
        nbytes = sum(r.nbytes for r in own) + self._creating[region.tenant] + region.nbytes
        if quota.nbytes is not None and nbytes > quota.nbytes:
            raise QuotaExceeded(region.tenant, "bytes", quota.nbytes, nbytes)
        if (handles := sum(len(r.sizes) for r in own) + len(region.sizes)) > quota.handles:
            raise QuotaExceeded(region.tenant, "handles", quota.handles, handles)
        if len(self._fds) + len(_names(region)) > self._handles_max:
            raise VaultClosed(f"it holds {len(self._fds)} descriptors, and [vault] handles is {self._handles_max}")

    def _epoch(self, region: Region) -> int:
        """The epoch that durable memory belongs to: that which its creator holds."""
        if region.kind == "immutable":
            return 0
        now = self.epochs.of(region.tenant)
        if now.holder == region.creator:
            return now.number
        if now.holder is not None:
            raise EpochHeld(region.tenant, now.number, now.holder.pid)
        raise BadRequest("kind", "the tenant's epoch to be claimed before durable memory is made", region.kind)

    def _demand_writer(self, region: Region, process: Identity | None) -> None:
        if region.kind == "immutable":
            raise BadRequest("write", "a durable region", f"region {region.id}, which is immutable")
        now = self.epochs.of(region.tenant)
        if process is None or now.holder != process:
            raise EpochHeld(region.tenant, now.number, now.holder.pid if now.holder else 0)
        if region.epoch != now.number or region.state != "open":
            writer = self._index.held[region.id].writer
            raise NotGranted(region.id, f"process {writer.pid if writer else 0} is not proven stopped")

    def _take_in(self, region: Region, fds: Sequence[int], layout: int | None) -> Region:
        if self.closed:
            raise VaultClosed(self.closed)
        nbytes = 0 if layout is None else os.fstat(layout).st_size
        region = replace(region, id=self._index.next_id, created_ns=time.time_ns(), layout_bytes=nbytes)
        held = Held(region, region.creator if region.kind == "durable" else None)
        with contextlib.ExitStack() as undo:
            own: dict[str, int] = {}
            passed = [*fds] if layout is None else [*fds, layout]
            for name, fd in zip(_names(region), passed, strict=True):
                own[name] = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
                undo.callback(os.close, own[name])
            self._write(Line(held=held))
            undo.callback(self._write, Line(released=region.id))
            undo.callback(self.holder.let_go, list(own))
            self.holder.hold(own)
            self._write(Line(held=msgspec.structs.replace(held, whole=True)))
            self._fds |= own
            undo.pop_all()
        self._changed()
        return region

    def _write(self, line: Line) -> None:
        """Written and held, or VaultClosed."""
        try:
            self._index.append(line)
        except OSError as error:
            raise VaultClosed(f"its index cannot be written: {error.strerror}") from error
        if not self._index_is_held:
            self.holder.hold({INDEX: self._index.fileno()})
            self._index_is_held = True

    def _drop(self, region: Region) -> None:
        self._write(Line(released=region.id))
        self._lost.pop(region.id, None)
        names = _names(region)
        self.holder.let_go(names)
        for name in names:
            os.close(self._fds.pop(name))

    def _of_no_use(self, region: Region) -> str:
        if region.tenant not in self._quotas:
            return f"no tenant {region.tenant} is configured"
        if region.id in self._lost:
            return f"its memory is lost: {self._lost[region.id]}"
        if region.kind == "immutable":
            newer = [r for r in self.regions() if _same(r, region) and r.id > region.id and r.state == "committed"]
            return f"region {newer[-1].id} of the same name is newer" if newer and region.state == "committed" else ""
        newer = [r for r in self.regions() if _same(r, region) and r.epoch > region.epoch]
        writer = self._index.held[region.id].writer
        if newer and (writer is None or has_ended(writer)):
            return f"region {newer[-1].id} of epoch {newer[-1].epoch} took its place"
        return ""

    def _roll_back(self) -> None:
        """What nobody was answered for, or is not all there, goes; descriptors that belong to nothing are closed."""
        for number, held in list(self._index.held.items()):
            names = _names(held.region)
            if held.whole and all(name in self._fds for name in names):
                continue
            _log.log(logging.WARNING if held.whole else logging.INFO, "region %d is not whole: let go of", number)
            self._index.append(Line(released=number))
        wanted = {name for held in self._index.held.values() for name in _names(held.region)}
        strays = [name for name in self._fds if name not in wanted]
        self.holder.let_go(strays)
        for name in strays:
            os.close(self._fds.pop(name))
        if (fresh := self._index.compact()) is not None:
            self.holder.let_go([INDEX])
            self.holder.hold({INDEX: fresh.fileno()})
            self._index.close()
            self._index = fresh


def _names(region: Region) -> list[str]:
    """Under which names a region's descriptors are held, in order; its layout's last."""
    names = [f"{PREFIX}{region.id}-{number}" for number in range(len(region.sizes))]
    return [*names, _layout_name(region)] if region.layout_bytes else names


def _layout_name(region: Region) -> str:
    return f"{PREFIX}{region.id}-layout"


def _same(one: Region, other: Region) -> bool:
    return (one.tenant, one.name, one.kind) == (other.tenant, other.name, other.kind)


def _demand_layout(layout: int) -> None:
    try:
        seals = fcntl.fcntl(layout, fcntl.F_GET_SEALS)
    except OSError:
        seals = 0
    if seals & SEALS != SEALS:
        raise BadHandle(HANDLES_MAX, "a memfd with all seals as layout", "one that can change")
    if not 0 < os.fstat(layout).st_size <= LAYOUT_BYTES_MAX:
        raise BadHandle(HANDLES_MAX, f"a layout of 1 to {LAYOUT_BYTES_MAX} bytes", f"{os.fstat(layout).st_size} bytes")
