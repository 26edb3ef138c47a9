# SPDX-License-Identifier: Apache-2.0
"""All controllers on the same traces: intervals over seeds, and where the difference comes from.

The headline is `operator` against `model-fast`, which differ in granularity only. Against `model` it has three parts:
from `model` to `model-fast`, faster control and actuation; from there to `operator` with a GPU for each worker, finer
sizing; from there to `operator`, workers that share GPUs. Each part may be negative, and is then shown so.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from mpsafe.operators.controllers import CONTROLLERS, WHOLE, Kind
from mpsafe.operators.replay import Scenario
from mpsafe.operators.simulator.run import Outcome, Run
from mpsafe.operators.traces import Trace

__all__ = ["Arm", "Attribution", "Fleets", "Spread", "compare"]


@dataclass(frozen=True, slots=True)
class Spread:
    """A mean over seeds, and its 95 % interval by Student's t; None of one seed only."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Arm:
    """One controller at one load. `saved_of_fast`, `saved_of_model`: by how much fewer GPU hours than `model-fast` and
    `model`, as a part of theirs, paired by seed; None where those did not run."""

    controller: str
    copies: int
    seeds: int
    gpu_hours: Spread
    energy_kwh: Spread
    ttft_p99_ms: Spread
    tbt_p99_ms: Spread
    attainment: Spread
    max_gpus: Spread
    changes: Spread
    sim_seconds: Spread
    saved_of_fast: Spread | None
    saved_of_model: Spread | None


@dataclass(frozen=True, slots=True)
class Attribution:
    """Of the GPU hours of `model`, what each part saves."""

    copies: int
    faster_control: Spread
    finer_sizing: Spread
    sharing: Spread
    together: Spread


@dataclass(frozen=True, slots=True)
class Fleets:
    """What a comparison found, and one run of each arm to be looked at."""

    arms: list[Arm]
    attributions: list[Attribution]
    shown: list[tuple[int, Run]]


def compare(
    scenario: Scenario,
    traces: Callable[[int, int], Trace],
    *,
    controllers: Sequence[str],
    copies: Sequence[int],
    seeds: Sequence[int],
    interval_s: float | None = None,
    done: Callable[[], None] = lambda: None,
) -> Fleets:
    """`traces`: the trace of so many copies by that seed; `done` is called after each run."""
    arms, parts, shown = list[Arm](), list[Attribution](), list[tuple[int, Run]]()
    for number in copies:
        kinds = [CONTROLLERS[name] for name in controllers]
        if {"model", "model-fast", "operator"} <= set(controllers):
            kinds.append(WHOLE)
        runs: dict[str, list[Run]] = {}
        for kind in kinds:
            runs[kind.name] = list(_each(scenario, traces, kind, number, seeds, interval_s, done))
        outcomes = {name: [run.outcome for run in found] for name, found in runs.items()}
        arms += [_arm(name, number, outcomes) for name in runs]
        shown += [(number, found[0]) for found in runs.values()]
        if WHOLE.name in runs:
            parts.append(_attribute(number, outcomes))
    return Fleets(arms, parts, shown)


def _each(
    scenario: Scenario,
    traces: Callable[[int, int], Trace],
    kind: Kind,
    copies: int,
    seeds: Sequence[int],
    interval_s: float | None,
    done: Callable[[], None],
) -> Iterable[Run]:
    for seed in seeds:
        yield scenario.replay(traces(copies, seed), kind, interval_s=interval_s)
        done()


def _arm(name: str, copies: int, outcomes: dict[str, list[Outcome]]) -> Arm:
    mine = outcomes[name]

    def over(value: Callable[[Outcome], float]) -> Spread:
        return _spread([value(outcome) for outcome in mine])

    def saved_of(other: str) -> Spread | None:
        if other not in outcomes or other == name:
            return None
        pairs = zip(mine, outcomes[other], strict=True)
        return _spread([1 - own.gpu_hours / its.gpu_hours for own, its in pairs])

    return Arm(
        controller=name,
        copies=copies,
        seeds=len(mine),
        gpu_hours=over(lambda outcome: outcome.gpu_hours),
        energy_kwh=over(lambda outcome: outcome.energy_kwh),
        ttft_p99_ms=over(lambda outcome: outcome.ttft_ms.p99),
        tbt_p99_ms=over(lambda outcome: outcome.tbt_ms.p99),
        attainment=over(lambda outcome: outcome.attainment),
        max_gpus=over(lambda outcome: outcome.max_gpus),
        changes=over(lambda outcome: outcome.changes),
        sim_seconds=over(lambda outcome: outcome.sim_seconds),
        saved_of_fast=saved_of("model-fast"),
        saved_of_model=saved_of("model"),
    )


def _attribute(copies: int, outcomes: dict[str, list[Outcome]]) -> Attribution:
    hours = {name: np.array([outcome.gpu_hours for outcome in found]) for name, found in outcomes.items()}
    model, fast, whole, operator = (hours[name] for name in ("model", "model-fast", WHOLE.name, "operator"))
    return Attribution(
        copies=copies,
        faster_control=_spread((model - fast) / model),
        finer_sizing=_spread((fast - whole) / model),
        sharing=_spread((whole - operator) / model),
        together=_spread((model - operator) / model),
    )


def _spread(values: "Sequence[float] | np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> Spread:
    found = np.asarray(values, np.float64)
    mean = float(found.mean())
    if len(found) < 2 or not math.isfinite(mean):
        return Spread(mean, None, None)
    half = float(stdtrit(len(found) - 1, 0.975)) * float(found.std(ddof=1)) / math.sqrt(len(found))
    return Spread(mean, mean - half, mean + half)
