# SPDX-License-Identifier: Apache-2.0
"""MPS's control.log and server.log, a pair of sources for each control daemon.

Lines are "[YYYY-MM-DD HH:MM:SS.mmm Control|Server|Other <pid>] text". Forms: 535.309.01, 550.163.01 and, with
faults, 580.159.04, as measured; a change of a server's status as NVIDIA's documents have it.
What is not recognised is not a signal. Rotation and truncation: see tail.py.

The lines with which a server ends a client that holds too much memory (MPS v3 memory partitioning, CUDA 13.4)
are not recognised: NVIDIA's documents say that they are there and not how they read.
"""

import os
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Final, TypeAlias

from typing_extensions import override

from mpsafe.model import ServerState
from mpsafed.signals import ClientConnected, Cursor, FaultMet, ServerChanged, Signal
from mpsafed.sources import Emit, now_ns
from mpsafed.sources.tail import end_of, follow

__all__ = ["ControlLog", "ServerLog", "local_time_ns"]

_LINE: Final = re.compile(
    r"\[(?P<time>[0-9-]{10} [0-9:]{8}\.\d{3}) (?:Legacy )?(?:Control|Server|Other) +(?P<pid>\d{1,10})\] (?P<text>.*)"
)
_STARTING: Final = re.compile(r"Starting new server (\d{1,10}) for user (\d{1,10})")
_READY: Final = re.compile(r"NEW SERVER (\d{1,10}): Ready")
_EXITED: Final = re.compile(r"Server (\d{1,10}) exited with status (-?\d{1,5})")
_STATUS: Final = re.compile(r"Server status changed to (INITIALIZING|ACTIVE|FAULT)")
_CONNECTED: Final = re.compile(r"Client \{PID: (\d{1,10}), Context ID: \d{1,10}\} connected")
_MET: Final = re.compile(r"Client \{PID: (\d{1,10}), Context(?: ID)?: \d{1,10}\} encountered a fatal GPU error\.")
_FATAL: Final = "Server is handling a fatal GPU error."
# After a fault: its clients have left, and it begins anew.
_ANEW: Final = re.compile(r"Creating server context on device \d{1,4} \(.{1,128}\)")

_STATES: Final[dict[str, ServerState]] = {"INITIALIZING": "initializing", "ACTIVE": "active", "FAULT": "fault"}
TEXT_MAX: Final = 512

Writer: TypeAlias = Callable[[], int | None]


def _root() -> int:
    return 0


class _Log:
    """One log of one control daemon.

    `writer` says whose lines these can be: a uid, root's where it is 0, anybody's where it is None.
    """

    name: str
    file: ClassVar[str]

    def __init__(
        self, directory: Path, start: Cursor | None, *, control: str = "default", writer: Writer = _root
    ) -> None:
        self.name = self.name_of(control)
        self._control = control
        self._writer = writer
        self._path = directory / self.file
        self._cursor = start or end_of(self._path, self.name)

    @classmethod
    def name_of(cls, control: str) -> str:
        """The name of this source for a control daemon, as its cursors and `mpsafe status` have it."""
        return cls.name if control == "default" else f"{cls.name} {control}"

    @property
    def cursor(self) -> Cursor:
        """Where this source has read to."""
        return self._cursor

    async def run(self, emit: Emit, alive: Callable[[str], None]) -> None:
        """Reads until the file is gone."""
        async for line, cursor in follow(self._path, self._cursor, lambda: alive(os.fspath(self._path))):
            self._cursor = cursor
            found = _LINE.fullmatch(line)
            if found is None:
                continue
            signal = self._parse(
                int(found["pid"]), found["text"][:TEXT_MAX], local_time_ns(found["time"], now_ns=now_ns())
            )
            if signal is not None:
                emit(signal)

    def _parse(self, pid: int, text: str, time_ns: int) -> Signal | None:
        raise NotImplementedError

    def _changed(
        self, server: int, state: ServerState, text: str, time_ns: int, *, uid: int | None = None
    ) -> ServerChanged:
        return ServerChanged(
            time_ns=time_ns,
            cursor=self._cursor,
            server=server,
            state=state,
            text=text,
            uid=uid,
            control=self._control,
            writer=self._writer(),
        )


class ControlLog(_Log):
    """Emits the births and deaths of servers."""

    name = "mps-control-log"
    file = "control.log"

    @override
    def _parse(self, pid: int, text: str, time_ns: int) -> Signal | None:
        if match := _STARTING.fullmatch(text):
            return self._changed(int(match[1]), "initializing", text, time_ns, uid=int(match[2]))
        if match := _READY.fullmatch(text):
            return self._changed(int(match[1]), "active", text, time_ns)
        if match := _EXITED.fullmatch(text):
            return self._changed(int(match[1]), "gone", text, time_ns)
        return None


class ServerLog(_Log):
    """Emits clients that connect, servers that change state, and clients that meet a fatal error."""

    name = "mps-server-log"
    file = "server.log"

    def __init__(
        self, directory: Path, start: Cursor | None, *, control: str = "default", writer: Writer = _root
    ) -> None:
        super().__init__(directory, start, control=control, writer=writer)
        self._in_fault: set[int] = set()

    @override
    def _parse(self, pid: int, text: str, time_ns: int) -> Signal | None:
        if match := _CONNECTED.fullmatch(text):
            return ClientConnected(
                time_ns=time_ns,
                cursor=self._cursor,
                server=pid,
                pid=int(match[1]),
                control=self._control,
                writer=self._writer(),
            )
        if match := _STATUS.fullmatch(text):
            return self._changed(pid, _STATES[match[1]], text, time_ns)
        if text == _FATAL:
            self._in_fault.add(pid)
            return self._changed(pid, "fault", text, time_ns)
        if pid in self._in_fault and _ANEW.fullmatch(text):
            self._in_fault.discard(pid)
            return self._changed(pid, "active", text, time_ns)
        if match := _MET.fullmatch(text):
            return FaultMet(
                time_ns=time_ns,
                cursor=self._cursor,
                server=pid,
                pid=int(match[1]),
                text=text,
                writer=self._writer(),
            )
        return None


def local_time_ns(stamp: str, *, now_ns: int) -> int:
    """Local time with milliseconds, as MPS writes it; of an hour that came twice, the time nearer to now.

    Now where it is no time.
    """
    try:
        when = datetime.fromisoformat(stamp)
        times_ns = [int(each.timestamp() * 1000) * 1_000_000 for each in (when, when.replace(fold=1))]
    except (ValueError, OverflowError):
        return now_ns
    return min(times_ns, key=lambda time_ns: abs(now_ns - time_ns))
