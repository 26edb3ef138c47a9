# SPDX-License-Identifier: Apache-2.0
"""A supervisor over control daemons that really run, and a clock that the test moves."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager

from control_daemons import Rig
from mpsafe.model import ControlDaemon
from mpsafed.declared import Choice, Declared
from mpsafed.mps.control import Control
from mpsafed.mps.controls import Controls
from mpsafed.mps.supervisor import Supervisor
from mpsafed.signals import ControlChanged, Signal

__all__ = ["Supervised", "supervised"]


class _Time:
    """Stands still until it is moved; only the short waits for an answer are real."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self._ends_s: list[float] = []
        self._moved = asyncio.Event()

    def now(self) -> float:
        return self.now_s

    def left_s(self) -> set[float]:
        """How long each wait still takes; who has waited long enough waits no more."""
        return {end_s - self.now_s for end_s in self._ends_s if end_s > self.now_s}

    def move(self, seconds: float) -> None:
        self.now_s += seconds
        self._moved.set()
        self._moved = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        if seconds < 1:
            await asyncio.sleep(seconds)
            return
        end_s = self.now_s + seconds
        self._ends_s.append(end_s)
        try:
            while self.now_s < end_s:
                await self._moved.wait()
        finally:
            self._ends_s.remove(end_s)


class Supervised:
    """One life of the supervisor, and what it told."""

    def __init__(self, programs: Rig, declared: list[Declared], choices: Mapping[str, Choice]) -> None:
        self.time = _Time()
        self.told: list[tuple[bool, str]] = []
        self.remembered: list[Choice] = []
        self.controls: dict[str, Control] = {one.name: programs.control(one) for one in declared}
        self.supervisor = Supervisor(
            declared,
            controls=Controls(self.controls.values()),
            choices=choices,
            remember=self.remembered.append,
            emit=self._emit,
            run_directory=programs.directory,
            systemctl=str(programs.directory / "systemctl"),
            now=self.time.now,
            sleep=self.time.sleep,
        )

    def _emit(self, signal: Signal) -> None:
        assert isinstance(signal, ControlChanged)
        self.told.append((signal.running, signal.text))

    def one(self, name: str = "one") -> ControlDaemon:
        """What is said of a control daemon."""
        return next(control for control in self.supervisor.overview() if control.name == name)

    async def until(self, holds: Callable[[ControlDaemon], object], name: str = "one") -> ControlDaemon:
        """What is said of it once that holds."""
        while not holds(self.one(name)):
            await asyncio.sleep(0.002)
        return self.one(name)

    async def running(self, name: str = "one") -> ControlDaemon:
        """What is said once it runs and its limits have been read back."""
        return await self.until(lambda control: control.state == "running" and control.in_force is not None, name)

    async def rests(self, seconds: float) -> None:
        """Returns once it waits for nothing but so much time to pass, or for something to happen."""
        while self.time.left_s() != {seconds}:
            await asyncio.sleep(0.002)


@asynccontextmanager
async def supervised(
    programs: Rig, *declared: Declared, choices: Mapping[str, Choice] | None = None
) -> AsyncGenerator[Supervised]:
    """Inside, they are kept as they are declared; afterwards they run on."""
    life = Supervised(programs, list(declared), choices or {})
    keeping = asyncio.ensure_future(life.supervisor.run())
    try:
        yield life
    finally:
        keeping.cancel()
        await asyncio.wait([keeping])
        life.supervisor.close()
        if not keeping.cancelled():
            keeping.result()
