# SPDX-License-Identifier: Apache-2.0
"""What follows a takeover: a fresh standby, and the tenant's way back into MPS. Looked at from time to time.

A tenant that was taken over is served outside MPS, by what was its standby. Where its configuration says so, a unit
is started that stands by for that process; there are two for each tenant, and the one that it does not run in is
free. And where its process in MPS has come back and stands by there (it finds the epoch held), the one outside is
asked to end at a moment at which it reports nothing to do: its end is the proof, and hands over.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias, assert_never

from mpsafe.errors import ControlFailed
from mpsafe.model import Event, Figures, Identity, Standby
from mpsafed.mps.front_end import FrontEnd
from mpsafed.processes import Process

__all__ = ["Aftermath", "ReturnToMps", "Situation", "StartStandby", "TenantAfter", "unit_of", "wanted"]

UNITS: Final = ("mpsafe-standby@{tenant}.service", "mpsafe-standby-b@{tenant}.service")
START_SECONDS: Final = 30.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TenantAfter:
    """What a tenant wants after a takeover. `keep`: a standby, by systemd. `come_back`: into MPS, at a quiet moment."""

    keep: bool = False
    come_back: bool = False


@dataclass(frozen=True, slots=True)
class Situation:
    """How a tenant is. `holder` serves it; `unit`: in which of the two standby units that runs, if in one.

    `warm` standbys wait, `warm_in_mps` of them as clients of MPS; `quiet`: the holder has reported that nothing is
    queued or in flight; `settled`: no fault of the tenant is being dealt with.
    """

    holder: Identity
    holder_in_mps: bool
    unit: str | None
    warm: int
    warm_in_mps: int
    quiet: bool
    settled: bool


@dataclass(frozen=True, slots=True)
class StartStandby:
    """Start this unit."""

    unit: str


@dataclass(frozen=True, slots=True)
class ReturnToMps:
    """Ask this process to end: a standby in MPS follows it."""

    process: Identity


Step: TypeAlias = StartStandby | ReturnToMps


def wanted(tenant: str, after: TenantAfter, now: Situation) -> Step | None:
    """What is to be done next for a tenant, if anything. Pure."""
    if not now.settled:
        return None
    if after.come_back and not now.holder_in_mps and now.warm_in_mps and now.quiet:
        return ReturnToMps(now.holder)
    if after.keep and not now.warm:
        first, second = (unit.format(tenant=tenant) for unit in UNITS)
        return StartStandby(second if now.unit == first else first)
    return None


class Aftermath:
    """Looks at the tenants that want something after a takeover, one look at a time; each step is tried once for each
    process that serves, so that what cannot be started is not tried for ever."""

    def __init__(
        self,
        tenants: Mapping[str, TenantAfter],
        *,
        holder_of: Callable[[str], Identity | None],
        in_mps: Callable[[Identity], bool],
        standbys: Callable[[], Iterable[Standby]],
        figures_of: Callable[[Identity], Figures | None],
        events: Callable[[], Iterable[Event]],
        systemctl: str = "systemctl",
    ) -> None:
        self._tenants = {name: after for name, after in tenants.items() if after.keep or after.come_back}
        self._holder_of = holder_of
        self._in_mps = in_mps
        self._standbys = standbys
        self._figures_of = figures_of
        self._events = events
        self._systemctl = FrontEnd(systemctl, os.environ)
        self._done: set[tuple[Identity, type[Step]]] = set()
        self._looking: asyncio.Task[None] | None = None

    def look(self) -> None:
        """Begins a look, unless the last one goes on."""
        if self._tenants and (self._looking is None or self._looking.done()):
            self._looking = asyncio.create_task(self._look())

    async def close(self) -> None:
        """Ends the look that goes on."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _look(self) -> None:
        for tenant, after in self._tenants.items():
            now = self._situation(tenant)
            step = wanted(tenant, after, now) if now is not None else None
            if now is None or step is None or (now.holder, type(step)) in self._done:
                continue
            self._done.add((now.holder, type(step)))
            try:
                await self._take(tenant, step)
            except Exception:  # a tenant whose step fails costs the others nothing
                _log.exception("tenant %s: %s could not be done", tenant, step)

    def _situation(self, tenant: str) -> Situation | None:
        holder = self._holder_of(tenant)
        if holder is None:
            return None
        warm = [one for one in self._standbys() if one.tenant == tenant and one.phase == "warm"]
        figures = self._figures_of(holder)
        return Situation(
            holder=holder,
            holder_in_mps=self._in_mps(holder),
            unit=unit_of(tenant, _cgroups(holder)),
            warm=len(warm),
            warm_in_mps=sum(self._in_mps(one.identity) for one in warm),
            quiet=figures is not None and figures.queue == 0 and figures.in_flight == 0,
            settled=not any(
                event.phase == "open" and any(one.tenant == tenant for one in event.takeovers)
                for event in self._events()
            ),
        )

    async def _take(self, tenant: str, step: Step) -> None:
        match step:
            case StartStandby():
                _log.info("tenant %s has no standby: systemctl start %s", tenant, step.unit)
                await self._start(tenant, step.unit)
            case ReturnToMps():
                _log.info("tenant %s is quiet: process %d ends, and it returns into MPS", tenant, step.process.pid)
                with contextlib.suppress(OSError), Process(step.process) as process:
                    process.ask_to_end()
            case _:
                assert_never(step)

    async def _start(self, tenant: str, unit: str) -> None:
        try:
            reply = await self._systemctl.run("start", "--no-block", unit, named=unit, deadline_s=START_SECONDS)
        except ControlFailed as error:
            _log.error("tenant %s has no standby: %s", tenant, error)
            return
        if reply.status:
            _log.error("tenant %s has no standby: systemctl start %s ended with %d", tenant, unit, reply.status)


def unit_of(tenant: str, cgroups: str) -> str | None:
    """In which of the tenant's standby units a process is that has these cgroups (proc(5), /proc/PID/cgroup)."""
    names = {part for line in cgroups.splitlines() for part in line.rpartition(":")[2].split("/")}
    return next((name for unit in UNITS if (name := unit.format(tenant=tenant)) in names), None)


def _cgroups(process: Identity) -> str:
    try:
        return Path(f"/proc/{process.pid}/cgroup").read_text()
    except OSError:
        return ""
