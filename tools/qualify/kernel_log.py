# SPDX-License-Identifier: Apache-2.0
"""The kernel log, followed from now on: /dev/kmsg, or a file of such records in its place."""

import os
import re
import select
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

__all__ = ["KMSG", "KernelLog", "XidLine"]

KMSG: Final = Path("/dev/kmsg")
_RECORD: Final = re.compile(rb"\d+,\d+,\d+,[^;]*;(.*)")
_XID: Final = re.compile(r"NVRM: Xid \(.*?\): (\d+)(?:,.*?pid='?(\d+))?")
_RECORD_MAX_BYTES: Final = 8192
_POLL_S: Final = 0.002


@dataclass(frozen=True, slots=True)
class XidLine:
    """One Xid as the log told it; `seen_ns` is CLOCK_MONOTONIC when we read the line."""

    xid: int
    pid: int | None
    seen_ns: int
    text: str


class KernelLog:
    """Reads records in a thread from when it is entered. OSError if the log cannot be opened."""

    def __init__(self, path: Path = KMSG) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(self._fd, 0, os.SEEK_END)
        self._changed = threading.Condition()
        self._lines: list[tuple[int, str]] = []
        self._stopping = threading.Event()
        self._reader = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._reader.join()
        os.close(self._fd)

    def driver_lines(self) -> list[str]:
        """Each line of the driver so far."""
        with self._changed:
            return [text for _, text in self._lines]

    def xids(self) -> list[XidLine]:
        """Each Xid so far."""
        with self._changed:
            found = [(seen_ns, text, _XID.search(text)) for seen_ns, text in self._lines]
        return [
            XidLine(xid=int(match[1]), pid=int(match[2]) if match[2] else None, seen_ns=seen_ns, text=text)
            for seen_ns, text, match in found
            if match
        ]

    def settle(self, *, first_s: float, quiet_s: float) -> None:
        """Waits up to `first_s` for a line of the driver, then until none came for `quiet_s`."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._lines), timeout=first_s)
            while self._changed.wait(timeout=quiet_s):
                pass

    def _follow(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        rest = b""
        while not self._stopping.is_set():
            poll.poll(100)
            try:
                read = os.read(self._fd, _RECORD_MAX_BYTES)
            except BlockingIOError:
                continue
            except BrokenPipeError:  # records were overwritten before we read them; the next read goes on
                continue
            if not read:  # a regular file is always readable, also at its end
                self._stopping.wait(_POLL_S)
                continue
            *records, rest = (rest + read).split(b"\n")
            self._keep(records)

    def _keep(self, records: list[bytes]) -> None:
        seen_ns = time.monotonic_ns()
        texts = [match[1].decode("utf-8", "replace") for record in records if (match := _RECORD.match(record))]
        ours = [(seen_ns, text) for text in texts if "NVRM" in text or "nvidia" in text.lower()]
        if ours:
            with self._changed:
                self._lines += ours
                self._changed.notify_all()
