# SPDX-License-Identifier: Apache-2.0
"""Keeps all control daemons as they are declared, and takes what an admin declares anew."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from mpsafe.errors import UnknownControl
from mpsafe.model import ControlDaemon, Limits
from mpsafed.declared import Choice, Declared
from mpsafed.mps.control import Control
from mpsafed.mps.controls import Controls
from mpsafed.mps.keeper import Clock, Keeper
from mpsafed.mps.starting import RUN_DIRECTORY, start_control
from mpsafed.signals import Signal

__all__ = ["Supervisor"]


class Supervisor:
    """One keeper for each declared control daemon; `choices` are those that `remember` was called with before.

    All methods with a name raise UnknownControl; what else they raise, Keeper says. `run_directory` is
    where units find their arguments.
    """

    def __init__(
        self,
        declared: Sequence[Declared],
        *,
        controls: Controls,
        choices: Mapping[str, Choice],
        remember: Callable[[Choice], None],
        emit: Callable[[Signal], None],
        run_directory: Path = RUN_DIRECTORY,
        systemctl: str = "systemctl",
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        async def start(control: Control, limits: Limits) -> None:
            await start_control(control, limits, run_directory=run_directory, systemctl=systemctl)

        self._keepers = {
            one.name: Keeper(
                controls[one.name],
                choices.get(one.name, Choice(one.name)),
                remember=remember,
                emit=emit,
                start=start,
                clock=Clock(now, sleep),
            )
            for one in declared
        }

    async def run(self) -> None:
        """Keeps them until cancelled."""
        async with asyncio.TaskGroup() as keeping:
            for keeper in self._keepers.values():
                keeping.create_task(keeper.run())

    def close(self) -> None:
        """Lets them go; they run on."""
        for keeper in self._keepers.values():
            keeper.close()

    def overview(self) -> list[ControlDaemon]:
        """What is declared of each and what is."""
        return [keeper.overview() for keeper in self._keepers.values()]

    async def start(self, name: str) -> None:
        """It is to run from now on; returns once it answers."""
        await self._keeper(name).start()

    async def stop(self, name: str, *, force: bool) -> None:
        """It is not to run; returns once it has ended."""
        await self._keeper(name).stop(force=force)

    async def set_limits(self, name: str, limits: Limits | None) -> None:
        """Declares limits for it; None: those of the configuration."""
        await self._keeper(name).set_limits(limits)

    async def partition(self, name: str, device: str, chunks: list[int]) -> None:
        """Declares the SM partitions of a device, by UUID."""
        await self._keeper(name).partition(device, chunks)

    async def apply_limits(self, name: str, server: int | None) -> list[str]:
        """Brings a server that has just come, or (None) those to come, to the limits; sentences: what differs still."""
        return await self._keeper(name).apply_limits(server)

    def _keeper(self, name: str) -> Keeper:
        try:
            return self._keepers[name]
        except KeyError:
            raise UnknownControl(name) from None
