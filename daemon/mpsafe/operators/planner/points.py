# SPDX-License-Identifier: Apache-2.0
"""What each stage of a path could be: an option and a number of workers, with what it costs and adds to the latency."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numba import njit

from mpsafe.operators.model import Floats
from mpsafe.operators.packing import Ints
from mpsafe.operators.planner.choose import choose, sums
from mpsafe.operators.queueing import BUSIEST, RARE, path_p99_s, wait_quantile_s

__all__ = ["FEW", "STEPS", "WEIGHTS", "Path", "Ways", "points", "solve"]

# A GPU has SMs, memory and a memory bus, and each bounds how many GPUs are needed; for any weights that sum to one, so
# does the weighted sum. Each row gives a choice and a bound.
WEIGHTS: Final[Floats] = np.array(
    [[1, 0, 0], [0.5, 0, 0.5], [0.5, 0.5, 0], [0.75, 0.25, 0], [0.75, 0, 0.25], [0.5, 0.25, 0.25]], np.float64
)
FEW: Final = 3  # rows that are enough where there are several stages to choose for
# Workers beyond the fewest that are stable: the larger of the place in the list and a part of the fewest.
STEPS: Final[Floats] = np.array([0.0, 0.02, 0.05, 0.08, 0.12, 0.16, 0.2, 0.25, 0.3, 0.4, 0.5, 1.0])


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Path:
    """Stages that are visited one after another. By stage and option: seconds of service, its scv, how much longer a
    long request takes, seconds of the hand-over, and what a worker's shard takes of a GPU's memory and bus (infinite
    memory: there is no such option). By option: GPUs and share of their SMs. `rate_per_s` of visits."""

    service: Floats
    scv: Floats
    longer: Floats
    hand_over: Floats
    memory: Floats
    bandwidth: Floats
    gpus: Floats
    shares: Floats
    rate_per_s: float
    first_scv: float
    later_scv: float


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Ways:
    """By row of WEIGHTS: the option of each stage, its workers, GPUs by axis, mean and 99th percentile of the path in
    seconds, whether that is within the budget, and a bound on the weighted GPUs; by stage: its mean."""

    option: Ints
    workers: Floats
    volume: Floats
    mean: Floats
    late: Floats
    kept: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
    bound: Floats
    stage_mean: Floats


def solve(path: Path, budget_s: float, rent: Floats) -> Ways:
    """`rent`: by row of WEIGHTS, as many as are given, what a second of the path costs, in weighted GPUs."""
    found = _solve(
        path.service,
        path.scv,
        path.longer,
        path.hand_over,
        path.memory,
        path.bandwidth,
        path.gpus,
        path.shares,
        path.rate_per_s,
        path.first_scv,
        path.later_scv,
        STEPS,
        WEIGHTS[: len(rent)],
        rent,
        budget_s,
    )
    option, workers, volume, mean, late, kept, bound, stage_mean = found
    return Ways(
        option=option,
        workers=workers,
        volume=volume,
        mean=mean,
        late=late,
        kept=kept,
        bound=bound,
        stage_mean=stage_mean,
    )


def points(path: Path) -> tuple[Floats, Floats, Floats]:
    """By stage and point (its option is point // len(STEPS)): workers, mean seconds, and what the 99th percentile of
    the wait has more than its mean."""
    return _points(
        path.service,
        path.scv,
        path.hand_over,
        path.memory,
        path.rate_per_s,
        path.first_scv,
        path.later_scv,
        STEPS,
    )


@njit(cache=True)
def _points(
    service: Floats,
    scv: Floats,
    hand_over: Floats,
    memory: Floats,
    rate_per_s: float,
    first_scv: float,
    later_scv: float,
    steps: Floats,
) -> tuple[Floats, Floats, Floats]:
    """By stage and point: workers, mean seconds, and what the 99th percentile of the wait has more than its mean."""
    stages, options = service.shape
    many = len(steps)
    workers = np.zeros((stages, options * many))
    mean, more = np.zeros((stages, options * many)), np.zeros((stages, options * many))
    for i in range(stages):
        arrival_scv = first_scv if i == 0 else later_scv
        for j in range(options):
            if memory[i, j] > 1.0:
                for k in range(many):
                    mean[i, j * many + k] = np.inf
                continue
            seconds = service[i, j]
            load = rate_per_s * seconds
            fewest = int(load / BUSIEST) + 1
            blocked, counted = 1.0, 0
            for k in range(many):
                count = fewest + max(k, math.ceil(fewest * steps[k]))
                while counted < count:
                    counted += 1
                    blocked = load * blocked / (counted + load * blocked)
                waits = blocked / (1.0 - load / count * (1.0 - blocked))
                wait = waits * seconds / (count - load) * 0.5 * (arrival_scv + scv[i, j])
                point = j * many + k
                workers[i, point] = count
                mean[i, point] = wait + seconds + hand_over[i, j]
                more[i, point] = max(0.0, wait_quantile_s(waits, wait, RARE) - wait)
    return workers, mean, more


@njit(cache=True)
def _solve(
    service: Floats,
    scv: Floats,
    longer: Floats,
    hand_over: Floats,
    memory: Floats,
    bandwidth: Floats,
    gpus: Floats,
    shares: Floats,
    rate_per_s: float,
    first_scv: float,
    later_scv: float,
    steps: Floats,
    weights: Floats,
    rent: Floats,
    budget_s: float,
) -> tuple[Ints, Floats, Floats, Floats, Floats, np.ndarray[tuple[int, ...], np.dtype[np.bool_]], Floats, Floats]:
    stages, options = service.shape
    many, rows = len(steps), len(weights)
    workers, mean, more = _points(service, scv, hand_over, memory, rate_per_s, first_scv, later_scv, steps)
    further = np.zeros((stages, options * many))
    for i in range(stages):
        for point in range(options * many):
            further[i, point] = longer[i, point // many]
    option, number = np.zeros((rows, stages), np.int64), np.zeros((rows, stages))
    volume, means, late = np.zeros((rows, 3)), np.zeros(rows), np.zeros(rows)
    kept, bound, stage_mean = np.zeros(rows, np.bool_), np.zeros(rows), np.zeros((rows, stages))
    cost = np.zeros((stages, options * many))
    for row in range(rows):
        for i in range(stages):
            for point in range(options * many):
                j = point // many
                cost[i, point] = np.inf
                if memory[i, j] <= 1.0:
                    unit = (
                        weights[row, 0] * shares[j] + weights[row, 1] * memory[i, j] + weights[row, 2] * bandwidth[i, j]
                    )
                    cost[i, point] = unit * gpus[j] * workers[i, point] + rent[row] * mean[i, point]
        way, kept[row], bound[row] = choose(cost, mean, further, more, budget_s)
        total, beyond, squares = sums(way, mean, further, more)
        means[row], late[row] = total, path_p99_s(total, beyond, squares)
        for i in range(stages):
            j = way[i] // many
            option[row, i], number[row, i] = j, workers[i, way[i]]
            stage_mean[row, i] = mean[i, way[i]]
            width = number[row, i] * gpus[j]
            volume[row, 0] += width * shares[j]
            volume[row, 1] += width * memory[i, j]
            volume[row, 2] += width * bandwidth[i, j]
    return option, number, volume, means, late, kept, bound, stage_mean
