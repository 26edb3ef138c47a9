# SPDX-License-Identifier: Apache-2.0
"""How sure a figure is: paired bootstraps over queries, McNemar's test, groups of routers that cannot be told apart.

The published board prints no interval; on 809 queries the 95 % half-width of the arena score is about 3 points.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from mpsafe.arena.matrix import Floats
from mpsafe.arena.scoring import BETA, COST_MAX, COST_MIN

__all__ = ["DRAWS", "Interval", "bootstrap", "interval", "mcnemar", "rank_intervals", "scores", "tie_groups"]

DRAWS: Final = 1000


@dataclass(frozen=True, slots=True)
class Interval:
    """Where 95 % of the bootstrapped values lie."""

    low: float
    high: float


def scores(accuracy: Floats, cost_per_1k: Floats, beta: float = BETA) -> Floats:
    """`arena_score` of arrays of any one shape."""
    cost = np.clip(cost_per_1k, COST_MIN, COST_MAX)
    cheapness = (math.log2(COST_MAX) - np.log2(cost)) / (math.log2(COST_MAX) - math.log2(COST_MIN))
    below = beta * accuracy + cheapness
    return (1 + beta) * accuracy * cheapness / np.where(below > 0, below, 1.0)


def bootstrap(accuracy: Floats, cost: Floats, *, beta: float = BETA, draws: int = DRAWS, seed: int = 0) -> Floats:
    """Arena scores [draws, R] of R routers on Q queries drawn anew, the same for all. `accuracy`, `cost` [Q, R]."""
    count = len(accuracy)
    dice = np.random.default_rng(seed)
    drawn = np.empty((draws, count))
    for row in drawn:
        row[:] = np.bincount(dice.integers(count, size=count), minlength=count) / count
    return scores(drawn @ accuracy, drawn @ cost * 1000, beta)


def interval(drawn: Floats) -> Interval:
    """Of drawn values [draws]."""
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(float(low), float(high))


def tie_groups(found: Sequence[float], drawn: Floats) -> list[int]:
    """For each router the number of its group, from 1. `found` [R]; `drawn` [draws, R], paired.

    The best router opens a group; those that it does not surely beat belong to it; the next one opens the next.
    """
    groups = [0] * len(found)
    leader = -1
    for router in sorted(range(len(found)), key=lambda one: -found[one]):
        if leader < 0 or interval(drawn[:, leader] - drawn[:, router]).low > 0:
            groups[router] = groups[leader] + 1 if leader >= 0 else 1
            leader = router
        else:
            groups[router] = groups[leader]
    return groups


def rank_intervals(drawn: Floats) -> list[tuple[int, int]]:
    """For each router the ranks, from 1, that it has in 95 % of the draws."""
    ranks = (-drawn).argsort(axis=1, kind="stable").argsort(axis=1, kind="stable") + 1
    bounds = np.percentile(ranks, [2.5, 97.5], axis=0, method="nearest")
    return [(int(low), int(high)) for low, high in bounds.T]


def mcnemar(one: Floats, other: Floats) -> tuple[int, int, float]:
    """On the same queries [Q]: right only by the one, only by the other, and the exact two-sided p of that."""
    left, right = one >= 1, other >= 1
    only, their = int((left & ~right).sum()), int((right & ~left).sum())
    both = only + their
    if both == 0:
        return 0, 0, 1.0
    logs = [math.lgamma(both + 1) - math.lgamma(k + 1) - math.lgamma(both - k + 1) for k in range(min(only, their) + 1)]
    tail = sum(math.exp(log - both * math.log(2)) for log in logs)
    return only, their, min(1.0, 2 * tail)
