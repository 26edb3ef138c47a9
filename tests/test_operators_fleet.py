# SPDX-License-Identifier: Apache-2.0
"""This test will lead a fleet from plan to plan: starts, drains, other cuts of the model, and GPUs that are on."""

import math
from dataclasses import replace

import numpy as np
import pytest

from mpsafe.operators.model import Latency, Plan, PoolPlan, Stage, StageTimes
from mpsafe.operators.simulator.fleet import Fleet
from mpsafe.operators.simulator.gpus import Gpus, Need, on_s
from mpsafe.operators.simulator.state import State
from operator_lines import DEVICE, stage, times

STAGES = {
    "model": stage("model", ("prefill", "decode"), weight=1000.0, cache=1.0),
    "prefill": stage("prefill", ("prefill",), weight=500.0),
    "decode": stage("decode", ("decode",), weight=500.0, cache=1.0),
}
LINEAR = times(linear=((1, 1000), (0.004, 0.2)), decode=((1, 64), (0, 4000), ((0, 0.001), (0, 0.05))))
START_S = 2.5


def tables(one: Stage, gpus: int, share: float) -> StageTimes:
    return replace(LINEAR, stage=one.name, tensor_parallel=gpus, share=share, bandwidth_share=share)


def pool(name: str, replicas: int, share: float = 1.0, memory: float = 1e6) -> PoolPlan:
    return PoolPlan(
        stage=name, replicas=replicas, batch=64, tokens=512, tensor_parallel=1, share=share, memory_bytes=memory
    )


def plan(*pools: PoolPlan) -> Plan:
    gpus = math.ceil(sum(each.replicas * each.share for each in pools) - 1e-9)
    return Plan(
        granularity="operator",
        pools=pools,
        placement=(),
        gpus=gpus,
        latency=Latency(0, 0, 0, 0),
        watts=0,
        bound_gpus=0,
    )


ONE, TWO = plan(pool("model", 1)), plan(pool("model", 2))
SPLIT = plan(pool("prefill", 2, 0.5, 4e5), pool("decode", 2, 0.5, 4e5))


def fleet_of(rate: float, seconds: float, *, devices: int = 8) -> Fleet:
    dice = np.random.default_rng(1)
    arrivals = np.cumsum(dice.exponential(1 / rate, int(rate * seconds)))
    prompts, outputs = dice.integers(50, 400, len(arrivals)), dice.integers(2, 60, len(arrivals))
    state = State(arrivals, prompts, outputs, workers=64, batch=64, stages=8, routes=8, visits=8)
    return Fleet(state, DEVICE, STAGES.__getitem__, tables, lambda _: START_S, devices=devices)


def lead(fleet: Fleet, *steps: tuple[float, Plan]) -> None:
    """Each plan from its time on, followed each second; then to the end."""
    fleet.follow(steps[0][1], cap=64, at_once=True)
    for (begin, one), (end, _) in zip(steps, (*steps[1:], (steps[-1][0] + 60, ONE)), strict=True):
        for second in np.arange(begin, end):
            fleet.state.advance(float(second))
            fleet.follow(one, cap=64)
    fleet.state.advance(math.inf)
    fleet.finish()


def test_worker_is_up_after_its_start_and_gone_after_its_last_sequence() -> None:
    fleet = fleet_of(10, 60)
    lead(fleet, (0, ONE), (10, TWO), (30, ONE))
    lives = sorted(fleet.lives, key=lambda life: life.begin_s)
    assert [life.begin_s for life in lives] == [0, 10]
    assert fleet.changes == 3
    ended = min(lives, key=lambda life: life.end_s)
    assert 30 <= ended.end_s < 36
    assert np.isfinite(fleet.state.requests.end).all()
    assert fleet.busy_s == pytest.approx(sum(life.busy_s for life in lives))


@pytest.mark.parametrize("steps", [(ONE, SPLIT, ONE), (SPLIT, TWO, SPLIT)], ids=["there and back", "and the other way"])
def test_other_cut_loses_no_request(steps: tuple[Plan, ...]) -> None:
    """The old workers serve until the new ones are up, and end what they have."""
    fleet = fleet_of(12, 70)
    lead(fleet, *zip((0.0, 20.0, 40.0), steps, strict=True))
    requests = fleet.state.requests
    assert np.isfinite(requests.end).all()
    assert (requests.first >= requests.arrival).all()
    assert fleet.state.core.present == 0
    assert float((requests.first - requests.arrival).max()) < 5
    stages = {life.stage for life in fleet.lives}
    assert stages == {"model", "prefill", "decode"}
    assert not np.any([life.end_s == math.inf for life in fleet.lives])


def test_what_has_no_room_is_not_started() -> None:
    fleet = fleet_of(5, 20, devices=2)
    lead(fleet, (0, plan(pool("model", 3))))
    assert len(fleet.lives) == 2
    assert {gpu for life in fleet.lives for gpu in life.gpus} == {0, 1}


def test_scattered_workers_are_gathered() -> None:
    """Six halves on three GPUs become two, wherever they were: they end on one GPU, the others are off."""
    wide = plan(pool("prefill", 3, 0.5, 4e5), pool("decode", 3, 0.5, 4e5))
    narrow = plan(pool("prefill", 1, 0.5, 4e5), pool("decode", 1, 0.5, 4e5))
    fleet = fleet_of(2, 100)
    fleet.follow(wide, cap=64, at_once=True)
    assert fleet.gpus.on == 3
    for second in range(1, 60):
        fleet.state.advance(float(second))
        fleet.follow(narrow, cap=64)
    assert fleet.gpus.on == 1
    assert {name: up for name, up in fleet.replicas().items() if up} == {"prefill": 1, "decode": 1}


def test_best_fit_takes_the_fullest_gpu_that_has_room() -> None:
    gpus = Gpus(DEVICE, 3)
    half, third, much = Need(0.5, 0.1, 1e5), Need(0.3, 0.1, 1e5), Need(0.1, 0.1, 9.5e5)
    gpus.take(gpus.place(half, 1), half)
    assert gpus.place(third, 1) == (0,)
    gpus.take((0,), third)
    assert gpus.place(half, 1) == (1,)
    assert gpus.place(much, 1) == (1,)
    assert gpus.place(Need(1.0, 1.0, 1e5), 2) == (1, 2)
    assert gpus.place(Need(1.0, 1.0, 1e5), 3) == ()
    gpus.give((0,), third)
    gpus.give((0,), half)
    assert gpus.on == 0


def test_a_gpu_is_on_from_its_first_worker_to_its_last() -> None:
    lives = [(0, 0.0, 10.0), (0, 5.0, 20.0), (0, 30.0, math.inf), (1, 2.0, 3.0)]
    assert on_s(lives, 50.0).tolist() == [40.0, 1.0]
