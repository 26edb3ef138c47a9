# SPDX-License-Identifier: Apache-2.0
"""The simulator against exact queues, the queue model against the simulator, all controllers on real traces.

Real traces and profiles are read from $MPSAFE_DATA (default: ../shared/data), with traces/ and profiles/ in it; what
needs them is left out, and said, where they are not. Nothing here was measured on a GPU.
"""

import functools
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from typing_extensions import override

from mpsafe.operators.comparison import compare
from mpsafe.operators.controllers import CONTROLLERS, Controller, Kind, Scope, start_s
from mpsafe.operators.forecast import Forecast
from mpsafe.operators.model import Demand, Floats, Plan, Slo
from mpsafe.operators.profiles import open_profile
from mpsafe.operators.replay import Scenario, load
from mpsafe.operators.report import Setting, page
from mpsafe.operators.simulator.run import Run, simulate
from mpsafe.operators.specs import load as spec_of
from mpsafe.operators.stages import stage
from mpsafe.operators.times import stage_times
from mpsafe.operators.traces import Trace
from operator_lines import queue
from queue_blind import PROMISE, Blind, swinging
from tools.bench import aisimulate
from tools.bench.rows import Row, report

DATA: Final = Path(os.environ.get("MPSAFE_DATA", "../shared/data"))
LAX: Final = Slo(1.0, 0.1)
TIGHT: Final = Slo(0.4, 0.04)
JOBS: Final = 2_000_000
SEEDS: Final = 20
ERROR: Final = 1.5  # per cent, of a mean wait
BANDS: Final = (0.5, 0.7, 0.8, 0.9, 0.95)


def main() -> None:
    """Prints, and writes build/bench/operators_simulate.json and a page for each promise."""
    rows = list(_exact())
    if (DATA / "traces").is_dir() and (DATA / "profiles").is_dir():
        rows += [*_speed(), *_queue_model(), *_blind(), *_controllers(), *_peer()]
    else:
        print(f"no traces and profiles in {DATA}: only exact queues; name a folder in MPSAFE_DATA", file=sys.stderr)
    report("operators_simulate", "none: simulated", rows)


