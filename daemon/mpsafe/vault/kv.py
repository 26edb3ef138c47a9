# SPDX-License-Identifier: Apache-2.0
"""A cache of keys and values in durable memory: one slot for each open request, which only grows.

Each commit publishes how far every slot has come, with a checksum of what is in it, computed on the device: a commit
costs what was appended since the last one. Who takes over checks each slot before it trusts it.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Final, Self

import msgspec

from mpsafe import cuda
from mpsafe.errors import ContentsChanged
from mpsafe.vault.checksum import MASK, WORD_BYTES
from mpsafe.vault.durable import Durable
from mpsafe.vault.region import Vault

__all__ = ["Entry", "KvCache"]

NOTE_MAX: Final = 4096


class _Shape(msgspec.Struct):
    slots: Annotated[int, msgspec.Meta(gt=0)]
    slot_bytes: Annotated[int, msgspec.Meta(gt=0, multiple_of=WORD_BYTES)]


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One open request as it is published: its slot, how many bytes of it count, their checksum, the owner's note."""

    request: str
    slot: int
    nbytes: Annotated[int, msgspec.Meta(ge=0, multiple_of=WORD_BYTES)]
    checksum: int
    note: bytes = b""


@dataclass(frozen=True, slots=True)
class _Open:
    """A request with what is in its slot, published or not."""

    entry: Entry
    filled: int


