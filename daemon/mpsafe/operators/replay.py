# SPDX-License-Identifier: Apache-2.0
"""A trace, a model, a profile and a promise, under one controller or another."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from mpsafe.operators import planner
from mpsafe.operators.controllers import Controller, Kind, start_s
from mpsafe.operators.forecast import Forecast
from mpsafe.operators.model import Demand, Plan, Slo
from mpsafe.operators.profiles import Profile
from mpsafe.operators.simulator.run import TICK_S, Run, simulate
from mpsafe.operators.specs import Spec
from mpsafe.operators.stages import stage
from mpsafe.operators.times import stage_times
from mpsafe.operators.traces import Trace, read, superpose

__all__ = ["Scenario", "load"]


@dataclass(frozen=True, slots=True)
class Scenario:
    """What all controllers share. `devices`: the most GPUs, or None for as many as it takes."""

    spec: Spec
    profile: Profile
    slo: Slo
    devices: int | None = None

    def replay(
        self,
        trace: Trace,
        kind: Kind,
        *,
        interval_s: float | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Run:
        """The trace under that controller. Raises NotMeasured where a plan needs what the profile has not."""
        kind = replace(kind, interval_s=interval_s or kind.interval_s)
        find = functools.partial(stage, self.spec)
        start = functools.partial(start_s, kind, operators=len(self.spec.operators))
        slowest = start(find("model")) if kind.granularity == "model" else start(find("prefill"))
        controller = Controller(
            kind,
            Forecast(trace),
            functools.partial(self._plan, kind=kind),
            reaction_s=max(kind.interval_s, TICK_S) + slowest,
        )
        return simulate(
            trace,
            controller,
            self.slo,
            self.profile.device,
            find,
            lambda one, gpus, share: stage_times(self.profile, self.spec, one, gpus, share),
            start,
            devices=self.devices,
            progress=progress,
        )

    def _plan(self, demand: Demand, *, kind: Kind) -> Plan:
        """The fewest GPUs that keep the promise; where there are not so many, the most that can be done with those."""
        return planner.plan(
            self.spec,
            self.profile,
            demand,
            self.slo,
            granularity=kind.granularity,
            devices=self.devices,
            shares=planner.WHOLE if kind.whole else None,
        )


def load(path: Path, copies: int, seed: int) -> Trace:
    """A trace from a file, as many times. Raises BadRequestTrace."""
    return superpose(read(path, seed=seed), copies, seed=seed)
