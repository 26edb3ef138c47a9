# SPDX-License-Identifier: Apache-2.0
"""Keeps one control daemon as it is declared: adopted, started, its limits in force, and held by a pidfd.

Its end is known at once, by the pidfd; that it came, within a second; that a limit was changed behind
our back, within a minute. Asking more often would fill its log: it writes five lines for a question.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from mpsafe.errors import BadRequest, ControlFailed, NotOurs, NotSupported
from mpsafe.model import ControlDaemon, ControlState, Limits
from mpsafed.declared import Choice
from mpsafed.mps.applying import apply, apply_to
from mpsafed.mps.control import Control
from mpsafed.mps.held import Held
from mpsafed.mps.limits import checked, with_undone
from mpsafed.mps.reconcile import BackOff, Observed, Step, plan
from mpsafed.signals import ControlChanged, Signal

__all__ = ["Clock", "Keeper", "Start"]

CHECK_SECONDS: Final = 60.0
LOOK_SECONDS: Final = 1.0
ANSWER_SECONDS: Final = 10.0
ANSWER_LOOK_SECONDS: Final = 0.05
FORCED_SECONDS: Final = 15.0

_log = logging.getLogger(__name__)

Start: TypeAlias = Callable[[Control, Limits], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Clock:
    """Seconds since some moment, and a wait of so many."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