class KvCache:
    """`slots` of `slot_bytes` each, over durable memory, closed with it; `durable` is None for a scratch one."""

    def __init__(self, vault: Vault, data: cuda.Span, shape: "_Shape", durable: Durable | None) -> None:
        self.durable = durable
        self.slots, self.slot_bytes = shape.slots, shape.slot_bytes
        self._data = data
        self._checksum = vault.checksum
        self._open = {entry.slot: _Open(entry, entry.nbytes) for entry in self.entries()}
        # What the newest generation tells of is not overwritten before the next one is published.
        self._published = set(self._open)

    @classmethod
    def create(cls, vault: Vault, name: str, *, slots: int, slot_bytes: int) -> Self:
        """A new, empty one; this process holds the tenant's epoch."""
        if slot_bytes % WORD_BYTES:
            raise ValueError(f"slot_bytes is a multiple of {WORD_BYTES}, not {slot_bytes}")
        layout = msgspec.json.encode(_Shape(slots, slot_bytes))
        durable = Durable.create(vault, name, slots * slot_bytes, layout=layout)
        return cls(vault, durable.data, _Shape(slots, slot_bytes), durable)

    @classmethod
    def scratch(cls, vault: Vault, *, slots: int, slot_bytes: int) -> Self:
        """One in this process's own memory, to take over into: nothing is published of it."""
        return cls(vault, cuda.Buffer(vault.context, slots * slot_bytes), _Shape(slots, slot_bytes), None)

    @classmethod
    def open(cls, vault: Vault, name: str, *, write: bool = False) -> Self:
        """The newest of that name, as it was committed."""
        with contextlib.ExitStack() as undo:
            durable = undo.enter_context(Durable.open(vault, name, write=write))
            info = durable.region.info
            try:
                shape = msgspec.json.decode(durable.region.layout, type=_Shape)
                if shape.slots * shape.slot_bytes > durable.data.nbytes:
                    raise msgspec.ValidationError(f"{shape.slots} slots of {shape.slot_bytes} bytes")
            except msgspec.DecodeError as error:
                raise ContentsChanged(info.id, "the shape of a cache as its layout", str(error)) from error
            cache = cls(vault, durable.data, shape, durable)
            undo.pop_all()
            return cache

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmaps the region, or gives the memory back."""
        if self.durable is not None:
            self.durable.close()
        elif isinstance(self._data, cuda.Buffer):
            self._data.close()

    def span(self, slot: int) -> cuda.Span:
        """Where a slot lies; what is written beyond what counts is told by `wrote`."""
        if not 0 <= slot < self.slots:
            raise ValueError(f"slot {slot} is not among {self.slots}")
        data = self._data
        return cuda.Span(data.context, data.address + slot * self.slot_bytes, self.slot_bytes)

    def begin(self, request: str, note: bytes = b"") -> int:
        """A slot for a request; LookupError where all are taken, or were when it was last committed."""
        taken = self._open.keys() | self._published
        slot = next((slot for slot in range(self.slots) if slot not in taken), None)
        if slot is None:
            raise LookupError(f"all {self.slots} slots of the cache are taken; those finished are free once committed")
        self._open[slot] = _Open(Entry(request, slot, 0, 0, _bounded(note)), 0)
        return slot

    def wrote(self, slot: int, nbytes: int) -> None:
        """That many more bytes are in the slot, or will be when the stream has come so far."""
        one = self._open[slot]
        if nbytes % WORD_BYTES or not 0 <= nbytes <= self.slot_bytes - one.filled:
            raise ValueError(f"{nbytes} bytes behind {one.filled} are not in a slot of {self.slot_bytes}")
        self._open[slot] = replace(one, filled=one.filled + nbytes)

    def append(self, slot: int, data: bytes) -> None:
        """Copies bytes behind what is in the slot."""
        filled = self._open[slot].filled
        self.wrote(slot, len(data))
        self.span(slot).write(data, offset=filled)

    def note(self, slot: int, note: bytes) -> None:
        """What the owner wants to know of a request when it is taken over."""
        one = self._open[slot]
        self._open[slot] = replace(one, entry=msgspec.structs.replace(one.entry, note=_bounded(note)))

    def finish(self, slot: int) -> None:
        """The request is over; its slot may be taken once that is committed."""
        del self._open[slot]

    def commit(self, stream: cuda.Stream | None = None) -> None:
        """Publishes all that was written before, when the stream has come so far (None: all streams)."""
        self._finished(stream)
        grown = {slot: one for slot, one in self._open.items() if one.filled > one.entry.nbytes}
        sums = self._checksum.each([(self.span(slot), one.entry.nbytes, one.filled) for slot, one in grown.items()])
        for (slot, one), added in zip(grown.items(), sums, strict=True):
            checksum = (one.entry.checksum + added) & MASK
            entry = msgspec.structs.replace(one.entry, nbytes=one.filled, checksum=checksum)
            self._open[slot] = replace(one, entry=entry)
        if self.durable is not None:
            self.durable.commit(msgspec.msgpack.encode([one.entry for one in self._open.values()]), stream)
            self._published = set(self._open)

    def open_entries(self) -> list[Entry]:
        """The requests that are open here, as of the last commit or copy."""
        return [one.entry for one in self._open.values()]

    def entries(self) -> list[Entry]:
        """The requests of the newest generation; ContentsChanged if what was published makes no sense."""
        newest = self.durable.committed() if self.durable is not None else None
        if newest is None or self.durable is None:
            return []
        try:
            found = msgspec.msgpack.decode(newest.payload, type=list[Entry])
        except msgspec.DecodeError as error:
            raise ContentsChanged(self.durable.region.info.id, "the table of a cache", str(error)) from error
        seen: set[int] = set()
        for entry in found:
            if not (0 <= entry.slot < self.slots and entry.nbytes <= self.slot_bytes) or entry.slot in seen:
                what = f"{entry.nbytes} bytes in slot {entry.slot}"
                raise ContentsChanged(self.durable.region.info.id, f"each of {self.slots} slots at most once", what)
            seen.add(entry.slot)
        return found

    def verified(self) -> list[Entry]:
        """Those whose bytes are what was published of them."""
        entries = self.entries()
        sums = self._checksum.each([(self.span(entry.slot), 0, entry.nbytes) for entry in entries])
        return [entry for entry, found in zip(entries, sums, strict=True) if entry.checksum == found]

    def copy_to(self, other: "KvCache", stream: cuda.Stream | None = None) -> list[Entry]:
        """Copies what was published into another cache of the same shape, device to device, and checks it there.

        Returns what arrived whole, which is open there, and not yet committed. ValueError for another shape.
        """
        entries = self.entries()
        self._copy(entries, other, stream)
        sums = self._checksum.each([(other.span(entry.slot), 0, entry.nbytes) for entry in entries])
        whole = [entry for entry, found in zip(entries, sums, strict=True) if entry.checksum == found]
        other._open = {entry.slot: _Open(entry, entry.nbytes) for entry in whole}
        return whole

    def move_to(self, other: "KvCache", stream: cuda.Stream | None = None) -> None:
        """Has another cache of the same shape go on with what is open here, published or not."""
        here = self._open.values()
        self._copy([msgspec.structs.replace(one.entry, nbytes=one.filled) for one in here], other, stream)
        unpublished = [replace(one, entry=msgspec.structs.replace(one.entry, nbytes=0, checksum=0)) for one in here]
        other._open = {one.entry.slot: one for one in unpublished}

    def _copy(self, entries: Sequence[Entry], other: "KvCache", stream: cuda.Stream | None) -> None:
        if (self.slots, self.slot_bytes) != (other.slots, other.slot_bytes):
            shapes = f"{other.slots} slots of {other.slot_bytes} bytes for {self.slots} of {self.slot_bytes}"
            raise ValueError(f"the caches differ: {shapes}")
        if other._published:
            raise ValueError(f"the cache to copy into has published {len(other._published)} requests; make a new one")
        for entry in entries:
            if entry.nbytes:
                source = cuda.Span(self._data.context, self.span(entry.slot).address, entry.nbytes)
                other.span(entry.slot).copy_from(source, stream=stream)
        self._finished(stream)

    def _finished(self, stream: cuda.Stream | None) -> None:
        if stream is None:
            self._data.context.synchronize()
        else:
            stream.synchronize()


def _bounded(note: bytes) -> bytes:
    if len(note) > NOTE_MAX:
        raise ValueError(f"a note has at most {NOTE_MAX} bytes, this one {len(note)}")
    return note
