# SPDX-License-Identifier: Apache-2.0
"""A device's link, shared by those who load over it: a page of cells, one for each process, and the rule over them.

A load on demand always starts at once. A prefetch starts only while nobody loads on demand, and within the process's
share of the link. Nothing of that is a call: a process writes its own cell and reads the others'. It is cooperative:
the page can be written by all who have it, and who does not write a cell is not seen. What goes wrong is slow, never
wrong.

Layout, version 1, little-endian. A header of 64 bytes, then CELLS cells of 64 bytes:

    header  magic "MPSAFELK", u32 version, u32 cell bytes, u32 cells, u32 reserved, u64 bytes a second of the link
    cell    u64 pid (0: free), u64 start time (clock ticks, proc(5)), u64 bytes on demand in flight, u64 bytes of
            prefetches in flight, u64 CLOCK_MONOTONIC ns of the last update, u64 weight, 16 bytes reserved

The daemon writes a cell when it gives it out, and zeroes it when its connection or its process ends; between the two
its process alone writes it. Numbers are aligned and written one by one, so none is torn; a cell that has not been
written for STALE_NS says nothing about what is in flight. A process with a load that takes longer than that updates.
"""

import mmap
import os
import struct
import threading
import time
from collections.abc import Iterable
from typing import Final, NamedTuple, Self

from mpsafe.errors import PeerMisbehaved

__all__ = [
    "CELLS",
    "CELL_BYTES",
    "HEADER",
    "HEADER_BYTES",
    "MAGIC",
    "PAGE_BYTES",
    "STALE_NS",
    "VERSION",
    "Budget",
    "Cell",
    "Link",
]

MAGIC: Final = b"MPSAFELK"
VERSION: Final = 1
HEADER: Final = struct.Struct("<8sIIIIQ")
HEADER_BYTES: Final = 64
CELL_BYTES: Final = 64
CELLS: Final = 255
PAGE_BYTES: Final = HEADER_BYTES + CELLS * CELL_BYTES
STALE_NS: Final = 1_000_000_000
# How much of its share may have been saved up, in seconds.
BURST_S: Final = 0.01

_WORDS: Final = CELL_BYTES // 8
_FIRST: Final = HEADER_BYTES // 8
_ON_DEMAND, _PREFETCH, _UPDATED = 2, 3, 4


class Cell(NamedTuple):
    """One process's loads over the link, in bytes."""

    pid: int
    start_ticks: int
    on_demand_bytes: int
    prefetch_bytes: int
    updated_ns: int
    weight: int

    def fresh(self, now_ns: int) -> bool:
        """Whether what it says of loads in flight still counts."""
        return now_ns - self.updated_ns < STALE_NS


class Budget:
    """The rule, without a clock and without a page: a token bucket, and nothing while somebody waits for a load.

    A chunk that is larger than what can be saved up starts when the bucket is full, and is paid for afterwards.
    """

    def __init__(self, bytes_per_s: int, now_ns: int) -> None:
        self._bytes_per_s = bytes_per_s
        self._saved = 0.0
        self._at_ns = now_ns

    def may_prefetch(self, nbytes: int, own: int, cells: Iterable[tuple[int, Cell]], now_ns: int) -> bool:
        """Whether a prefetch of so many bytes may start now; if so, it is paid for. `own`: the place of our cell."""
        weight, weights = 0, 0
        for place, cell in cells:
            weights += cell.weight
            if place == own:
                weight = cell.weight
            if cell.on_demand_bytes and cell.fresh(now_ns):
                return False
        rate = self._bytes_per_s * weight / weights if weight else 0.0
        most = rate * BURST_S
        self._saved = min(most, self._saved + rate * (now_ns - self._at_ns) / 1e9)
        self._at_ns = now_ns
        if self._saved < min(nbytes, most) or not weight:
            return False
        self._saved -= nbytes
        return True


class Link:
    """A mapped link page and one's own cell. Takes over the descriptor. Any thread may use it.

    Raises PeerMisbehaved if the descriptor is no link page of a version that we read.
    """

    def __init__(self, fd: int, cell: int) -> None:
        try:
            self._map = mmap.mmap(fd, PAGE_BYTES)
        except (OSError, ValueError) as error:
            raise PeerMisbehaved("mpsafed", f"a link page of {PAGE_BYTES} bytes", str(error)) from error
        finally:
            os.close(fd)
        magic, version, cell_bytes, cells, _, bytes_per_s = HEADER.unpack_from(self._map)
        if (magic, version, cell_bytes, cells) != (MAGIC, VERSION, CELL_BYTES, CELLS) or not 0 <= cell < CELLS:
            self._map.close()
            raise PeerMisbehaved("mpsafed", f"a link page of version {VERSION}", f"{magic!r}, version {version}")
        self._lock = threading.Lock()
        self.cell = cell
        self._words = memoryview(self._map).cast("Q")
        self._pids = self._words[_FIRST::_WORDS]
        self._budget = Budget(bytes_per_s, time.monotonic_ns())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmaps the page; the daemon frees the cell when the connection is closed."""
        self._pids.release()
        self._words.release()
        self._map.close()

    def become(self, other: "Link") -> None:
        """From here on this is the other page, and the other cell: another daemon's. Takes `other` over."""
        with self._lock:
            old = self._map, self._words, self._pids
            self.cell, self._budget = other.cell, other._budget
            self._map, self._words, self._pids = other._map, other._words, other._pids
            other._map, other._words, other._pids = old
        other.close()

    def cells(self) -> list[tuple[int, Cell]]:
        """The cells that are in use, with their places."""
        with self._lock:
            return self._cells()

    def _cells(self) -> list[tuple[int, Cell]]:
        words, found = self._words, list[tuple[int, Cell]]()
        for place, pid in enumerate(self._pids.tolist()):
            if pid:
                at = _FIRST + place * _WORDS
                found.append((place, Cell(*words[at : at + 6].tolist())))
        return found

    def load(self, nbytes: int) -> None:
        """A load on demand starts: now, and prefetches of all processes wait."""
        self._add(_ON_DEMAND, nbytes)

    def loaded(self, nbytes: int) -> None:
        """It has ended."""
        self._add(_ON_DEMAND, -nbytes)

    def prefetch(self, nbytes: int) -> bool:
        """Whether a prefetch may start; if so, it has."""
        with self._lock:
            if not self._budget.may_prefetch(nbytes, self.cell, self._cells(), time.monotonic_ns()):
                return False
        self._add(_PREFETCH, nbytes)
        return True

    def prefetched(self, nbytes: int) -> None:
        """It has ended."""
        self._add(_PREFETCH, -nbytes)

    def update(self) -> None:
        """What is in flight still is; wanted of a load that takes longer than STALE_NS."""
        self._add(_ON_DEMAND, 0)

    def _add(self, word: int, nbytes: int) -> None:
        with self._lock:
            at = _FIRST + self.cell * _WORDS
            self._words[at + word] = max(0, self._words[at + word] + nbytes)
            self._words[at + _UPDATED] = time.monotonic_ns()
