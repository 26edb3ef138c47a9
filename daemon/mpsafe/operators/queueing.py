# SPDX-License-Identifier: Apache-2.0
"""Waiting in front of equal workers, first come first served, by formulas that stay stable for thousands of them.

`load` is the arrival rate times the mean service, in workers; scv is a squared coefficient of variation. Erlang's B by
its recursion, C from B; Allen and Cunneen's factor (ca² + cs²)/2 for what is not exponential, exact for M/M/c and M/G/1
and an approximation else; P(W > t) = C exp(-C t / E[W]); departures as in Whitt's Queueing Network Analyzer.
"""

import math

from numba import njit

from mpsafe.operators.model import Floats

__all__ = [
    "BUSIEST",
    "RARE",
    "batch_fill_s",
    "departure_scv",
    "erlang_c",
    "path_p99_s",
    "wait_mean_s",
    "wait_quantile_s",
]

RARE = 0.01  # what a 99th percentile leaves
BUSIEST = 0.97  # a utilisation above which the formulas say nothing that a plan could rest on


@njit(cache=True)
def erlang_c(workers: int, load: float) -> float:
    """The share of arrivals that wait; 1 where the queue grows for ever."""
    if load >= workers:
        return 1.0
    blocked = 1.0
    for k in range(1, workers + 1):
        blocked = load * blocked / (k + load * blocked)
    return blocked / (1.0 - load / workers * (1.0 - blocked))


@njit(cache=True)
def wait_mean_s(workers: int, service_s: float, load: float, arrival_scv: float, service_scv: float) -> float:
    """Infinite where the queue grows for ever."""
    if load >= workers:
        return math.inf
    exponential = erlang_c(workers, load) * service_s / (workers - load)
    return exponential * 0.5 * (arrival_scv + service_scv)


@njit(cache=True)
def wait_quantile_s(waits: float, mean_s: float, above: float) -> float:
    """The wait that only a share `above` of the arrivals exceeds, where a share `waits` waits at all."""
    if waits <= above or mean_s <= 0.0:
        return 0.0
    return mean_s / waits * math.log(waits / above)


@njit(cache=True)
def departure_scv(workers: int, load: float, arrival_scv: float, service_scv: float) -> float:
    """Of the gaps between departures, which are the next stage's arrivals."""
    busy = min(1.0, load / workers) ** 2
    return 1.0 + (1.0 - busy) * (arrival_scv - 1.0) + busy * (service_scv - 1.0) / math.sqrt(workers)


@njit(cache=True)
def batch_fill_s(batch: float, rate_per_s: float) -> float:
    """How long a request waits in the mean until its batch is complete."""
    return max(0.0, batch - 1.0) / (2.0 * rate_per_s)


@njit(cache=True)
def path_p99_s(mean_s: float, longer_s: float, waits_s2: float) -> float:
    """The 99th percentile of a sum of stages: the mean, and the root of the squares of what exceeds it.

    `longer_s`: by how much a request as long as the 99th percentile is served longer, all stages together, for they see
    the same request; `waits_s2`: the sum of squares of by how much the 99th percentile of each stage's wait exceeds its
    mean, for those are taken as independent.
    """
    return mean_s + math.sqrt(longer_s * longer_s + waits_s2)


@njit(cache=True)
def read(at: float, points: Floats, values: Floats) -> float:
    """As curves.along, of one point."""
    last = len(points) - 1
    if at <= points[0]:
        return float(values[0])
    if at >= points[last]:
        slope = (values[last] - values[last - 1]) / (points[last] - points[last - 1])
        return float(values[last] + (at - points[last]) * max(0.0, slope))
    low, high = 0, last
    while high - low > 1:
        middle = (low + high) // 2
        if points[middle] <= at:
            low = middle
        else:
            high = middle
    part = (at - points[low]) / (points[high] - points[low])
    return float(values[low] + part * (values[high] - values[low]))
