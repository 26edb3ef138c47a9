# SPDX-License-Identifier: Apache-2.0
"""Writes the status page, layout and meaning in mpsafe/status.py, and wakes those who watch it."""

import asyncio
import contextlib
import fcntl
import mmap
import os
import time
from collections.abc import Callable, Iterable
from typing import Final

from mpsafe.model import Tenant
from mpsafe.status import (
    HEADER,
    HEADER_BYTES,
    HEALTH,
    MAGIC,
    PAGE_BYTES,
    RECORD,
    RECORD_BYTES,
    SEQUENCE_OFFSET,
    TENANTS,
    VERSION,
)

__all__ = ["Board", "Page"]

# fcntl(2): numbers of linux/fcntl.h; Python 3.11 has no name for the last one.
_F_SEAL_FUTURE_WRITE: Final = 0x0010
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _F_SEAL_FUTURE_WRITE
_NOBODY: Final = 0xFFFFFFFF
_U32_MAX: Final = (1 << 32) - 1
_U64_MAX: Final = (1 << 64) - 1


class Page:
    """One page, one epoch. Everybody else can map it for reading only (F_SEAL_FUTURE_WRITE)."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("mpsafe-status", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, PAGE_BYTES)
        self._map = mmap.mmap(self.fd, PAGE_BYTES)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS | fcntl.F_SEAL_SEAL)
        self.epoch = time.time_ns()
        self._sequence = 0
        self.write([], 0)

    def write(self, tenants: Iterable[Tenant], last_event: int) -> None:
        """Replaces what the page says."""
        records = [_record(tenant) for tenant in tenants][:TENANTS]
        self._set_sequence(self._sequence + 1)
        for index, record in enumerate(records):
            offset = HEADER_BYTES + index * RECORD_BYTES
            self._map[offset : offset + RECORD.size] = record
        # Packed apart: pack_into() would clear the place first, and a reader look at a header of zeros.
        self._map[: HEADER.size] = HEADER.pack(
            MAGIC, VERSION, HEADER_BYTES, RECORD_BYTES, len(records),
            self.epoch, self._sequence, last_event, time.monotonic_ns(), PAGE_BYTES,
        )  # fmt: skip
        self._set_sequence(self._sequence + 1)

    def close(self) -> None:
        """Unmaps the page; readers keep what they have mapped."""
        self._map.close()
        os.close(self.fd)

    def _set_sequence(self, sequence: int) -> None:
        self._sequence = sequence
        self._map[SEQUENCE_OFFSET : SEQUENCE_OFFSET + 8] = sequence.to_bytes(8, "little")


class Board:
    """The page as it is kept: `tenants` and `last_event` say what stands on it, `wakes` are eventfds of readers."""

    def __init__(self, *, tenants: Callable[[], list[Tenant]], last_event: Callable[[], int]) -> None:
        self.page = Page()
        self.wakes: set[int] = set()
        self._tenants = tenants
        self._last_event = last_event
        self._stale = False
        self._closed = False

    def refresh(self) -> None:
        """Writes the page soon, once however often it is asked, and wakes everybody."""
        if not self._stale:
            self._stale = True
            asyncio.get_running_loop().call_soon(self._write)

    def close(self) -> None:
        """Writes no more."""
        self._closed = True
        self.page.close()

    def _write(self) -> None:
        self._stale = False
        if self._closed:
            return
        self.page.write(self._tenants(), self._last_event())
        for wake in self.wakes:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_write(wake, 1)


def _record(tenant: Tenant) -> bytes:
    name = tenant.name.encode()[:31]
    uid = _NOBODY if tenant.uid is None else tenant.uid
    told = tenant.figures
    return RECORD.pack(
        name, uid, HEALTH.index(tenant.health), tenant.generation, len(tenant.clients),
        min(told.in_flight or 0, _U32_MAX), min(told.queue or 0, _U32_MAX), 0,
        min(told.latency_ns or 0, _U64_MAX), min(told.resident_bytes or 0, _U64_MAX),
    )  # fmt: skip
