# SPDX-License-Identifier: Apache-2.0
"""This test will hold the queue formulas, and a job-by-job queue, against results that are known exactly."""

import math

import numpy as np
import pytest

from mpsafe.operators.fcfs import departures, present
from mpsafe.operators.model import Floats
from mpsafe.operators.queueing import (
    batch_fill_s,
    departure_scv,
    erlang_c,
    path_p99_s,
    wait_mean_s,
    wait_quantile_s,
)

JOBS = 150_000


def waiting(workers: int, load: float) -> float:
    """Erlang's C as it stands in a textbook: a sum of logarithms, so that it holds for large numbers too."""
    terms = [k * math.log(load) - math.lgamma(k + 1) for k in range(workers)]
    last = workers * math.log(load) - math.lgamma(workers + 1) - math.log(1 - load / workers)
    top = max(*terms, last)
    return math.exp(last - top) / (sum(math.exp(term - top) for term in terms) + math.exp(last - top))


@pytest.mark.parametrize("workers", [1, 2, 7, 64, 1000, 10_000])
@pytest.mark.parametrize("busy", [0.1, 0.7, 0.95, 0.999])
def test_erlang_is_as_in_the_textbook(workers: int, busy: float) -> None:
    assert erlang_c(workers, workers * busy) == pytest.approx(waiting(workers, workers * busy), rel=1e-9, abs=1e-300)


def test_one_worker_is_pollaczek_and_khinchine() -> None:
    """Exact for one worker, whatever the service: (1 + scv) / 2 of the exponential wait, half of it where it is
    constant."""
    for scv in (0.0, 0.25, 1.0, 4.0):
        exact = 0.8 * 0.5 * (1 + scv) * 3.0 / (1 - 0.8)
        assert wait_mean_s(1, 3.0, 0.8, 1.0, scv) == pytest.approx(exact)


def test_beyond_its_capacity_a_queue_grows_for_ever() -> None:
    assert erlang_c(3, 3.0) == 1.0
    assert wait_mean_s(3, 1.0, 3.0, 1.0, 1.0) == math.inf


def test_fill_and_departures() -> None:
    assert batch_fill_s(1.0, 5.0) == 0
    assert batch_fill_s(4.0, 5.0) == pytest.approx(0.3)
    assert departure_scv(1, 0.6, 1.0, 1.0) == pytest.approx(1.0)  # Burke: what leaves M/M/c is Poisson again
    assert departure_scv(1, 0.6, 1.0, 0.0) < 1
    assert path_p99_s(1.0, 3.0, 16.0) == pytest.approx(6.0)


def queue(workers: int, busy: float, services: Floats, seed: int) -> tuple[Floats, Floats, Floats]:
    """Arrivals, departures and waits of Poisson arrivals; `services` have mean one."""
    random = np.random.default_rng(seed)
    arrivals = np.cumsum(random.exponential(1 / (workers * busy), len(services)))
    left = departures(arrivals, services, workers)
    return arrivals, left, left - arrivals - services


def interval(means: list[float]) -> tuple[float, float]:
    """Mean of several runs, and what its 99.9 % interval reaches on either side (Student's t of 7)."""
    return float(np.mean(means)), 5.41 * float(np.std(means, ddof=1)) / math.sqrt(len(means))


@pytest.mark.parametrize(("workers", "busy"), [(1, 0.7), (4, 0.8), (16, 0.9), (64, 0.9)])
def test_many_workers_wait_as_erlang_says(workers: int, busy: float) -> None:
    means, late = list[float](), list[float]()
    for seed in range(8):
        services = np.random.default_rng(1000 + seed).exponential(1.0, JOBS)
        waits = queue(workers, busy, services, seed)[2][JOBS // 10 :]
        means.append(float(waits.mean()))
        late.append(float(np.quantile(waits, 0.99)))
    exact = wait_mean_s(workers, 1.0, workers * busy, 1.0, 1.0)
    mean, either_side = interval(means)
    assert abs(mean - exact) < either_side and either_side < 0.3 * exact
    p99, either_side = interval(late)
    assert abs(p99 - wait_quantile_s(erlang_c(workers, workers * busy), exact, 0.01)) < either_side < 0.4 * p99


@pytest.mark.parametrize("scv", [0.0, 0.25, 4.0])
def test_one_worker_waits_as_pollaczek_says(scv: float) -> None:
    means = list[float]()
    for seed in range(8):
        random = np.random.default_rng(2000 + seed)
        services = random.gamma(1 / scv, scv, JOBS) if scv else np.ones(JOBS)
        means.append(float(queue(1, 0.7, services, seed)[2][JOBS // 10 :].mean()))
    mean, either_side = interval(means)
    assert abs(mean - wait_mean_s(1, 1.0, 0.7, 1.0, scv)) < either_side < 0.3 * mean


def test_a_tandem_is_jackson() -> None:
    """What leaves M/M/4 is a Poisson stream of its own, so M/M/2 behind it waits as if it were alone."""
    means = list[float]()
    for seed in range(8):
        random = np.random.default_rng(3000 + seed)
        _, left, _ = queue(4, 0.8, random.exponential(1.0, JOBS), seed)
        between = np.sort(left)
        services = random.exponential(0.5, JOBS)  # two workers, twice as fast: as busy
        means.append(float((departures(between, services, 2) - between - services)[JOBS // 10 :].mean()))
    mean, either_side = interval(means)
    assert abs(mean - wait_mean_s(2, 0.5, 1.6, 1.0, 1.0)) < either_side < 0.3 * mean


def test_little() -> None:
    services = np.random.default_rng(4).exponential(1.0, 50_000)
    arrivals, left, _ = queue(3, 0.9, services, 4)
    span = left.max() - arrivals[0]
    assert present(arrivals, left) == pytest.approx(len(arrivals) / span * (left - arrivals).mean(), rel=1e-9)


def test_allen_and_cunneen_are_an_approximation() -> None:
    """How far off they are with several workers: the figure that documents name, and no more."""
    random = np.random.default_rng(5)
    services = random.gamma(1 / 4.0, 4.0, 4 * JOBS)
    found = queue(4, 0.8, services, 5)[2][JOBS:].mean()
    assert 0.95 < wait_mean_s(4, 1.0, 3.2, 1.0, 4.0) / found < 1.3
