# SPDX-License-Identifier: Apache-2.0
"""MPS's control.log and server.log.

Lines are "[YYYY-MM-DD HH:MM:SS.mmm Control|Server|Other <pid>] text". Forms: driver 580 as
published (dra-driver-nvidia-gpu #1153, bottlerocket-kernel-kit #415), 535 and 550 as measured.
What is not recognised is not a signal. Rotation and truncation: see tail.py.
"""

import os
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

from mpsafe.model import ServerState
from mpsafed.signals import ClientConnected, Cursor, ServerBlamed, ServerChanged, Signal
from mpsafed.sources import Emit, now_ns
from mpsafed.sources.tail import end_of, follow

__all__ = ["ControlLog", "ServerLog"]

_LINE: Final = re.compile(
    r"\[(?P<time>[0-9-]{10} [0-9:]{8}\.\d{3}) (?:Legacy )?(?:Control|Server|Other) +(?P<pid>\d{1,10})\] (?P<text>.*)"
)
_STARTING: Final = re.compile(r"Starting new server (\d{1,10}) for user (\d{1,10})")
_READY: Final = re.compile(r"NEW SERVER (\d{1,10}): Ready")
_EXITED: Final = re.compile(r"Server (\d{1,10}) exited with status (-?\d{1,5})")
_STATUS: Final = re.compile(r"Server status changed to (INITIALIZING|ACTIVE|FAULT)")
_CONNECTED: Final = re.compile(r"Client \{PID: (\d{1,10}), Context ID: \d{1,10}\} connected")
_BLAMED: Final = re.compile(r"Client \{PID: (\d{1,10}), Context ID: \d{1,10}\} caused a fatal fault")

_STATES: Final[dict[str, ServerState]] = {"INITIALIZING": "initializing", "ACTIVE": "active", "FAULT": "fault"}


class ControlLog:
    """Emits the births and deaths of servers."""

    name = "mps-control-log"

    def __init__(self, directory: Path, start: Cursor | None) -> None:
        self._path = directory / "control.log"
        self._cursor = start or end_of(self._path, self.name)

    @property
    def cursor(self) -> Cursor:
        """Where this source has read to."""
        return self._cursor

    async def run(self, emit: Emit, alive: Callable[[str], None]) -> None:
        """Reads until the file is gone."""
        async for line, cursor in follow(self._path, self._cursor, lambda: alive(os.fspath(self._path))):
            self._cursor = cursor
            if (signal := self._parse(line, cursor)) is not None:
                emit(signal)

    def _parse(self, line: str, cursor: Cursor) -> Signal | None:
        found = _LINE.fullmatch(line)
        if found is None:
            return None
        text, when = found["text"], _time_ns(found["time"])
        if match := _STARTING.fullmatch(text):
            state: ServerState = "initializing"
            server, uid = int(match[1]), int(match[2])
            return ServerChanged(time_ns=when, cursor=cursor, server=server, state=state, text=text, uid=uid)
        if match := _READY.fullmatch(text):
            return ServerChanged(time_ns=when, cursor=cursor, server=int(match[1]), state="active", text=text)
        if match := _EXITED.fullmatch(text):
            return ServerChanged(time_ns=when, cursor=cursor, server=int(match[1]), state="gone", text=text)
        return None


class ServerLog:
    """Emits clients that connect, servers that change state, and whom a server blames."""

    name = "mps-server-log"

    def __init__(self, directory: Path, start: Cursor | None) -> None:
        self._path = directory / "server.log"
        self._cursor = start or end_of(self._path, self.name)

    @property
    def cursor(self) -> Cursor:
        """Where this source has read to."""
        return self._cursor

    async def run(self, emit: Emit, alive: Callable[[str], None]) -> None:
        """Reads until the file is gone."""
        async for line, cursor in follow(self._path, self._cursor, lambda: alive(os.fspath(self._path))):
            self._cursor = cursor
            if (signal := self._parse(line, cursor)) is not None:
                emit(signal)

    def _parse(self, line: str, cursor: Cursor) -> Signal | None:
        found = _LINE.fullmatch(line)
        if found is None:
            return None
        server, text, when = int(found["pid"]), found["text"], _time_ns(found["time"])
        if match := _CONNECTED.fullmatch(text):
            return ClientConnected(time_ns=when, cursor=cursor, server=server, pid=int(match[1]))
        if match := _STATUS.fullmatch(text):
            state = _STATES[match[1]]
            return ServerChanged(time_ns=when, cursor=cursor, server=server, state=state, text=text)
        if match := _BLAMED.match(text):
            return ServerBlamed(time_ns=when, cursor=cursor, server=server, pid=int(match[1]), text=text)
        return None


def _time_ns(stamp: str) -> int:
    """Local time with milliseconds, as MPS writes it; now where it is no time."""
    try:
        return int(datetime.strptime(stamp, "%Y-%m-%d %H:%M:%S.%f").timestamp() * 1000) * 1_000_000
    except (ValueError, OverflowError):
        return now_ns()
