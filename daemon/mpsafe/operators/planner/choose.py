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
from mpsafe.operators.packing import Ints, ascending
from mpsafe.operators.queueing import path_p99_s

__all__ = ["choose", "sums"]

_LEAST = 1e-9
_EXCHANGES = 64
_NEXT, _MANY = 8, 16
_TANGENTS, _PRICES = 2, 26


@njit(cache=True)
def sums(chosen: Ints, mean: Floats, longer: Floats, waits: Floats) -> tuple[float, float, float]:
    total, more, squares = 0.0, 0.0, 0.0
    for i in range(len(chosen)):
        total += mean[i, chosen[i]]
        more += longer[i, chosen[i]]
        squares += waits[i, chosen[i]] ** 2
    return total, more, squares


@njit(cache=True)
def choose(cost: Floats, mean: Floats, longer: Floats, waits: Floats, budget_s: float) -> tuple[Ints, bool, float]:
    """The points by stage, whether the 99th percentile is within the budget (else it is the least that can be), and a
    cost that no choice within the budget goes below."""
    stages, points = cost.shape
    chosen, cheapest = np.zeros(stages, np.int64), np.zeros(stages, np.int64)
    for i in range(stages):
        for j in range(points):
            f, c = chosen[i], cheapest[i]
            if cost[i, j] < cost[i, c]:
                cheapest[i] = j
            late, least = mean[i, j] + longer[i, j] + waits[i, j], mean[i, f] + longer[i, f] + waits[i, f]
            if cost[i, j] < np.inf and (late < least or cost[i, f] == np.inf):
                chosen[i] = j
        if cost[i, chosen[i]] == np.inf:
            return chosen, False, 0.0
    if _late(chosen, mean, longer, waits) > budget_s:
        return chosen, False, 0.0
    if _late(cheapest, mean, longer, waits) <= budget_s:
        return cheapest, True, _cost(cheapest, cost)
    bound = 0.0
    for _ in range(_TANGENTS):
        delay = _tangent(chosen, mean, longer, waits)
        bound = max(bound, _price(chosen, cost, delay, mean, longer, waits, budget_s))
        kept, count = _staircase(chosen, cost, delay)
        _repair(chosen, kept, count, cost, mean, longer, waits, budget_s)
    return chosen, True, bound


@njit(cache=True)
def _tangent(chosen: Ints, mean: Floats, longer: Floats, waits: Floats) -> Floats:
    """By stage and point, seconds whose sum is no more than the 99th percentile, and equal to it for `chosen`."""
    _, more, squares = sums(chosen, mean, longer, waits)
    root = math.sqrt(more * more + squares)
    delay = np.zeros(mean.shape)
    along = more / root if root > 0.0 else 1.0
    for i in range(len(mean)):
        weight = waits[i, chosen[i]] / root if root > 0.0 else 0.0
        for j in range(mean.shape[1]):
            delay[i, j] = mean[i, j] + along * longer[i, j] + weight * waits[i, j]
    return delay


@njit(cache=True)
def _price(
    chosen: Ints, cost: Floats, delay: Floats, mean: Floats, longer: Floats, waits: Floats, budget_s: float
) -> float:
    """Makes `chosen` the cheapest of itself and the choices at all prices that keep the budget; the bound."""
    stages, points = cost.shape
    best_cost, bound = _cost(chosen, cost), 0.0
    trial = np.zeros(stages, np.int64)
    low, high = math.log(1e-5), math.log(1e7)
    for _ in range(_PRICES):
        price = math.exp(0.5 * (low + high))
        spent = 0.0
        for i in range(stages):
            least = np.inf
            for j in range(points):
                value = cost[i, j] + price * delay[i, j]
                if value < least:
                    least = value
                    trial[i] = j
            spent += least
        bound = max(bound, spent - price * budget_s)
        if _late(trial, mean, longer, waits) <= budget_s:
            high = 0.5 * (low + high)
            if _cost(trial, cost) < best_cost:
                best_cost = _cost(trial, cost)
                for i in range(stages):
                    chosen[i] = trial[i]
        else:
            low = 0.5 * (low + high)
    return bound


@njit(cache=True)
def _staircase(chosen: Ints, cost: Floats, delay: Floats) -> tuple[Ints, Ints]:
    """By stage, the points that no cheaper one undercuts in delay, ascending in cost, and how many; and `chosen`."""
    stages, points = cost.shape
    kept, count = np.zeros((stages, points), np.int64), np.zeros(stages, np.int64)
    order = np.zeros(points, np.int64)
    for i in range(stages):
        least = np.inf
        ascending(cost[i], order)
        for at in range(points):
            j = order[at]
            if cost[i, j] == np.inf:
                break
            if delay[i, j] < least or j == chosen[i]:
                kept[i, count[i]] = j
                count[i] += 1
                least = min(least, delay[i, j])
    return kept, count


@njit(cache=True)
def _late(chosen: Ints, mean: Floats, longer: Floats, waits: Floats) -> float:
    total, more, squares = sums(chosen, mean, longer, waits)
    return path_p99_s(total, more, squares)


@njit(cache=True)
def _cost(chosen: Ints, cost: Floats) -> float:
    total = 0.0
    for i in range(len(chosen)):
        total += cost[i, chosen[i]]
    return total


@njit(cache=True)
def _repair(
    chosen: Ints, kept: Ints, count: Ints, cost: Floats, mean: Floats, longer: Floats, waits: Floats, budget_s: float
) -> None:
    """The best exchange of one stage, or of two, that stays within the budget and costs less, until there is none. For
    a pair only the next few points of each stage are looked at, cheaper ones of the first and dearer ones of the
    second."""
    stages = len(chosen)
    after = _NEXT if stages <= _MANY else 1  # the more stages there are, the less a pair of them is worth
    place = np.zeros(stages, np.int64)
    for i in range(stages):
        while kept[i, place[i]] != chosen[i]:
            place[i] += 1
    total, more, squares = sums(chosen, mean, longer, waits)
    for _ in range(_EXCHANGES):
        best, first, a, second, b = -_LEAST, -1, 0, -1, 0
        for i in range(stages):
            c = chosen[i]
            for p in range(place[i]):
                j = kept[i, p]
                change = cost[i, j] - cost[i, c]
                total_i = total - mean[i, c] + mean[i, j]
                more_i = more - longer[i, c] + longer[i, j]
                squares_i = squares - waits[i, c] ** 2 + waits[i, j] ** 2
                if total_i + math.sqrt(more_i * more_i + max(0.0, squares_i)) <= budget_s:
                    if change < best:
                        best, first, a, second, b = change, i, p, -1, 0
                    continue
                if p < place[i] - after:
                    continue
                for k in range(stages):  # what `i` saves is too slow alone: another stage makes up for it
                    d = chosen[k]
                    for q in range(place[k] + 1, min(count[k], place[k] + 1 + after)):
                        o = kept[k, q]
                        both = change + cost[k, o] - cost[k, d]
                        if both >= best or k == i:
                            break  # kept points ascend in cost
                        total_k = total_i - mean[k, d] + mean[k, o]
                        more_k = more_i - longer[k, d] + longer[k, o]
                        squares_k = squares_i - waits[k, d] ** 2 + waits[k, o] ** 2
                        if total_k + math.sqrt(more_k * more_k + max(0.0, squares_k)) <= budget_s:
                            best, first, a, second, b = both, i, p, k, q
        if first < 0:
            return
        place[first], chosen[first] = a, kept[first, a]
        if second >= 0:
            place[second], chosen[second] = b, kept[second, b]
        total, more, squares = sums(chosen, mean, longer, waits)
