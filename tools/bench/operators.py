# SPDX-License-Identifier: Apache-2.0
"""Plans against their bounds: how long one takes, how far it is from the optimum, and the formulas against exact
queues.

Tables are the excerpts of tests/data/profiles, so that every machine measures the same; MPSAFE_PROFILES names a folder
of whole ones. The first call of each kind is not measured: it compiles, and reads tables.
"""

import math
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Final

import numpy as np

from mpsafe.operators import specs
from mpsafe.operators.fcfs import departures
from mpsafe.operators.model import GRANULARITIES, Demand, Floats, PoolPlan, Slo
from mpsafe.operators.placement import kind, place
from mpsafe.operators.planner import plan
from mpsafe.operators.planner.points import WEIGHTS, solve
from mpsafe.operators.planner.points import Path as Stages
from mpsafe.operators.profiles import open_profile
from mpsafe.operators.queueing import wait_mean_s
from tools.bench.rows import Row, percentile, report
from tools.optimum import gap, instances

__all__ = ["main"]

PROFILE: Final = os.environ.get("MPSAFE_PROFILES", "tests/data/profiles/aiconfigurator/h200_sxm")
INSTANCES: Final = int(os.environ.get("MPSAFE_INSTANCES", "200"))
SLO: Final = Slo(1.0, 0.1)


def main() -> None:
    """Measures, and prints."""
    report("operators", "no GPU", [*_queues(), *_plans(), *_paths(), *_placements(), *_optima()])


def _queues() -> Iterator[Row]:
    """Gate (i): mean wait, formula against a job-by-job queue of 20 seeds."""
    for workers, busy in ((1, 0.7), (4, 0.8), (16, 0.9), (64, 0.9)):
        exact = wait_mean_s(workers, 1.0, workers * busy, 1.0, 1.0)
        means = list[float]()
        for seed in range(20):
            random = np.random.default_rng(seed)
            arrivals = np.cumsum(random.exponential(1 / (workers * busy), 1_000_000))
            services = random.exponential(1.0, len(arrivals))
            left = departures(arrivals, services, workers)
            means.append(float((left - arrivals - services)[100_000:].mean()))
        off = 100 * abs(float(np.mean(means)) / exact - 1)
        yield Row(f"M/M/{workers} at {busy:g}: error of the mean wait, 20 seeds", off, "%", "gate (i)", 1.5)


def _demand(rate: float) -> Demand:
    return Demand(rate_per_s=rate, prompt_mean=1243, output_mean=217, prompt_scv=0.9, output_scv=0.6)


def _plans() -> Iterator[Row]:
    profile = open_profile(PROFILE)
    for name in ("qwen2-7b", "qwen2-57b-a14b"):
        spec = specs.load(name)
        for granularity in GRANULARITIES:
            taken = list[float]()
            for rate in np.geomspace(1, 300, 200):
                plan(spec, profile, _demand(float(rate)), SLO, granularity=granularity)
                begin = time.perf_counter()
                plan(spec, profile, _demand(float(rate) * 1.001), SLO, granularity=granularity)
                taken.append((time.perf_counter() - begin) * 1e3)
            yield Row(f"plan {name}, {granularity}: P99 of 200", percentile(taken, 99), "ms", "bound", 5.0)
            yield Row(f"plan {name}, {granularity}: median", percentile(taken, 50), "ms", "OpScale's 2.6 ms", 2.6)


def _paths() -> Iterator[Row]:
    """A path of many operators, all options and workers of each: the choice alone."""
    random = np.random.default_rng(1)
    shares = np.linspace(0.1, 1, 10)
    for stages in (12, 30, 60):
        service = random.uniform(0.001, 0.01, stages)[:, np.newaxis] / shares
        path = Stages(
            service=service,
            scv=np.full(service.shape, 0.9),
            longer=2 * service,
            hand_over=np.zeros(service.shape),
            memory=np.full(service.shape, 0.1),
            bandwidth=np.full(service.shape, 0.2),
            gpus=np.ones(len(shares)),
            shares=shares,
            rate_per_s=90.0,
            first_scv=1.0,
            later_scv=1.0,
        )
        budget = 6 * float(service.min(axis=1).sum())
        ways, taken = solve(path, budget, np.zeros(1)), list[float]()
        for _ in range(200):
            begin = time.perf_counter()
            ways = solve(path, budget, np.zeros(1))
            taken.append((time.perf_counter() - begin) * 1e3)
        yield Row(f"choice for {stages} operators: P99 of 200", percentile(taken[20:], 99), "ms", "bound", 5.0)
        cost = float(ways.volume[0] @ WEIGHTS[0])
        yield Row(
            f"choice for {stages} operators: cost over the Lagrangian bound", cost, "GPUs", "bound", ways.bound[0]
        )


def _pools(scale: int) -> tuple[list[PoolPlan], Floats]:
    sizes = np.array([[0.1, 0.05, 0.02], [0.2, 0.1, 0.15], [0.4, 0.3, 0.8], [0.6, 0.1, 0.1]])
    numbers = [6 * scale, 3 * scale, scale * 6 // 10, scale * 4 // 10]
    pools = [
        PoolPlan(stage=str(k), replicas=n, batch=1, tokens=1, tensor_parallel=1, share=float(s[0]), memory_bytes=1.0)
        for k, (n, s) in enumerate(zip(numbers, sizes, strict=True))
    ]
    return pools, np.concatenate([sizes, np.full((4, 1), 1 / 48)], axis=1)


def _placements() -> Iterator[Row]:
    pools, sizes = _pools(1000)
    place(pools, sizes)
    begin = time.perf_counter()
    found = place(pools, sizes)
    cold = (time.perf_counter() - begin) * 1e3
    assert found is not None
    volume = float(max(np.array([pool.replicas for pool in pools]) @ sizes))
    yield Row("10,000 workers placed: cold", cold, "ms", "bound", 100.0)
    yield Row("10,000 workers placed: GPUs", found[1], "GPUs", "their volume", math.ceil(volume))
    previous = {kind(pool): [one for one in found[0] if one.stage == pool.stage] for pool in pools}
    more = [replace(pool, replicas=pool.replicas + 10) for pool in pools]
    place(more, sizes, previous=previous)
    begin = time.perf_counter()
    again = place(more, sizes, previous=previous)
    yield Row("40 more workers placed", (time.perf_counter() - begin) * 1e3, "ms", "bound", 10.0)
    assert again is not None
    yield Row("of 10,000 moved", len(set(found[0]) - set(again[0])) + 1, "workers + 1", "none", 1.0)


def _optima() -> Iterator[Row]:
    """Gate (iii)."""
    profile = open_profile(PROFILE)
    models = [specs.load(name) for name in ("qwen2-7b", "llama-3.1-8b", "qwen2-57b-a14b")]
    gaps = [gap(one) for one in islice(instances(models, [profile], seed=1), INSTANCES)]
    percents = [one.percent for one in gaps]
    yield Row(f"gap to the optimum of {len(gaps)} small plans: median", float(np.median(percents)), "%", "bound", 0.0)
    yield Row("the same: largest", max(percents), "%", "bound", 5.0)
    yield Row("the same: proven", sum(one.proven for one in gaps), "plans", "all", len(gaps), more_is_better=True)