class Keeper:
    """`remember` writes a choice down, `emit` takes signals, `start` starts the daemon (starting.py)."""

    def __init__(
        self,
        control: Control,
        choice: Choice,
        *,
        remember: Callable[[Choice], None],
        emit: Callable[[Signal], None],
        start: Start,
        clock: Clock,
    ) -> None:
        self._control = control
        self._declared = control.declared
        self._choice = choice
        self._remember = remember
        self._emit = emit
        self._start = start
        self._clock = clock
        self._held: Held | None = None
        self._back_off = BackOff()
        self._in_force: Limits | None = None
        self._drift: list[str] = []
        self._trouble = ""
        self._starts = 0
        self._looked = False
        self._wake = asyncio.Event()
        self._acting = asyncio.Lock()

    def close(self) -> None:
        """Lets the daemon go; it runs on."""
        if self._held is not None:
            self._release(self._held)

    async def run(self) -> None:
        """Keeps it until cancelled."""
        while True:
            async with self._acting:
                try:
                    await self._reconcile()
                except Exception:  # whatever one control daemon does must not cost the others theirs
                    _log.exception("control daemon %s could not be looked after", self._declared.name)
            await self._rest()

    async def start(self) -> None:
        """It is to run; returns once it answers. Raises NotOurs, and ControlFailed with the reason."""
        self._demand_ours()
        self._choose(replace(self._choice, wanted=True))
        if self._held is not None and self._held.stopping:
            await self._held.over.wait()
        async with self._acting:
            self._back_off = BackOff()
            await self._reconcile()
            if self._held is None:
                raise ControlFailed("start", self._trouble or "it has ended again")

    async def stop(self, *, force: bool) -> None:
        """It is not to run; returns once it has ended, without `force` when its clients have left.

        Raises NotOurs, and ControlFailed if it refuses, or does not end although it is forced.
        """
        self._demand_ours()
        self._choose(replace(self._choice, wanted=False))
        async with self._acting:
            self._trouble = ""
            held = self._held or self._adopt(started=False)
            if held is None:
                return
            await self._quit(held, force=force)
        try:
            async with asyncio.timeout(FORCED_SECONDS if force else None):
                await held.over.wait()
        except TimeoutError:
            raise ControlFailed("quit", f"process {held.identity.pid} runs after {FORCED_SECONDS:g} s") from None

    async def set_limits(self, limits: Limits | None) -> None:
        """Declares limits, of which partitions stay as they are, and sets them where it runs.

        None: all that the configuration declares, and nothing else. Raises BadRequest, NotSupported and
        ControlFailed; then nothing is declared.
        """
        if limits is not None and limits.partitions:
            raise BadRequest(
                "limits", "no SM partitions, which Partition declares", f"{len(limits.partitions)} devices"
            )
        partitions = self._limits.partitions
        await self._declare(None if limits is None else replace(checked(limits), partitions=partitions))

    async def partition(self, device: str, chunks: list[int]) -> None:
        """Declares the SM partitions of a device; none takes them away. Raises as above.

        v2 has partitions only where it was started with some: the first ones are declared while it is
        stopped.
        """
        partitions = checked(Limits(partitions={device: chunks})).partitions
        others = {known: sizes for known, sizes in self._limits.partitions.items() if known != device}
        await self._declare(replace(self._limits, partitions=others | (partitions if chunks else {})))

    async def apply_limits(self, server: int | None) -> list[str]:
        """Brings a server that has just come, or (None) those to come, to the limits.

        A sentence for each that is not in force; where there is nothing that servers begin with, none.
        """
        try:
            dialect = await self._control.dialect()
            if server is None and None not in await dialect.limited():
                return []
            _, drift = await apply_to(dialect, server, self._limits)
        except (ControlFailed, NotSupported) as error:
            return [str(error)]
        return drift

    def overview(self) -> ControlDaemon:
        """What is declared and what is."""
        state: ControlState = "stopped"
        if self._held is not None:
            state = "running"
        elif self._choice.wanted and self._declared.how != "adopt":
            state = "failed" if self._trouble else "starting"
        unwanted = self._held is not None and not (self._choice.wanted or self._held.stopping)
        trouble = [self._trouble, self._control.trouble, "it runs, and is not to" if unwanted else ""]
        return ControlDaemon(
            name=self._declared.name,
            uid=self._declared.uid,
            pipe_directory=str(self._declared.pipe_directory),
            log_directory=str(self._declared.log_directory),
            identity=self._held.identity if self._held else None,
            state=state,
            interface=self._control.interface,
            wanted=self._choice.wanted,
            declared=self._limits,
            in_force=self._in_force,
            drift=list(self._drift),
            trouble="; ".join(filter(None, trouble)),
            starts=self._starts,
        )

    @property
    def _limits(self) -> Limits:
        return self._declared.limits if self._choice.limits is None else self._choice.limits

    def _demand_ours(self) -> None:
        if self._declared.how == "adopt":
            raise NotOurs(self._declared.name)

    def _choose(self, choice: Choice) -> None:
        if choice != self._choice:
            self._choice = choice
            self._remember(choice)

    async def _declare(self, limits: Limits | None) -> None:
        async with self._acting:
            before, choice = self._limits, replace(self._choice, limits=limits)
            wanted = self._declared.limits if limits is None else limits
            if self._held is not None:
                await self._apply(with_undone(wanted, before))
            self._choose(choice)

    async def _rest(self) -> None:
        """Until something happens, or it is time to look."""
        wait_s = CHECK_SECONDS if self._held else self._back_off.wait_s(self._clock.now()) or LOOK_SECONDS
        waits = [asyncio.ensure_future(self._wake.wait()), asyncio.ensure_future(self._clock.sleep(wait_s))]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self._wake.clear()

    async def _reconcile(self) -> None:
        held = self._held
        observed = Observed(
            answers=held is not None or self._control.identity() is not None,
            adopted=held is not None,
            started=held is not None and held.started,
            stopping=held is not None and held.stopping,
            wait_s=self._back_off.wait_s(self._clock.now()),
        )
        steps = plan(self._declared, self._choice, observed)
        for step in steps:
            try:
                await self._do(step, started="start" in steps)
            except (ControlFailed, NotSupported) as error:
                self._failed(step, str(error))
                return

    async def _do(self, step: Step, *, started: bool) -> None:
        match step:
            case "start":
                await self._start(self._control, self._limits)
                self._starts += 1
                await self._answers()
            case "adopt":
                if self._adopt(started=started) is None and started:
                    raise ControlFailed("start", "it has ended again; control.log in its log directory says why")
            case "apply_limits":
                if self._held is not None:
                    await self._apply(self._limits)
            case "stop":
                if self._held is not None:
                    await self._quit(self._held, force=self._held.forced)

    async def _answers(self) -> None:
        """Waits until somebody listens; systemd may say that it runs before."""
        end_s = self._clock.now() + ANSWER_SECONDS
        while self._control.identity() is None and self._clock.now() < end_s:
            await self._clock.sleep(ANSWER_LOOK_SECONDS)

    def _adopt(self, *, started: bool) -> Held | None:
        """Takes hold of the daemon that answers, if one still does."""
        identity = self._control.identity()
        if identity is None:
            return None
        try:
            held = Held(identity, since_s=self._clock.now(), started=started, ended=self._ended)
        except OSError:
            return None
        self._held, self._trouble = held, ""
        self._control.forget()
        if started or self._looked:  # one that ran before we came is no news
            self._tell(True, f"control daemon {identity.pid} {'was started' if started else 'runs'}")
        return held

    async def _apply(self, limits: Limits) -> None:
        self._in_force, self._drift = await apply(await self._control.dialect(), limits)

    async def _quit(self, held: Held, *, force: bool) -> None:
        """Tells it to end; only a refusal says that it will not."""
        before, held.stopping, held.forced = held.stopping, True, force
        try:
            await (await self._control.dialect()).quit(force=force)
        except (ControlFailed, NotSupported):
            held.stopping = before
            raise

    def _ended(self, held: Held) -> None:
        """The daemon's process has ended."""
        self._release(held)
        now_s = self._clock.now()
        self._back_off = BackOff() if held.stopping else self._back_off.after_end(now_s, now_s - held.since_s)
        asked = " as it was told to" if held.stopping else ""
        self._tell(False, f"control daemon {held.identity.pid} has ended{asked}")

    def _failed(self, step: Step, trouble: str) -> None:
        """A step did not succeed. That it does not start is told once, however often it is tried."""
        match step:
            case "start" | "adopt":
                self._back_off = self._back_off.after_failure(self._clock.now())
                first, self._trouble = not self._trouble, trouble
                if first:
                    self._tell(False, trouble)
            case "apply_limits" if self._held is not None:
                self._drift = [trouble]
            case "stop" if self._held is not None:
                self._trouble = trouble
            case _:  # it has ended meanwhile, which its pidfd has told
                pass

    def _release(self, held: Held) -> None:
        held.release()
        self._held, self._in_force, self._drift = None, None, []
        self._control.forget()
        self._wake.set()

    def _tell(self, running: bool, text: str) -> None:
        name, uid = self._declared.name, self._declared.uid
        self._emit(ControlChanged(time_ns=time.time_ns(), control=name, running=running, text=text, uid=uid))
