# SPDX-License-Identifier: Apache-2.0
"""What the vault holds, written down: an append-only journal in a memfd, which dies with the memory that it tells of.

A line is the CRC-32 of the rest, a space, JSON and a newline. It is read up to the first line that is not whole;
what comes after that was never answered for. The file is not sealed: the daemon that comes next goes on with it.
"""

import os
import zlib
from collections.abc import Iterable
from typing import Final

import msgspec

from mpsafe.model import Identity, Region

__all__ = ["Epoch", "Held", "Index", "Line"]

COMPACT_BYTES: Final = 1 << 20


class Held(msgspec.Struct, frozen=True, omit_defaults=True):
    """A region as it is from now on.

    `whole` is set once everything of it is held: a region without it was never answered for. `writer`: who may be
    writing durable memory, until that process's work is proven stopped.
    """

    region: Region
    writer: Identity | None = None
    whole: bool = False


class Epoch(msgspec.Struct, frozen=True, omit_defaults=True):
    """The newest epoch of a tenant and the process that holds it; None: nobody does any more."""

    tenant: str
    number: int
    holder: Identity | None = None


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line."""

    held: Held | None = None
    released: int = 0
    epoch: Epoch | None = None
    next_id: int = 0


class Index:
    """The journal behind a memfd, which it takes over; None: a new one."""

    def __init__(self, fd: int | None = None) -> None:
        self._fd = os.memfd_create("mpsafe-vault", os.MFD_CLOEXEC) if fd is None else fd
        self.held: dict[int, Held] = {}
        self.epochs: dict[str, Epoch] = {}
        self.next_id = 1
        self._bytes = 0
        self._load()

    def fileno(self) -> int:
        """The memfd."""
        return self._fd

    def close(self) -> None:
        """Lets go of the memfd; whoever else holds it keeps it."""
        os.close(self._fd)

    def append(self, line: Line) -> None:
        """Takes one line in and writes it. OSError: nothing was taken in, and nothing of it stays."""
        data = _encoded(line)
        try:
            written = os.pwrite(self._fd, data, self._bytes)
            if written < len(data):
                raise OSError(28, "the index of the vault is full")
        except OSError:
            os.ftruncate(self._fd, self._bytes)
            raise
        self._bytes += len(data)
        self._take_in(line)

    def compact(self) -> "Index | None":
        """A new index that says the same in fewer lines, where that is worth it."""
        if self._bytes < COMPACT_BYTES:
            return None
        fresh = Index()
        for line in self._lines():
            fresh.append(line)
        return fresh

    def _lines(self) -> Iterable[Line]:
        yield Line(next_id=self.next_id)
        yield from (Line(epoch=epoch) for epoch in self.epochs.values())
        yield from (Line(held=held) for held in self.held.values())

    def _take_in(self, line: Line) -> None:
        if line.held is not None:
            self.held[line.held.region.id] = line.held
            self.next_id = max(self.next_id, line.held.region.id + 1)
        if line.released:
            self.held.pop(line.released, None)
        if line.epoch is not None:
            self.epochs[line.epoch.tenant] = line.epoch
        self.next_id = max(self.next_id, line.next_id)

    def _load(self) -> None:
        data = os.pread(self._fd, os.fstat(self._fd).st_size, 0)
        for raw in data.splitlines(keepends=True):
            if (line := _decoded(raw)) is None:
                break
            self._bytes += len(raw)
            self._take_in(line)
        os.ftruncate(self._fd, self._bytes)


def _encoded(line: Line) -> bytes:
    body = msgspec.json.encode(line)
    return b"%08x %s\n" % (zlib.crc32(body), body)


def _decoded(raw: bytes) -> Line | None:
    body = raw[9:-1]
    if not raw.endswith(b"\n") or raw[:9] != b"%08x " % zlib.crc32(body):
        return None
    try:
        return msgspec.json.decode(body, type=Line)
    except msgspec.DecodeError:
        return None