def _exact() -> Iterator[Row]:
    """Mean waits of M/M/c, over independent runs, and the half of their 95 % interval."""
    for workers, busy in ((1, 0.7), (4, 0.8), (16, 0.85), (64, 0.9)):
        load_ = workers * busy
        exact = _erlang_c(workers, load_) / (workers - load_)
        waits: list[float] = []
        for seed in range(SEEDS):
            dice = np.random.default_rng(seed)
            arrivals = np.cumsum(dice.exponential(1 / load_, JOBS))
            waits.append(float(queue(arrivals, [dice.exponential(1.0, JOBS)], [workers])[JOBS // 20 :].mean()))
        error = 100 * abs(float(np.mean(waits)) / exact - 1)
        half = 100 * 2.09 * float(np.std(waits, ddof=1)) / math.sqrt(SEEDS) / exact
        yield Row(f"M/M/{workers} at {busy:g}: error of the mean wait", error, "%", "bound", ERROR)
        yield Row(f"M/M/{workers} at {busy:g}: error of the mean wait", error, "%", "its interval", half)


def _erlang_c(workers: int, load_: float) -> float:
    blocked = 1.0
    for k in range(1, workers + 1):
        blocked = load_ * blocked / (k + load_ * blocked)
    return blocked / (1 - load_ / workers * (1 - blocked))


def _scenario(profile: str, slo: Slo, model: str = "qwen2-7b") -> Scenario:
    return Scenario(spec_of(model), open_profile(str(DATA / "profiles" / "aiconfigurator" / profile)), slo)


def _trace(name: str, copies: int = 1, seed: int = 1) -> Trace:
    return load(DATA / "traces" / name, copies, seed)


def _speed() -> Iterator[Row]:
    """The 30 minutes of conversation, at model level; the second run, as the first one compiles the planner."""
    scenario, trace = _scenario("h200_sxm", LAX), _trace("azure_2023_conv.csv")
    for name in ("model", "operator"):
        scenario.replay(trace, CONTROLLERS[name])
        spent = scenario.replay(trace, CONTROLLERS[name]).outcome.sim_seconds
        yield Row(f"30 min of conversation, controller {name}", spent, "s", "bound", 1.0)


class _Fixed(Controller):
    """One plan, whatever comes."""

    def __init__(self, plan: Plan, trace: Trace, planner: Scenario) -> None:
        super().__init__(Kind("fixed", "model", math.inf), Forecast(trace), planner)
        self._fixed = plan

    @override
    def decide(self, now_s: float, waiting: int) -> Plan:
        return self._fixed


def _under(scenario: Scenario, controller: Controller, trace: Trace) -> Run:
    return simulate(
        trace,
        controller,
        scenario.slo,
        scenario.profile.device,
        lambda name: stage(scenario.spec, name),
        lambda one, gpus, share: stage_times(scenario.profile, scenario.spec, one, gpus, share),
        lambda one: start_s(controller.kind, one, len(scenario.spec.operators)),
    )


def _queue_model() -> Iterator[Row]:
    """What a plan expects against what its fleet does, with lengths of the conversation and Poisson arrivals, by how
    much of the rate that four GPUs carry comes."""
    real = _trace("azure_2023_conv.csv")
    for granularity in ("model", "pd"):
        scenario = _scenario("h200_sxm", LAX)
        lengths = Demand(
            rate_per_s=50.0,
            prompt_mean=float(real.prompts.mean()),
            output_mean=float(real.outputs.mean()),
            output_scv=0.6,
            prompts=real.prompts.astype(np.float64),
        )
        scope = Scope(granularity)
        most, _ = scenario.most(lengths, scope, 4)
        for part in BANDS:
            plan = scenario.plan(replace(lengths, rate_per_s=part * most), scope)
            run = _under(scenario, _Fixed(plan, real, scenario), _poisson(real, part * most))
            found, expected = run.outcome, plan.latency
            for name, value, simulated in (
                ("TTFT mean", expected.ttft_mean_s, found.ttft_ms.mean),
                ("TTFT p99", expected.ttft_p99_s, found.ttft_ms.p99),
                ("TBT p99", expected.tbt_p99_s, found.tbt_ms.p99),
            ):
                metric = f"{granularity}, {plan.gpus} GPUs at {part:g} of what 4 carry: expected {name}"
                yield Row(metric, 1000 * value, "ms", "simulated", simulated)


def _poisson(like: Trace, rate: float, span_s: float = 1200.0) -> Trace:
    dice = np.random.default_rng(3)
    times: Floats = np.sort(dice.random(int(rate * span_s))) * span_s
    taken = dice.integers(0, len(like), len(times))
    return Trace("poisson", times - times[0], like.prompts[taken], like.outputs[taken])


def _blind() -> Iterator[Row]:
    trace, scenario = swinging(1800.0), _scenario("h200_sxm", PROMISE)
    ours = scenario.replay(trace, CONTROLLERS["operator"]).outcome
    blind = _under(scenario, Blind(scenario, trace), trace).outcome
    case = "1 to 24 requests/s, 8,000 in, 1,000 out"
    yield Row(f"{case}: kept", 100 * ours.attainment, "%", "bound", 95.0, more_is_better=True)
    yield Row(f"{case}: kept", 100 * ours.attainment, "%", "queue-blind", 100 * blind.attainment, more_is_better=True)
    yield Row(f"{case}: TTFT p99", ours.ttft_ms.p99, "ms", "queue-blind", blind.ttft_ms.p99)
    yield Row(f"{case}: GPU hours", ours.gpu_hours, "h", "queue-blind", blind.gpu_hours)


def _peer() -> Iterator[Row]:
    """aisimulate on the 30 minutes of conversation."""
    trace, scenario = _trace("azure_2023_conv.csv"), _scenario("h200_sxm", LAX, aisimulate.MODEL[0])
    demand = Demand(rate_per_s=5.0, prompt_mean=1243.0, output_mean=217.0)
    plan = scenario.plan(demand, Scope("model"))
    pool = replace(
        plan.pools[0],
        tokens=aisimulate.BUDGET,
        batch=aisimulate.BATCH,
        memory_bytes=scenario.profile.device.memory_bytes,
    )
    fixed = _Fixed(replace(plan, pools=(pool,)), trace, scenario)
    _under(scenario, fixed, trace)
    yield from aisimulate.rows(trace, _under(scenario, fixed, trace).outcome)


def _controllers() -> Iterator[Row]:
    copies = [int(one) for one in os.environ.get("MPSAFE_COPIES", "1,16").split(",")]
    seeds = range(1, 1 + int(os.environ.get("MPSAFE_SEEDS", "2")))
    cases = (
        ("azure_2023_conv.csv", "h200_sxm", LAX, "qwen2-7b"),
        ("azure_2023_code.csv", "h200_sxm", LAX, "qwen2-7b"),
        ("azure_2023_conv.csv", "a100_sxm", TIGHT, "qwen2-7b"),
        ("azure_2023_conv.csv", "h200_sxm", TIGHT, "qwen2-57b-a14b"),
    )
    for name, profile, slo, model in cases:
        scenario = _scenario(profile, slo, model)
        found = compare(
            scenario,
            functools.partial(_trace, name),
            controllers=list(CONTROLLERS),
            copies=copies,
            seeds=seeds,
        )
        case = f"{model}, {profile}, {slo.ttft_s * 1000:g}/{slo.tbt_s * 1000:g} ms, {Path(name).stem}"
        arms = {(arm.controller, arm.copies): arm for arm in found.arms}
        for number in copies:
            ours = arms["operator", number]
            for other in ("model-fast", "model", "pd", "attn-ffn", "static"):
                theirs = arms[other, number]
                metric = f"{case} x {number}: GPU hours of operator, {100 * ours.attainment.mean:.2f} % kept"
                baseline = f"{other}, {100 * theirs.attainment.mean:.2f} % kept"
                yield Row(metric, ours.gpu_hours.mean, "h", baseline, theirs.gpu_hours.mean)
        setting = Setting(
            trace=name,
            model=model,
            profile=profile,
            device=scenario.profile.device,
            slo=slo,
            seeds=list(seeds),
            notes=scenario.profile.notes.said,
        )
        out = Path("build/bench") / f"operators-{model}-{profile}-{Path(name).stem}.html"
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page(setting, found), encoding="utf-8")
