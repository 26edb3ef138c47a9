# SPDX-License-Identifier: Apache-2.0
"""This test will plan real models from real tables: nothing overfull, no promise broken on paper, and near the
optimum."""

import itertools
import math
import os
import statistics
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

from mpsafe.errors import BadDemand
from mpsafe.operators import specs
from mpsafe.operators.model import GRANULARITIES, Demand, Floats, Granularity, Plan, Slo
from mpsafe.operators.planner import most, plan
from mpsafe.operators.planner.choose import choose
from mpsafe.operators.queueing import path_p99_s
from mpsafe.operators.stages import stage
from mpsafe.operators.times import decode_s, linear_s, stage_times
from operator_profiles import h200
from tools.optimum import gap, instances

SPEC = specs.load("qwen2-7b")
MIXTURE = specs.load("qwen2-57b-a14b")
SLO = Slo(1.0, 0.1)
DEMAND = Demand(rate_per_s=90, prompt_mean=1243, output_mean=217, prompt_scv=0.9, output_scv=0.6)


def planned(granularity: Granularity, rate: float = 90, slo: Slo = SLO, previous: Plan | None = None) -> Plan:
    return plan(SPEC, h200(), replace(DEMAND, rate_per_s=rate), slo, granularity=granularity, previous=previous)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("rate", [0.05, 5, 90, 700])
def test_a_plan_keeps_what_was_promised_and_overfills_nothing(granularity: Granularity, rate: float) -> None:
    found = planned(granularity, rate)
    assert not found.binding and found.bound_gpus <= found.gpus + 1e-9
    latency = found.latency
    assert latency.ttft_mean_s < latency.ttft_p99_s <= SLO.ttft_s + 1e-6
    assert latency.tbt_mean_s <= latency.tbt_p99_s <= SLO.tbt_s + 1e-6
    assert found.gpus == len({one.gpu for one in found.placement})
    assert h200().device.idle_w * found.gpus <= found.watts <= h200().device.peak_w * found.gpus
    share, memory, bus = defaultdict[int, float](float), defaultdict[int, float](float), defaultdict[int, float](float)
    pools = {pool.stage: pool for pool in found.pools}
    for one in found.placement:
        pool = pools[one.stage]
        times = stage_times(h200(), SPEC, stage(SPEC, one.stage), pool.tensor_parallel, pool.share)
        share[one.gpu] += pool.share
        memory[one.gpu] += pool.memory_bytes
        bus[one.gpu] += times.bandwidth_share
    assert max(share.values()) <= 1 + 1e-9 and max(bus.values()) <= 1 + 1e-9
    assert max(memory.values()) <= h200().device.memory_bytes * (1 + 1e-9)
    for pool in found.pools:
        shards = [one for one in found.placement if one.stage == pool.stage]
        assert len(shards) == len(set(shards)) == pool.replicas * pool.tensor_parallel
        assert pool.memory_bytes >= stage(SPEC, pool.stage).weight_bytes / pool.tensor_parallel
        assert granularity == "operator" or pool.share == 1


@pytest.mark.parametrize("spec", [SPEC, MIXTURE], ids=["dense", "mixture"])
@pytest.mark.parametrize("rate", [1, 12, 60])
def test_operator_needs_no_more_than_any_coarser_cut(spec: specs.Spec, rate: float) -> None:
    for slo in (SLO, Slo(0.4, 0.05)):
        demand = replace(DEMAND, rate_per_s=rate)
        found = {g: plan(spec, h200(), demand, slo, granularity=g) for g in GRANULARITIES}
        kept = [one.gpus for one in found.values() if not one.binding]
        assert not found["operator"].binding and found["operator"].gpus == min(kept)


def test_pools_are_stable_by_the_tables_themselves() -> None:
    """Each prefill pool has more workers than are busy; each decoder's iteration is as long as the plan says."""
    found = planned("pd", 90)
    prefill, decode = found.pools
    times = stage_times(h200(), SPEC, stage(SPEC, "prefill"), prefill.tensor_parallel, prefill.share)
    busy = 90 / prefill.batch * linear_s(times, np.array([1243.0 * prefill.batch]))[0]
    assert busy < prefill.replicas < 2 * busy + 2
    times = stage_times(h200(), SPEC, stage(SPEC, "decode"), decode.tensor_parallel, decode.share)
    group = 90 * 216 * found.latency.tbt_mean_s / decode.replicas  # Little
    context = 1243 + 0.5 * 217 * 1.6
    seconds = linear_s(times, np.array([group]))[0] + decode_s(times, group, context)
    assert seconds == pytest.approx(found.latency.tbt_mean_s, rel=0.05)


def test_more_load_needs_no_fewer_gpus() -> None:
    for granularity in GRANULARITIES:
        gpus = [planned(granularity, rate).gpus for rate in (10, 20, 40, 80, 160, 320)]
        assert gpus == sorted(gpus)


def test_queues_cost_gpus() -> None:
    """A promise near the bare service time, and bursts, need more than the work alone."""
    loose = plan(SPEC, h200(), DEMAND, Slo(2.0, 0.1), granularity="pd").gpus
    tight = plan(SPEC, h200(), DEMAND, Slo(0.16, 0.1), granularity="pd").gpus
    bursts = plan(SPEC, h200(), replace(DEMAND, arrival_scv=15), Slo(0.3, 0.1), granularity="pd").gpus
    assert loose < tight and loose < bursts


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_what_cannot_be_kept_is_named(granularity: Granularity) -> None:
    found = planned(granularity, 10, Slo(0.001, 0.1))
    assert "ttft_ms 1 cannot be kept" in found.binding and found.placement
    assert found.latency.ttft_p99_s > 0.001
    found = planned(granularity, 10, Slo(1.0, 0.001))
    assert "tbt_ms 1 cannot be kept" in found.binding and found.placement


