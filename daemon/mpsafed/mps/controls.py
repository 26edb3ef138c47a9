# SPDX-License-Identifier: Apache-2.0
"""All control daemons of the host by name. One that does not answer hides none of the others."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TypeVar

from mpsafe.errors import ControlFailed, UnknownControl
from mpsafed.mps.control import Control

__all__ = ["Controls"]

T = TypeVar("T")


class Controls:
    """The control daemons that the configuration leads to."""

    def __init__(self, controls: Iterable[Control]) -> None:
        self._controls = {control.name: control for control in controls}

    def __iter__(self) -> Iterator[Control]:
        return iter(self._controls.values())

    def __getitem__(self, name: str) -> Control:
        """Raises UnknownControl."""
        try:
            return self._controls[name]
        except KeyError:
            raise UnknownControl(name) from None

    async def of(self, server: int) -> Control | None:
        """The one that has a server of this pid."""
        answers = await self._asked(lambda control: control.servers())
        return next((control for control, servers in answers if servers is not None and server in servers), None)

    async def server_of(self, client: int) -> tuple[Control, int] | None:
        """The server that has a client of this pid, and whose it is."""
        answers = await self._asked(lambda control: control.server_of(client))
        return next(((control, server) for control, server in answers if server is not None), None)

    async def _asked(self, ask: Callable[[Control], Awaitable[T]]) -> list[tuple[Control, T | None]]:
        """What each answers, all asked at once; None where no answer comes."""

        async def answer(control: Control) -> tuple[Control, T | None]:
            try:
                return control, await ask(control)
            except ControlFailed:
                return control, None

        return await asyncio.gather(*map(answer, self))
