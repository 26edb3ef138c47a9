# SPDX-License-Identifier: Apache-2.0
"""One point for each stage of a path: cheap, and within the latency that was promised.

Greedy from the cheapest points, each step the most latency for the cost; then back where the promise leaves room; then
pairs of stages are exchanged. A Lagrangian bound says how far from the best that can be: the root of squares is at
least its tangent, which is a sum over stages, so no choice of these points costs less than the bound.
"""

import math

import numpy as np
from numba import njit

from mpsafe.operators.model import Floats
from mpsafe.operators.packing import Ints

__all__ = ["choose", "cost_bound", "sums"]

_LEAST = 1e-9


@njit(cache=True)
def sums(chosen: Ints, mean: Floats, longer: Floats, waits: Floats) -> tuple[float, float, float]:
    total, more, squares = 0.0, 0.0, 0.0
    for i in range(len(chosen)):
        total += mean[i, chosen[i]]
        more += longer[i, chosen[i]]
        squares += waits[i, chosen[i]] ** 2
    return total, more, squares


@njit(cache=True)
def _kept(cost: Floats, mean: Floats, longer: Floats, waits: Floats) -> tuple[Ints, Ints]:
    """Points that no other of their stage beats in cost and in all of latency: their places, and how many."""
    stages, points = cost.shape
    kept, count = np.zeros((stages, points), np.int64), np.zeros(stages, np.int64)
    for i in range(stages):
        order = np.argsort(cost[i])
        for place in range(points):
            j = order[place]
            if not (np.isfinite(cost[i, j]) and np.isfinite(mean[i, j])):
                continue
            beaten = False
            for other in range(count[i]):
                o = kept[i, other]
                if mean[i, o] <= mean[i, j] and longer[i, o] <= longer[i, j] and waits[i, o] <= waits[i, j]:
                    beaten = True
                    break
            if not beaten:
                kept[i, count[i]] = j
                count[i] += 1
    return kept, count


@njit(cache=True)
def choose(cost: Floats, mean: Floats, longer: Floats, waits: Floats, budget_s: float) -> tuple[Ints, bool]:
    """The points by stage, and whether the 99th percentile is within the budget; else those with the least latency."""
    stages = len(cost)
    chosen = np.zeros(stages, np.int64)
    kept, count = _kept(cost, mean, longer, waits)
    for i in range(stages):
        if count[i] == 0:
            return chosen, False
        chosen[i] = kept[i, 0]
    total, more, squares = sums(chosen, mean, longer, waits)
    while True:
        over = total + math.sqrt(more * more + squares) - budget_s
        if over <= _LEAST:
            break
        best, stage, point = 0.0, -1, -1
        for i in range(stages):
            c = chosen[i]
            for place in range(count[i]):
                j = kept[i, place]
                further = more - longer[i, c] + longer[i, j]
                root = max(0.0, squares - waits[i, c] ** 2 + waits[i, j] ** 2)
                gain = over + budget_s - (total - mean[i, c] + mean[i, j] + math.sqrt(further * further + root))
                if gain <= _LEAST:
                    continue
                worth = min(gain, over) / max(cost[i, j] - cost[i, c], _LEAST)
                if worth > best:
                    best, stage, point = worth, i, j
        if stage < 0:
            return chosen, False
        chosen[stage] = point
        total, more, squares = sums(chosen, mean, longer, waits)
    _repair(chosen, kept, count, cost, mean, longer, waits, budget_s)
    return chosen, True


@njit(cache=True)
def _repair(
    chosen: Ints, kept: Ints, count: Ints, cost: Floats, mean: Floats, longer: Floats, waits: Floats, budget_s: float
) -> None:
    """The best exchange of one or two stages that stays within the budget and costs less, until there is none."""
    stages = len(chosen)
    for _ in range(64):
        total, more, squares = sums(chosen, mean, longer, waits)
        best, first, a, second, b = -_LEAST, -1, 0, -1, 0
        for i in range(stages):
            for place in range(count[i]):
                j = kept[i, place]
                change = cost[i, j] - cost[i, chosen[i]]
                total_i = total - mean[i, chosen[i]] + mean[i, j]
                more_i = more - longer[i, chosen[i]] + longer[i, j]
                squares_i = squares - waits[i, chosen[i]] ** 2 + waits[i, j] ** 2
                within = total_i + math.sqrt(more_i * more_i + max(0.0, squares_i)) <= budget_s
                if change < best and within:
                    best, first, a, second, b = change, i, j, -1, 0
                if within or change >= 0.0:
                    continue
                for k in range(stages):  # what `i` saves is too slow alone: another stage makes up for it
                    if k == i:
                        continue
                    for other in range(count[k]):
                        o = kept[k, other]
                        both = change + cost[k, o] - cost[k, chosen[k]]
                        if both >= best:
                            break  # kept points ascend in cost
                        total_k = total_i - mean[k, chosen[k]] + mean[k, o]
                        more_k = more_i - longer[k, chosen[k]] + longer[k, o]
                        squares_k = squares_i - waits[k, chosen[k]] ** 2 + waits[k, o] ** 2
                        if total_k + math.sqrt(more_k * more_k + max(0.0, squares_k)) <= budget_s:
                            best, first, a, second, b = both, i, j, k, o
        if first < 0:
            return
        chosen[first] = a
        if second >= 0:
            chosen[second] = b


@njit(cache=True)
def cost_bound(cost: Floats, mean: Floats, longer: Floats, waits: Floats, budget_s: float, chosen: Ints) -> float:
    """No choice that keeps the budget costs less; the tangent is taken at `chosen`."""
    stages, points = cost.shape
    _, more, squares = sums(chosen, mean, longer, waits)
    root = math.sqrt(more * more + squares)
    along = more / root if root > 0 else 1.0
    across = math.sqrt(squares)
    delay = np.empty((stages, points))
    for i in range(stages):
        part = waits[i, chosen[i]] / across if across > 0 else 0.0
        weight = across / root * part if root > 0 else 0.0
        for j in range(points):
            delay[i, j] = mean[i, j] + along * longer[i, j] + weight * waits[i, j]
    best, low, high = 0.0, 0.0, 1e6
    for _ in range(40):
        price = 0.5 * (low + high) if high < 1e6 else max(1e-3, 4.0 * low) if low > 0 else 1.0
        spent, late = 0.0, 0.0
        for i in range(stages):
            least, its = np.inf, 0.0
            for j in range(points):
                value = cost[i, j] + price * delay[i, j]
                if value < least:
                    least, its = value, delay[i, j]
            spent += least
            late += its
        best = max(best, spent - price * budget_s)
        if late > budget_s:
            low = price
            if high >= 1e6 and low > 1e7:
                break
        else:
            high = price
    return best
