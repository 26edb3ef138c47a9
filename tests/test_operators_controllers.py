# SPDX-License-Identifier: Apache-2.0
"""This test will hold the controllers to their rules, and replay loads on the real planner with a real profile."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from mpsafe.operators.controllers import CONTROLLERS, STARTS_S, Controller, Kind, Scope, start_s
from mpsafe.operators.forecast import Forecast
from mpsafe.operators.model import Demand, Floats, Latency, Plan, PoolPlan, Slo
from mpsafe.operators.replay import Scenario
from mpsafe.operators.simulator.run import simulate
from mpsafe.operators.specs import load as spec_of
from mpsafe.operators.stages import stage
from mpsafe.operators.times import stage_times
from mpsafe.operators.traces import Trace
from operator_profiles import h200
from queue_blind import PROMISE, Blind, swinging

SPEC = spec_of("qwen2-7b")


def poisson(rate: "float | Floats", span_s: float, seed: int = 0) -> Trace:
    """At a rate, or at one for each second in turn."""
    dice = np.random.default_rng(seed)
    rates = np.broadcast_to(np.asarray(rate, np.float64), int(span_s))
    times = np.sort(np.repeat(np.arange(int(span_s)), dice.poisson(rates)) + dice.random(1)[0])
    times = np.sort(np.floor(times) + dice.random(len(times)))
    times -= times[0]
    return Trace("poisson", times, np.full(len(times), 500), np.full(len(times), 50))


class TenEach:
    """A planner for which each GPU carries 10 requests a second; the finer cut 12."""

    def plan(self, demand: Demand, scope: Scope) -> Plan:
        finer = scope.granularity in ("operator", "pd")
        gpus = max(1, math.ceil(demand.rate_per_s / (12 if finer else 10) - 1e-9))
        names = ("prefill", "decode") if finer else ("model",)
        pools = tuple(
            PoolPlan(
                stage=name,
                replicas=gpus,
                batch=8,
                tokens=512,
                tensor_parallel=1,
                share=1 / len(names),
                memory_bytes=1.0,
            )
            for name in names
        )
        return Plan(
            granularity=scope.granularity,
            pools=pools,
            placement=(),
            gpus=gpus,
            latency=Latency(0, 0, 0, 0),
            watts=0,
            bound_gpus=0,
        )

    def most(self, demand: Demand, scope: Scope, gpus: int) -> tuple[float, Plan]:
        rate = gpus * (12.0 if scope.granularity in ("operator", "pd") else 10.0)
        return rate, self.plan(replace(demand, rate_per_s=rate), scope)


def decisions(kind: Kind, trace: Trace) -> list[Plan]:
    controller = Controller(kind, Forecast(trace), TenEach())
    return [controller.decide(float(second), 0) for second in range(int(trace.span_s))]


def test_forecast_knows_nothing_of_later() -> None:
    trace = poisson(5.0, 400)
    later = replace(trace, arrivals_s=np.where(trace.arrivals_s < 200, trace.arrivals_s, 200.0))
    one, other = (Forecast(each).at(199.0, 20.0, 0) for each in (trace, later))
    assert replace(one, prompts=other.prompts) == other
    assert np.array_equal(one.prompts, other.prompts)


def test_forecast_adds_what_waits_and_what_may_rise() -> None:
    steady = poisson(20.0, 600)
    bursty = poisson(np.tile(np.repeat([2.0, 38.0], 20), 15), 600)
    plain = Forecast(steady).at(500.0, 1.0, 0).rate_per_s
    assert 20 <= plain < 26
    assert Forecast(steady).at(500.0, 1.0, 50).rate_per_s == pytest.approx(plain + 10, rel=0.06)
    slow, quick = (Forecast(bursty).at(500.0, seconds, 0).rate_per_s for seconds in (30.0, 1.0))
    assert slow > 1.3 * quick
    assert Forecast(steady).at(500.0, 30.0, 0).rate_per_s < 1.25 * plain


def test_up_at_once_and_down_after_half_a_minute() -> None:
    trace = poisson(np.repeat([15.0, 45.0, 15.0], (300, 300, 300)), 900)
    gpus = np.array([plan.gpus for plan in decisions(CONTROLLERS["model-fast"], trace)])
    assert gpus[290] == 2
    assert gpus[330] >= 5
    rise = int(np.argmax(gpus[300:] > 2))
    assert rise < 15
    assert gpus[600:630].min() >= 5
    assert gpus[-1] <= 3


def test_two_and_one_do_not_alternate() -> None:
    """A load on the edge of what a GPU carries, for half an hour."""
    gpus = np.array([plan.gpus for plan in decisions(CONTROLLERS["model-fast"], poisson(9.4, 1800))])
    assert set(gpus.tolist()) <= {1, 2}
    assert int(np.count_nonzero(np.diff(gpus))) <= 8


def test_static_has_one_plan_for_the_busiest_minute() -> None:
    trace = poisson(np.repeat([10.0, 60.0, 10.0], (120, 60, 120)), 300)
    plans = decisions(CONTROLLERS["static"], trace)
    assert {id(plan) for plan in plans} == {id(plans[0])}
    assert plans[0].gpus == pytest.approx(7, abs=1)


def test_other_workers_once_they_would_have_paid() -> None:
    """120 requests a second: 10 GPUs of stages in place of 12 or 13 replicas; the change is not made at once."""
    plans = decisions(CONTROLLERS["operator"], poisson(np.repeat([6.0, 120.0], (100, 200)), 300))
    cuts = ["model" if plan.pools[0].stage == "model" else "stages" for plan in plans]
    assert cuts[90] == "model"
    assert cuts[-1] == "stages"
    assert sum(one != other for one, other in itertools.pairwise(cuts)) <= 2


def test_starts_are_those_that_were_measured() -> None:
    model, whole, one = (stage(SPEC, name) for name in ("model", "prefill", "qkv.prefill"))
    assert start_s(CONTROLLERS["model"], model, 7) == STARTS_S["replica"]
    assert start_s(CONTROLLERS["model-fast"], model, 7) == 0
    assert start_s(CONTROLLERS["pd"], whole, 7) == pytest.approx(0.33)
    assert start_s(CONTROLLERS["operator"], one, 7) == pytest.approx(0.03)


def test_operator_needs_no_more_than_model_fast() -> None:
    """A load that rises and falls, on the real planner: GPU hours within 1 %, and as many promises kept."""
    ramp = np.concatenate([np.linspace(10, 120, 150), np.full(60, 120.0), np.linspace(120, 10, 150)])
    scenario, trace = Scenario(SPEC, h200(), Slo(1.0, 0.1)), poisson(ramp, 360)
    operator, fast, model = (
        scenario.replay(trace, CONTROLLERS[name]).outcome for name in ("operator", "model-fast", "model")
    )
    assert operator.gpu_hours <= 1.01 * fast.gpu_hours
    assert operator.attainment >= fast.attainment - 0.005
    assert fast.attainment > 0.99
    assert fast.gpu_hours <= model.gpu_hours
    assert {outcome.requests for outcome in (operator, fast, model)} == {len(trace)}
    again = scenario.replay(trace, CONTROLLERS["operator"]).outcome
    assert replace(again, sim_seconds=operator.sim_seconds) == operator


def test_at_most_so_many_gpus() -> None:
    run = Scenario(SPEC, h200(), Slo(1.0, 0.1), devices=2).replay(poisson(400.0, 30), CONTROLLERS["operator"])
    assert run.outcome.max_gpus <= 2
    assert run.outcome.attainment < 0.9
    assert np.isfinite(run.ttft_s).all()


def test_queue_blindness_fails_where_operator_keeps_its_promise() -> None:
    trace = swinging(600.0)
    scenario = Scenario(SPEC, h200(), PROMISE)
    ours = scenario.replay(trace, CONTROLLERS["operator"]).outcome
    blind = simulate(
        trace,
        Blind(scenario, trace),
        PROMISE,
        h200().device,
        lambda name: stage(SPEC, name),
        lambda one, gpus, share: stage_times(h200(), SPEC, one, gpus, share),
        lambda one: STARTS_S["all"],
    ).outcome
    assert ours.attainment >= 0.95
    assert blind.attainment < 0.7
    assert blind.ttft_ms.p99 > 10 * ours.ttft_ms.p99
