# SPDX-License-Identifier: Apache-2.0
"""The kernel log: /dev/kmsg, or a file of the same record form in its place, or the journal's copy.

A record is "<priority>,<sequence>,<microseconds>,<flags>[,...];<text>" (kernel document
ABI/testing/dev-kmsg). Any process that may write to /dev/kmsg can put a line there, but only with a
facility other than the kernel's: lines count only where the facility is 0.
"""

import asyncio
import errno
import os
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

from mpsafe import xid
from mpsafed.signals import Cursor, SignalsLost, XidSeen
from mpsafed.sources import Emit, Source, monotonic_to_realtime_ns, now_ns, readable
from mpsafed.sources.kernel_journal import JOURNAL, KernelJournal
from mpsafed.sources.tail import end_of, follow

__all__ = ["KernelLog", "PrintkClock", "kernel_log"]

DEVICE: Final = "/dev/kmsg"
RECORD_MAX: Final = 8192
READ_MAX: Final = 256
_RECORD: Final = re.compile(
    r"(?P<priority>\d{1,10}),(?P<seq>\d{1,20}),(?P<usec>\d{1,20}),[^;]{0,64};(?P<text>.*)", re.DOTALL
)


def kernel_log(setting: str, start: Cursor | None) -> Source:
    """What [sources] kernel_log means: the journal's copy where it says so, or where /dev/kmsg cannot be opened."""
    if setting == JOURNAL or (setting == DEVICE and not _opens(DEVICE)):
        return KernelJournal(start)
    return KernelLog(Path(setting), start)


def _opens(path: str) -> bool:
    """Tried and not guessed: what its mode allows, the kernel may refuse (sysctl kernel.dmesg_restrict)."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False
    return True


class KernelLog:
    """Emits XidSeen. `start` is where an earlier run has read to; without it, what is there is old."""

    name = "kernel-log"

    def __init__(self, path: Path, start: Cursor | None) -> None:
        self._path = path
        self._device = path.is_char_device()
        if start is not None and start.stream.startswith(JOURNAL):
            start = None
        self._cursor = start or (_end_of_device(path) if self._device else end_of(path, self.name))
        self._clock = PrintkClock()

    @property
    def cursor(self) -> Cursor:
        """Where this source has read to."""
        return self._cursor

    async def run(self, emit: Emit, alive: Callable[[str], None]) -> None:
        """Reads until the file is gone."""

        def opened() -> None:
            alive(os.fspath(self._path))

        records = self._read_device(emit, opened) if self._device else follow(self._path, self._cursor, opened)
        async for record, cursor in records:
            self._cursor = cursor
            if "NVRM: Xid" not in record:
                continue
            found = _RECORD.fullmatch(record)
            if found is None or int(found["priority"]) >> 3 != 0:
                continue
            text = found["text"].partition("\n")[0]
            parsed = xid.parse_message(text)
            if parsed is not None:
                when = self._clock.time_ns(int(found["usec"]) * 1000)
                emit(XidSeen(time_ns=when, cursor=cursor, xid=parsed, text=text))

    async def _read_device(self, emit: Emit, opened: Callable[[], None]) -> AsyncIterator[tuple[str, Cursor]]:
        boot = _boot()
        seen = self._cursor.position if self._cursor.stream == boot else -1
        fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        opened()
        waited, read = False, 0
        try:
            while True:
                record = _read_record(fd)
                if record is None:
                    await readable(fd)
                    waited, read = True, 0
                    continue
                if (read := read + 1) % READ_MAX == 0:
                    await asyncio.sleep(0)
                found = _RECORD.fullmatch(record)
                if found is None or int(found["seq"]) <= seen:
                    continue
                if waited:
                    self._clock.arrived(int(found["usec"]) * 1000)
                    waited = False
                position = int(found["seq"])
                if 0 <= seen < position - 1:
                    emit(SignalsLost(time_ns=now_ns(), source=self.name, count=position - seen - 1))
                seen = position
                yield record, Cursor(self.name, boot, position)
        finally:
            os.close(fd)


class PrintkClock:
    """What time printk's stamps are.

    They are of a clock of its own, which drifts from CLOCK_MONOTONIC by seconds a day and stands still while
    the machine sleeps. A record that comes while one waits for it happened now: that sets the clock.
    """

    def __init__(self) -> None:
        self._ahead_ns: int | None = None

    def arrived(self, stamp_ns: int) -> None:
        """A record of this stamp came just now."""
        self._ahead_ns = now_ns() - stamp_ns

    def time_ns(self, stamp_ns: int) -> int:
        """CLOCK_REALTIME of a stamp, both in nanoseconds; by CLOCK_MONOTONIC until a record has come."""
        return monotonic_to_realtime_ns(stamp_ns) if self._ahead_ns is None else stamp_ns + self._ahead_ns


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _read_record(fd: int) -> str | None:
    """The next record; None if there is none yet. Records that were overwritten are skipped (EPIPE)."""
    while True:
        try:
            return os.read(fd, RECORD_MAX).decode("utf-8", "replace")
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno != errno.EPIPE:
                raise


def _end_of_device(path: Path) -> Cursor:
    last = -1
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return Cursor(KernelLog.name, "absent", 0)
    try:
        while (record := _read_record(fd)) is not None:
            if (found := _RECORD.fullmatch(record)) is not None:
                last = int(found["seq"])
    finally:
        os.close(fd)
    return Cursor(KernelLog.name, _boot(), last)
