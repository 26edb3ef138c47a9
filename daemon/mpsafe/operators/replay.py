# SPDX-License-Identifier: Apache-2.0
"""A trace, a model, a profile and a promise, under one controller or another."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from mpsafe.operators import planner
from mpsafe.operators.controllers import Controller, Kind, Scope, start_s
from mpsafe.operators.forecast import Forecast
from mpsafe.operators.model import Demand, Plan, Slo
from mpsafe.operators.planner.tables import CLIENT_BYTES
from mpsafe.operators.profiles import Profile
from mpsafe.operators.simulator.run import Run, simulate
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
    _limits: dict[tuple[object, ...], tuple[float, Plan]] = field(
        default_factory=lambda: dict[tuple[object, ...], tuple[float, Plan]](), init=False, repr=False
    )

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
        forecast = Forecast(trace)
        self.plan(forecast.at(0.0, 0.0, 0), Scope(kind.granularity))  # compiles what is not yet
        return simulate(
            trace,
            Controller(kind, forecast, self),
            self.slo,
            self.profile.device,
            find,
            lambda one, gpus, share: stage_times(self.profile, self.spec, one, gpus, share),
            start,
            devices=self.devices,
            process_bytes=CLIENT_BYTES,
            progress=progress,
        )

    def plan(self, demand: Demand, scope: Scope) -> Plan:
        """The fewest GPUs that keep the promise; where there are not so many, what can be done with those."""
        found = planner.plan(
            self.spec,
            self.profile,
            demand,
            self.slo,
            granularity=scope.granularity,
            shares=scope.shares,
            kinds=scope.kinds,
        )
        if self.devices is None or found.gpus <= self.devices:
            return found
        lengths = replace(demand, rate_per_s=1.0)
        key = (lengths.prompt_mean, lengths.output_mean, lengths.output_scv, lengths.arrival_scv, scope)
        if key not in self._limits:
            self._limits[key] = self.most(lengths, scope, self.devices)
        rate, limit = self._limits[key]
        return replace(limit, binding=f"{self.devices} GPUs carry {rate:.3g} requests a second")

    def most(self, demand: Demand, scope: Scope, gpus: int) -> tuple[float, Plan]:
        """The highest rate that so many GPUs carry, and the plan for it."""
        return planner.most(
            self.spec,
            self.profile,
            demand,
            self.slo,
            granularity=scope.granularity,
            devices=gpus,
            shares=scope.shares,
            kinds=scope.kinds,
        )


def load(path: Path, copies: int, seed: int) -> Trace:
    """A trace from a file, as many times. Raises BadRequestTrace."""
    return superpose(read(path, seed=seed), copies, seed=seed)
