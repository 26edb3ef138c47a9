# SPDX-License-Identifier: Apache-2.0
"""The devices of the host as NVML sees them, asked of a helper process with a deadline.

NVML can hang for ever on a dying device, so the daemon never calls it: `mpsafed.nvml_helper` does. A
helper that misses its deadline, dies or talks nonsense is killed, and the next question, after a
pause that doubles up to a minute, starts a new one. An error that NVML itself returns ends the helper
too: only a new process sees a driver that was loaded or replaced since.
"""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Self, TypeAlias, TypeVar

import msgspec

from mpsafe.model import Device, SourceState
from mpsafed.child import Child

__all__ = ["DeviceList", "Devices", "ProcessList", "ProcessMemory"]

DeviceList: TypeAlias = list[Device]

T = TypeVar("T")

LINE_MAX_BYTES: Final = 1 << 20
PAUSE_MAX_S: Final = 60.0
_END_S: Final = 1.0
HELPER: Final = (sys.executable, "-P", "-m", "mpsafed.nvml_helper")


class _Error(msgspec.Struct):
    code: int
    text: str


class _Answer(msgspec.Struct):
    id: int
    ok: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: _Error | msgspec.UnsetType = msgspec.UNSET


class _Seen(msgspec.Struct):
    devices: Annotated[list[Device], msgspec.Meta(max_length=256)]
    problems: Annotated[list[str], msgspec.Meta(max_length=256)]


class ProcessMemory(msgspec.Struct, frozen=True):
    """What one process uses of one device, in bytes; None: NVML cannot tell."""

    uuid: str
    pid: int
    used_bytes: int | None


ProcessList: TypeAlias = list[ProcessMemory]


class _Lost(Exception):
    """The helper is of no use any more; the text says why."""


