# SPDX-License-Identifier: Apache-2.0
"""One restart of one server, and what it told."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Final

from mpsafe.model import ActionState, Identity
from mpsafed.mps.control import Control
from mpsafed.restart import RestartLimits, restart_server
from mpsafed.steps import legal

__all__ = ["PATIENT", "SERVER", "STEPS", "Walk"]

SERVER: Final = 4_000_001  # nobody has this pid
STEPS: Final[list[ActionState]] = ["terminating", "killed", "started", "limited", "done"]
PATIENT: Final = RestartLimits(grace_s=60, end_s=60, start_s=60)


class Walk:
    """One restart and what it told."""

    def __init__(self) -> None:
        self.states: list[ActionState] = []
        self.details: list[str] = []
        self.foreign: list[Identity] = []
        self.limited: list[int | None] = []
        self.apply_limits: Callable[[int | None], Awaitable[list[str]]] = self.nothing_differs

    async def nothing_differs(self, server: int | None) -> list[str]:
        self.limited.append(server)
        return []

    def progress(self, state: ActionState, detail: str) -> None:
        self.states.append(state)
        self.details.append(detail)

    def run(
        self,
        control: Control,
        *,
        server: int = SERVER,
        clients: list[Identity],
        late: list[Identity] | None = None,
        limits: RestartLimits = PATIENT,
        reached: ActionState = "requested",
    ) -> list[ActionState]:
        work = restart_server(
            server,
            os.geteuid(),
            clients,
            known=lambda: late or [],
            control=control,
            limits=limits,
            may_signal=lambda identity: identity not in self.foreign,
            apply_limits=self.apply_limits,
            progress=self.progress,
            reached=reached,
        )
        asyncio.run(asyncio.wait_for(work, 120))
        walked: list[ActionState] = [reached, *self.states]
        assert all(legal("restart_server", old, new) for old, new in pairwise(walked)), walked
        return self.states