def test_weights_that_do_not_fit_are_named() -> None:
    huge = replace(SPEC, hidden=SPEC.hidden, inner=SPEC.inner * 2, layers=900)
    found = plan(huge, h200(), DEMAND, SLO, granularity="pd")
    assert found.binding.startswith("decode: needs ") and not found.pools and math.isinf(found.bound_gpus)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rate_per_s": 0.0}, "rate: must be a positive number, and is 0"),
        ({"rate_per_s": math.nan}, "rate: must be a positive number, and is nan"),
        ({"prompt_mean": -3.0}, "prompt tokens: must be a positive number, and is -3"),
        ({"output_mean": 0.0}, "output tokens: must be at least 1, and is 0"),
    ],
)
def test_a_load_that_cannot_be(change: dict[str, float], says: str) -> None:
    with pytest.raises(BadDemand, match=says):
        plan(SPEC, h200(), replace(DEMAND, **change), SLO, granularity="pd")  # type: ignore[arg-type] # all floats
    with pytest.raises(BadDemand, match="tbt_ms: must be a positive number, and is 0"):
        plan(SPEC, h200(), DEMAND, Slo(1.0, 0.0), granularity="pd")


@pytest.mark.parametrize("granularity", ["operator", "model"])
def test_the_most_that_devices_carry(granularity: Granularity) -> None:
    rate, found = most(SPEC, h200(), DEMAND, SLO, granularity=granularity, devices=3)
    assert found.gpus <= 3 and not found.binding
    assert planned(granularity, rate * 1.02).gpus > 3
    short = plan(SPEC, h200(), replace(DEMAND, rate_per_s=10 * rate), SLO, granularity=granularity, devices=3)
    assert short.gpus <= 3 and short.binding.startswith("3 devices carry ")


def test_an_answer_of_one_token_is_never_decoded() -> None:
    found = plan(SPEC, h200(), replace(DEMAND, output_mean=1.0), SLO, granularity="pd")
    assert not found.binding and next(pool for pool in found.pools if pool.stage == "decode").replicas == 1


def test_a_plan_that_follows_another_leaves_workers_where_they_are() -> None:
    first = planned("operator", 90)
    again = planned("operator", 90, previous=first)
    assert again.placement == first.placement
    more = planned("operator", 93, previous=first)
    kinds = {(pool.stage, pool.share, pool.tensor_parallel) for pool in more.pools}
    if kinds == {(pool.stage, pool.share, pool.tensor_parallel) for pool in first.pools}:
        assert set(first.placement) <= set(more.placement)


def test_only_some_kinds_of_workers_and_only_whole_gpus() -> None:
    kinds = frozenset({("prefill", 1, 0.8), ("decode", 1, 0.2), ("prefill", 1, 1.0), ("decode", 1, 1.0)})
    found = plan(SPEC, h200(), DEMAND, SLO, granularity="operator", kinds=kinds)
    assert {(pool.stage, pool.tensor_parallel, pool.share) for pool in found.pools} <= kinds
    whole = plan(SPEC, h200(), DEMAND, SLO, granularity="operator", shares=(1.0,))
    assert {pool.share for pool in whole.pools} == {1.0} and found.gpus <= whole.gpus


def late(points: tuple[int, ...], mean: Floats, longer: Floats, waits: Floats) -> float:
    total, more, squares = (
        float(sum(table[i, p] ** power for i, p in enumerate(points)))
        for table, power in ((mean, 1), (longer, 1), (waits, 2))
    )
    return path_p99_s(total, more, squares)


def test_choice_and_bound_against_every_combination() -> None:
    """Three stages of six points: the choice is within 2 % of the best on average, the bound never above it."""
    random, ratios = np.random.default_rng(7), list[float]()
    for _ in range(40):
        cost = np.sort(random.uniform(0.1, 3, (3, 6)), axis=1)
        mean = np.sort(random.uniform(0.01, 0.3, (3, 6)), axis=1)[:, ::-1].copy()
        longer = np.sort(random.uniform(0.0, 0.3, (3, 6)), axis=1)[:, ::-1].copy()
        waits = np.sort(random.uniform(0.0, 0.3, (3, 6)), axis=1)[:, ::-1].copy()
        budget = float(random.uniform(0.3, 1.5))

        within = [
            points for points in itertools.product(range(6), repeat=3) if late(points, mean, longer, waits) <= budget
        ]
        chosen, kept, bound = choose(cost, mean, longer, waits, budget)
        assert kept == bool(within)
        if within:
            best = min(sum(float(cost[i, p]) for i, p in enumerate(points)) for points in within)
            found = sum(float(cost[i, p]) for i, p in enumerate(chosen))
            assert late(tuple(chosen), mean, longer, waits) <= budget + 1e-9 and bound <= best + 1e-9
            ratios.append(found / best)
    assert len(ratios) > 20 and statistics.mean(ratios) < 1.02


def test_small_plans_are_the_optimum() -> None:
    """Options, workers and placement at once, by HiGHS. All 200 with MPSAFE_ALL; `make bench` prints them too."""
    many = 200 if os.environ.get("MPSAFE_ALL") else 4
    drawn = instances([SPEC, specs.load("llama-3.1-8b"), MIXTURE], [h200()], seed=3)
    gaps = [gap(one) for one in itertools.islice(drawn, many)]
    assert all(one.optimum <= one.found.gpus for one in gaps)
    assert statistics.median(one.percent for one in gaps) == 0
    assert max(one.percent for one in gaps) <= 5
