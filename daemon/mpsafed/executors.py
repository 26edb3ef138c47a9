# SPDX-License-Identifier: Apache-2.0
"""Runs fences and restarts as tasks, and writes each step into the event that asked for it."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Final

from mpsafe.model import Action, ActionKind, ActionState, Event, Identity
from mpsafed.fence import FenceLimits, fence
from mpsafed.mps.control import Control
from mpsafed.policy import Fence, RestartServer
from mpsafed.restart import RestartLimits, restart_server

__all__ = ["ENDED", "Executors"]

ENDED: Final[dict[ActionKind, frozenset[ActionState]]] = {
    "fence": frozenset({"killed", "failed"}),
    "restart_server": frozenset({"done", "failed"}),
    "note": frozenset({"done"}),
}

_log = logging.getLogger(__name__)


class Executors:
    """`update` records a changed event; `latest` gives the newest entry of one; `cut` revokes a client's holds."""

    def __init__(
        self,
        control: Control,
        *,
        fence_limits: FenceLimits,
        restart_limits: RestartLimits,
        latest: Callable[[int], Event],
        update: Callable[[Event], Event],
        cut: Callable[[Identity], None],
    ) -> None:
        self._control = control
        self._fence_limits = fence_limits
        self._restart_limits = restart_limits
        self._latest = latest
        self._update = update
        self._cut = cut
        self._tasks: set[asyncio.Task[None]] = set()
        self._restarting: set[int] = set()

    def fence(self, event: int, decision: Fence, *, reached: ActionState = "requested") -> None:
        """Starts a fence, or takes one up from the step that it had reached."""
        self._start(
            fence(
                decision.client,
                decision.server,
                control=self._control,
                limits=self._fence_limits,
                cut=self._cut,
                progress=lambda state, detail: self._progress(event, "fence", decision.client, state, detail),
                reached=reached,
            )
        )

    def restart(self, event: int, decision: RestartServer) -> None:
        """Starts the restart of a server; one that is under way already is not started again."""
        if decision.server in self._restarting:
            self._progress(
                event, "restart_server", None, "done", f"server {decision.server} is being restarted already"
            )
            return
        self._restarting.add(decision.server)
        self._start(
            restart_server(
                decision.server,
                decision.uid,
                decision.clients,
                control=self._control,
                limits=self._restart_limits,
                progress=lambda state, detail: self._progress(event, "restart_server", None, state, detail),
            ),
            lambda: self._restarting.discard(decision.server),
        )

    async def close(self) -> None:
        """Stops all tasks where they are; the state says how far they came."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _progress(self, number: int, kind: str, target: Identity | None, state: ActionState, detail: str) -> None:
        event = self._latest(number)
        actions = [
            replace(action, state=state, detail=detail) if (action.kind, action.target) == (kind, target) else action
            for action in event.actions
        ]
        ended = not any(map(waiting, actions))
        self._update(replace(event, actions=actions, phase="closed" if ended else "open"))

    def _start(self, work: Coroutine[Any, Any, None], undo: Callable[[], None] | None = None) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)

        def finished(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if undo is not None:
                undo()
            if not task.cancelled() and (error := task.exception()) is not None:
                _log.error("an action ended with an error", exc_info=error)

        task.add_done_callback(finished)


def waiting(action: Action) -> bool:
    """Whether an action has been asked for and not ended."""
    return action.state not in ENDED[action.kind]