class _Helper:
    """One helper process and the conversation with it."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self._asked = 0
        self.answered = False

    @classmethod
    async def start(cls, command: Sequence[str], environment: Mapping[str, str] | None) -> Self:
        """Starts it. It ends when its stdin does."""
        try:
            return cls(await Child.start(command, environment=environment, line_max_bytes=LINE_MAX_BYTES))
        except OSError as error:
            raise _Lost(f"the NVML helper could not be started: {error}") from error

    async def ask(self, what: str) -> bytes:
        """The `ok` of one request, still encoded. Raises _Lost."""
        self._asked += 1
        try:
            self.child.write(msgspec.json.encode({"id": self._asked, "ask": what}) + b"\n")
            line = await self.child.output.readline()
        except (BrokenPipeError, BlockingIOError):
            line = b""
        except ValueError as error:
            raise _Lost(f"the NVML helper sent a line of more than {LINE_MAX_BYTES} bytes") from error
        if not line.endswith(b"\n"):
            raise _Lost("the NVML helper ended")
        try:
            answer = msgspec.json.decode(line, type=_Answer)
        except msgspec.MsgspecError as error:
            raise _Lost(f"the NVML helper sent no answer: {error}") from error
        if answer.id != self._asked:
            raise _Lost(f"the NVML helper answered request {answer.id}, asked was {self._asked}")
        if isinstance(answer.error, _Error):
            raise _Lost(f"NVML: {answer.error.text} ({answer.error.code})")
        if isinstance(answer.ok, msgspec.UnsetType):
            raise _Lost("the NVML helper sent neither ok nor error")
        self.answered = True
        return bytes(answer.ok)

    async def end(self, *, kill: bool) -> bool:
        """Ends it, by the end of its stdin or, where that does not, by SIGKILL; False: it is still there."""
        self.child.close_stdin()
        if not kill:
            await self.child.ended(_END_S)
        return await self.child.end(_END_S)


class Devices:
    """The devices, as far as they can be seen, and why not where they cannot.

    `deadline_s` bounds each `list`. A helper that has not answered yet may take `start_deadline_s`:
    without persistence mode NVML initialises every device first, which takes seconds. `environment`
    is the helper's, `command` another program in its place; both are there for the tests and the demo.
    """

    def __init__(
        self,
        *,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = HELPER,
        deadline_s: float = 2.0,
        start_deadline_s: float = 10.0,
        pause_s: float = 1.0,
    ) -> None:
        self._environment = environment
        self._command = tuple(command)
        self._deadline_s = deadline_s
        self._start_deadline_s = start_deadline_s
        self._first_pause_s = pause_s
        self._pause_s = pause_s
        self._retry_at = 0.0
        self._helper: _Helper | None = None
        self._undead: _Helper | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._using: asyncio.Task[tuple[DeviceList, ProcessList] | None] | None = None
        self._asking = asyncio.Lock()
        self._devices: DeviceList = []
        self._seen_at: float | None = None
        self._state = SourceState(name="nvml", alive=False, detail="not asked yet")

    @property
    def state(self) -> SourceState:
        """Whether NVML is seen, and if not, why: as of the last `list`."""
        return self._state

    @property
    def age_s(self) -> float | None:
        """How old the devices are that `list` returned last, in seconds; None: none were seen yet."""
        return None if self._seen_at is None else asyncio.get_running_loop().time() - self._seen_at

    async def list(self) -> DeviceList:
        """The devices now; the last ones that were seen, where NVML cannot be asked (see `state`)."""
        now = asyncio.get_running_loop().time()
        if (refreshing := self._refreshing) is None or refreshing.done():
            if now < self._retry_at:
                return self._devices.copy()
            refreshing = self._refreshing = asyncio.create_task(self._refresh())
        done, _ = await asyncio.wait({refreshing}, timeout=self._deadline_s)
        if done:
            refreshing.result()
        else:
            self._report(f"NVML has not answered within {self._deadline_s:g} s")
        return self._devices.copy()

    async def usage(self) -> tuple[DeviceList, ProcessList] | None:
        """The devices and who uses them, both now; None where NVML cannot be asked (see `state`)."""
        if (using := self._using) is None or using.done():
            using = self._using = asyncio.create_task(self._use())
        await asyncio.wait({using})
        return using.result()

    async def close(self) -> None:
        """Ends the helper. The next `list` starts a new one."""
        for task in (self._using, self._refreshing):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        self._using = self._refreshing = None
        if self._helper is not None:
            helper, self._helper = self._helper, None
            await helper.end(kill=False)

    def _report(self, problem: str) -> None:
        self._state = SourceState(name="nvml", alive=False, detail=problem)

    async def _refresh(self) -> None:
        try:
            seen = await self._ask("devices", _Seen)
        except _Lost as lost:
            await self._lose(lost)
            return
        self._devices = seen.devices
        self._seen_at = asyncio.get_running_loop().time()
        self._pause_s = self._first_pause_s
        detail = "; ".join([f"{len(seen.devices)} devices", *seen.problems])
        self._state = SourceState(name="nvml", alive=True, detail=detail)

    async def _use(self) -> tuple[DeviceList, ProcessList] | None:
        devices = await self.list()
        if not self._state.alive:
            return None
        try:
            return devices, await self._ask("processes", list[ProcessMemory])
        except _Lost as lost:
            await self._lose(lost)
            return None

    async def _lose(self, lost: _Lost) -> None:
        """The next helper is started after a pause."""
        self._report(str(lost))
        self._retry_at = asyncio.get_running_loop().time() + self._pause_s
        self._pause_s = min(2 * self._pause_s, PAUSE_MAX_S)
        await self._drop_helper()

    async def _ask(self, what: str, kind: type[T]) -> T:
        """One question at a time."""
        async with self._asking:
            if self._undead is not None and self._undead.child.status is None:
                raise _Lost(f"the NVML helper {self._undead.child.pid} was killed and hangs in the kernel")
            self._undead = None
            if self._helper is None:
                self._helper = await _Helper.start(self._command, self._environment)
            patience_s = self._deadline_s if self._helper.answered else self._start_deadline_s
            try:
                async with asyncio.timeout(patience_s):
                    answer = await self._helper.ask(what)
            except TimeoutError as error:
                raise _Lost(f"NVML did not answer within {patience_s:g} s; its helper was killed") from error
        try:
            return msgspec.json.decode(answer, type=kind)
        except msgspec.MsgspecError as error:
            raise _Lost(f"the NVML helper sent no list of {what}: {error}") from error

    async def _drop_helper(self) -> None:
        if self._helper is None:
            return
        helper, self._helper = self._helper, None
        if not await helper.end(kill=True):
            self._undead = helper
