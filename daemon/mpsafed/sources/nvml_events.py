# SPDX-License-Identifier: Apache-2.0
"""Xids as NVML tells them, by a helper process with a heartbeat: NVML can hang for ever on a dying device.

A helper that is silent for too long, ends or talks nonsense is killed, and another one is started after a
pause that doubles up to a minute. NVML tells the device and the number, neither a process nor a text.
"""

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Final

import msgspec

from mpsafe.errors import SourceLost
from mpsafed.child import Child
from mpsafed.signals import Cursor, DeviceXid
from mpsafed.sources import Emit, now_ns

__all__ = ["NvmlEvents"]

LINE_MAX_BYTES: Final = 64 << 10
PAUSE_MAX_S: Final = 60.0
END_S: Final = 1.0
HELPER: Final = (sys.executable, "-P", "-m", "mpsafed.nvml_helper", "events")


class _Error(msgspec.Struct):
    code: int
    text: str


class _Line(msgspec.Struct):
    watched: int | None = None
    problems: Annotated[list[str], msgspec.Meta(max_length=256)] = []
    uuid: Annotated[str, msgspec.Meta(max_length=96)] | None = None
    xid: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)] | None = None
    error: _Error | None = None


class NvmlEvents:
    """Emits DeviceXid.

    The helper may be silent for `deadline_s`, before its first line for `start_deadline_s`: without
    persistence mode NVML initialises every device first. `environment` is the helper's, `command` another
    program in its place; both are there for the tests and the demo.
    """

    name = "nvml-events"

    def __init__(
        self,
        *,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = HELPER,
        deadline_s: float = 5.0,
        start_deadline_s: float = 30.0,
        pause_s: float = 1.0,
    ) -> None:
        self._environment = environment
        self._command = tuple(command)
        self._deadline_s = deadline_s
        self._start_deadline_s = start_deadline_s
        self._first_pause_s = pause_s
        self._pause_s = 0.0
        self._undead: Child | None = None

    @property
    def cursor(self) -> Cursor:
        """Always the same: NVML tells nothing that happened before it was asked."""
        return Cursor(self.name, "now", 0)

    async def run(self, emit: Emit, alive: Callable[[str], None]) -> None:
        """Listens until the helper is of no use any more; raises SourceLost with the reason."""
        await asyncio.sleep(self._pause_s)
        self._pause_s = min(max(2 * self._pause_s, self._first_pause_s), PAUSE_MAX_S)
        if self._undead is not None and self._undead.status is None:
            raise SourceLost(self.name, f"the NVML helper {self._undead.pid} was killed and hangs in the kernel")
        helper = await self._start()
        try:
            patience_s = self._start_deadline_s
            while True:
                line = await self._line(helper.output, patience_s)
                patience_s = self._deadline_s
                if line.error is not None:
                    raise SourceLost(self.name, f"NVML: {line.error.text} ({line.error.code})")
                if line.watched == 0:
                    raise SourceLost(self.name, "; ".join(["no device tells of Xids", *line.problems]))
                if line.watched is not None:
                    alive("; ".join([f"{line.watched} devices", *line.problems]))
                else:
                    self._pause_s = 0.0
                if line.uuid is not None and line.xid is not None:
                    emit(DeviceXid(time_ns=now_ns(), device=line.uuid, xid=line.xid))
        finally:
            await self._end(helper)

    async def _start(self) -> Child:
        try:
            helper = await Child.start(self._command, environment=self._environment, line_max_bytes=LINE_MAX_BYTES)
        except OSError as error:
            raise SourceLost(self.name, f"the NVML helper could not be started: {error}") from error
        helper.close_stdin()
        return helper

    async def _line(self, lines: asyncio.StreamReader, patience_s: float) -> _Line:
        try:
            async with asyncio.timeout(patience_s):
                line = await lines.readline()
        except TimeoutError as error:
            raise SourceLost(self.name, f"NVML was silent for {patience_s:g} s; its helper was killed") from error
        except ValueError as error:
            raise SourceLost(self.name, f"the NVML helper sent a line of more than {LINE_MAX_BYTES} bytes") from error
        if not line.endswith(b"\n"):
            raise SourceLost(self.name, "the NVML helper ended")
        try:
            return msgspec.json.decode(line, type=_Line)
        except msgspec.MsgspecError as error:
            raise SourceLost(self.name, f"the NVML helper sent no event: {error}") from error

    async def _end(self, helper: Child) -> None:
        """Ends it by SIGKILL; one that hangs in the kernel is left to itself, and no other one is started."""
        if not await helper.end(END_S):
            self._undead = helper
