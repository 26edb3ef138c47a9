# SPDX-License-Identifier: Apache-2.0
"""Runs fences, restarts and takeovers as tasks, and writes each step into the event that asked for it.

One client has one fence and one takeover at a time and one server one restart, whatever number of events ask:
the others wait for its end. A step that the tables of `steps` do not have is a defect, told and not written.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeAlias, assert_never

from mpsafe.model import Action, ActionKind, ActionState, Event, Identity
from mpsafe.model import Takeover as Timeline
from mpsafed import steps
from mpsafed.fence import FenceLimits, Surroundings, fence
from mpsafed.mps.control import Control
from mpsafed.policy import Decision, Fence, Note, RestartServer, Takeover
from mpsafed.restart import RestartLimits, restart_server
from mpsafed.snapshot import Snapshot
from mpsafed.sources import now_ns
from mpsafed.takeovers import Takeovers

__all__ = ["Executors", "requested", "waiting"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Job:
    """One action of one event; `end` is how it ends where all goes well."""

    event: int
    kind: ActionKind
    target: Identity | None
    end: ActionState


_Key: TypeAlias = Identity | int | tuple[str, Identity]
_Work: TypeAlias = Callable[[], Awaitable[None]]


class Executors:
    """`update` records a changed event; `latest` gives the newest entry of one.

    `control_of` gives the control daemon of a server, also of one that has ended; None if none is known.
    `apply_limits` sets the declared limits there, of one of its servers or (None) the default ones: see
    restart.py. `snapshot`: what is known of servers and clients now.
    """

    def __init__(
        self,
        *,
        around: Surroundings,
        fence_limits: FenceLimits,
        restart_limits: RestartLimits,
        control_of: Callable[[int], Control | None],
        snapshot: Callable[[], Snapshot],
        apply_limits: Callable[[Control, int | None], Awaitable[list[str]]],
        takeovers: Takeovers,
        latest: Callable[[int], Event],
        update: Callable[[Event], Event],
    ) -> None:
        self._around = around
        self._fence_limits = fence_limits
        self._restart_limits = restart_limits
        self._control_of = control_of
        self._snapshot = snapshot
        self._apply_limits = apply_limits
        self._takeovers = takeovers
        self._latest = latest
        self._update = update
        self._tasks: set[asyncio.Task[None]] = set()
        self._newest: dict[_Key, tuple[asyncio.Task[None], _Job]] = {}

    def fence(self, event: int, decision: Fence) -> None:
        """Starts a fence, or takes one up from the step that the event says it had reached."""
        job = _Job(event, "fence", decision.client, "killed")
        self._start(
            decision.client,
            job,
            lambda: fence(
                decision.client,
                decision.server,
                around=self._around,
                limits=self._fence_limits,
                progress=lambda state, detail: self._progress(job, state, detail),
                reached=self._reached(job),
            ),
        )

    def restart(self, event: int, decision: RestartServer) -> None:
        """Starts the restart of a server, or takes one up from the step that the event says it had reached."""
        job = _Job(event, "restart_server", None, "done")
        self._start(decision.server, job, lambda: self._restart(job, decision))

    def take_over(self, event: int, decision: Takeover) -> None:
        """Starts a takeover, or takes one up from the step that the event says it had reached."""
        job = _Job(event, "takeover", decision.victim, "done")

        def progress(state: ActionState, detail: str, *, standby: Identity | None = None, epoch: int = 0) -> None:
            def stamped(one: Timeline) -> Timeline:
                match state:
                    case "promoted":
                        return replace(one, standby=standby, epoch=epoch, promoted_ns=now_ns())
                    case "granted":
                        return replace(one, granted_ns=now_ns())
                    case _:
                        return one

            self._progress(job, state, detail, stamped)

        self._start(
            ("takeover", decision.victim),
            job,
            lambda: self._takeovers.run(decision, event, progress=progress, reached=self._reached(job)),
        )

    async def _restart(self, job: _Job, decision: RestartServer) -> None:
        control = self._control_of(decision.server)
        if control is None:
            self._progress(job, "failed", f"no MPS control daemon is known that has server {decision.server}")
            return
        await restart_server(
            decision.server,
            decision.uid,
            decision.clients,
            known=lambda: [client.identity for client in self._snapshot().clients_of(decision.server)],
            control=control,
            limits=self._restart_limits,
            may_signal=self._around.may_signal,
            apply_limits=lambda server: self._apply_limits(control, server),
            progress=lambda state, detail: self._progress(job, state, detail),
            reached=self._reached(job),
        )

    async def close(self) -> None:
        """Stops all tasks where they are; the state says how far they came."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, what: _Key, job: _Job, work: _Work) -> None:
        before = self._newest.get(what)
        task = asyncio.create_task(self._run(job, work) if before is None else self._run_after(*before, job, work))
        self._tasks.add(task)
        self._newest[what] = task, job

        def finished(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if self._newest[what][0] is task:
                del self._newest[what]

        task.add_done_callback(finished)

    async def _run(self, job: _Job, work: _Work) -> None:
        """Whatever stops the work, the event says so and ends."""
        try:
            await work()
        except OSError as error:
            self._progress(job, "failed", str(error))
        except Exception as error:
            _log.exception("event %d: %s ended with an error", job.event, job.kind)
            self._progress(job, "failed", f"a defect of mpsafed: {error!r}")

    async def _run_after(self, task: asyncio.Task[None], other: _Job, job: _Job, work: _Work) -> None:
        """Another event asked for the same before: what ends that ends this, unless a dead daemon had begun it."""
        await asyncio.wait([task])
        if self._reached(job) != "requested":
            await self._run(job, work)
            return
        went_well = self._reached(other) == other.end
        self._progress(job, job.end if went_well else "failed", f"event {other.event} asked for the same before")

    def _reached(self, job: _Job) -> ActionState:
        """What the event says; an action that it does not have is not begun."""
        for action in self._latest(job.event).actions:
            if (action.kind, action.target) == (job.kind, job.target):
                return action.state
        return "requested"

    def _progress(
        self, job: _Job, state: ActionState, detail: str, stamped: Callable[[Timeline], Timeline] | None = None
    ) -> None:
        """Writes a step; `stamped` changes the timeline of the takeover whose step it is."""
        event = self._latest(job.event)
        reached = self._reached(job)
        if not steps.legal(job.kind, reached, state):
            _log.error("a defect: event %d, %s is %s and was to be %s", job.event, job.kind, reached, state)
            return
        actions = [
            replace(action, state=state, detail=detail)
            if (action.kind, action.target) == (job.kind, job.target)
            else action
            for action in event.actions
        ]
        ended = not any(map(waiting, actions))
        takeovers = [stamped(one) if stamped and one.victim == job.target else one for one in event.takeovers]
        self._update(replace(event, actions=actions, takeovers=takeovers, phase="closed" if ended else "open"))


def waiting(action: Action) -> bool:
    """Whether an action has been asked for and not ended."""
    return not steps.ended(action.kind, action.state)


def requested(decision: Decision) -> Action:
    """A decision as the event shows it before anything is done."""
    match decision:
        case Fence():
            return Action("fence", decision.client, "requested", "")
        case RestartServer():
            return Action("restart_server", None, "requested", f"server {decision.server}, uid {decision.uid}")
        case Takeover():
            return Action("takeover", decision.victim, "requested", f"tenant {decision.tenant}")
        case Note():
            return Action("note", None, "done", decision.reason)
        case _:
            assert_never(decision)
