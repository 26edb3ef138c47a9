# SPDX-License-Identifier: Apache-2.0
"""The kernel log as the journal keeps it, for where /dev/kmsg cannot be read.

journald sets `_TRANSPORT` itself, whatever a client sends (systemd.journal-fields(7)). A process that writes
to /dev/kmsg has its line there, too, but with a facility other than the kernel's: lines count only where
`SYSLOG_FACILITY` is 0 (journald 252, measured). Users' own journals are not opened.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Final

import systemd.journal

from mpsafe import xid
from mpsafe.errors import SourceLost
from mpsafed.signals import Cursor, XidSeen
from mpsafed.sources import Emit, readable

__all__ = ["JOURNAL", "KernelJournal", "xid_of"]

JOURNAL: Final = "journal"
READ_MAX: Final = 64
# journald wakes its readers after it has written, where inotify tells of it: seen not to come once in a thousand runs.
LOOK_SECONDS: Final = 2.0


class KernelJournal:
    """Emits XidSeen. A cursor's stream is "journal" and the journal's own cursor.

    `start` is where an earlier run has read to; without it, what is there is old. `directory` is another
    journal in place of this machine's.
    """

    name = "kernel-log"

    def __init__(self, start: Cursor | None, directory: str | None = None) -> None:
        self._directory = directory
        known = start is not None and start.stream.startswith(f"{JOURNAL} ")
        self._cursor = start if start is not None and known else self._end()

    @property
    def cursor(self) -> Cursor:
        """Where this source has read to."""
        return self._cursor

    async def run(self, emit: Emit, alive: Callable[[str], None]) -> None:
        """Reads for ever. Raises SourceLost where there is no journal."""
        with contextlib.closing(self._open()) as reader:
            # From here on it is watched: what is written after a `get_next` that found nothing makes it readable.
            changes = reader.fileno()
            entry = _seek(reader, self._cursor)
            alive("the journal" if self._directory is None else f"the journal in {self._directory}")
            while True:
                for _ in range(READ_MAX):
                    if not (entry := entry or reader.get_next()):
                        with contextlib.suppress(TimeoutError):
                            await asyncio.wait_for(readable(changes), LOOK_SECONDS)
                        reader.process()
                        break
                    self._cursor = _cursor(entry)
                    if (signal := xid_of(entry, self._cursor)) is not None:
                        emit(signal)
                    entry = {}
                else:
                    await asyncio.sleep(0)

    def _open(self) -> systemd.journal.Reader:
        system = systemd.journal.LOCAL_ONLY | systemd.journal.SYSTEM
        converters = {"__REALTIME_TIMESTAMP": int}
        if self._directory is None:
            reader = systemd.journal.Reader(system, converters=converters)
        else:
            reader = systemd.journal.Reader(path=self._directory, converters=converters)
        if not (reader.has_runtime_files() or reader.has_persistent_files()) and self._directory is None:
            reader.close()
            raise SourceLost(self.name, "there is no journal to read; name another in [sources] kernel_log")
        reader.this_boot()
        reader.add_match(_TRANSPORT="kernel")
        return reader

    def _end(self) -> Cursor:
        with contextlib.suppress(SourceLost, OSError), contextlib.closing(self._open()) as reader:
            reader.seek_tail()
            if entry := reader.get_previous():
                return _cursor(entry)
        return Cursor(self.name, f"{JOURNAL} of nothing", 0)


def xid_of(entry: Mapping[str, object], cursor: Cursor) -> XidSeen | None:
    """What an entry means. Its time is when journald took it, by CLOCK_REALTIME: printk's stamps drift."""
    text, usec = entry.get("MESSAGE"), entry.get("__REALTIME_TIMESTAMP")
    if entry.get("_TRANSPORT") != "kernel" or entry.get("SYSLOG_FACILITY") != 0:
        return None
    if not isinstance(text, str) or not isinstance(usec, int):
        return None
    text = text.partition("\n")[0]
    parsed = xid.parse_message(text)
    return XidSeen(time_ns=usec * 1000, cursor=cursor, xid=parsed, text=text) if parsed is not None else None


def _cursor(entry: Mapping[str, object]) -> Cursor:
    return Cursor(KernelJournal.name, f"{JOURNAL} {entry['__CURSOR']}", 0)


def _seek(reader: systemd.journal.Reader, cursor: Cursor) -> dict[str, object]:
    """Goes behind the cursor's entry. Returns the next one already where the cursor's is not there any more.

    A cursor of no journal is the end: journald enters what the kernel said before it was started as of now.
    """
    place = cursor.stream.removeprefix(f"{JOURNAL} ")
    try:
        reader.seek_cursor(place)
    except (OSError, ValueError):  # the latter for one that is none
        reader.seek_tail()
        if not reader.get_previous():
            reader.seek_head()
        return {}
    entry = reader.get_next()
    return {} if not entry or entry["__CURSOR"] == place else entry
