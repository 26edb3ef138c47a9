# SPDX-License-Identifier: Apache-2.0
"""Two routers on the same queries: what is between them, and whether that is more than chance."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from mpsafe.arena.counted import Counted
from mpsafe.arena.matrix import Floats
from mpsafe.arena.scoring import BETA
from mpsafe.arena.statistics import DRAWS, bootstrap, interval, mcnemar, scores
from mpsafe.errors import BadArenaFile

__all__ = ["Paired", "Pairing", "pair"]

# Normal quantiles of a two-sided test at 5 % that finds what is there in 80 % of all cases.
DETECTABLE: Final = 1.96 + 0.8416


@dataclass(frozen=True, slots=True)
class Paired:
    """One figure of both, `difference` = one - other, and where 95 % of the paired draws of that lie."""

    one: float
    other: float
    difference: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Pairing:
    """Of `queries` that both files have; per cent and dollars. `only_one`, `only_other`: wholly right by it alone; `p`:
    McNemar's exact test of those. `detectable`: the difference in accuracy, in points, that so many queries show in
    80 % of all cases. `differ`: the interval of the arena score's difference does not have 0 in it.
    """

    queries: int
    arena_score: Paired
    accuracy: Paired
    cost_per_1k: Paired
    only_one: int
    only_other: int
    p: float
    detectable: float
    differ: bool


def pair(one: Counted, other: Counted, *, name: str, beta: float = BETA, draws: int = DRAWS, seed: int = 0) -> Pairing:
    """Both on the queries that both have. BadArenaFile, by the `name` of the second file, where there is none."""
    place = {query: row for row, query in enumerate(other.queries)}
    rows = [(row, place[query]) for row, query in enumerate(one.queries) if query in place]
    if not rows:
        raise BadArenaFile(name, "", "it has no query in common with the first file")
    left, right = (np.asarray(side, np.intp) for side in zip(*rows, strict=True))
    accuracy = np.stack([one.accuracy[left], other.accuracy[right]], axis=1)
    cost = np.stack([one.cost[left], other.cost[right]], axis=1)
    found = scores(accuracy.mean(axis=0), cost.mean(axis=0) * 1000, beta)
    only_one, only_other, p = mcnemar(accuracy[:, 0], accuracy[:, 1])
    drawn = bootstrap(accuracy, cost, beta=beta, draws=draws, seed=seed)
    score = _paired(100 * found, 100 * drawn)
    spread = float((accuracy[:, 0] - accuracy[:, 1]).std())
    return Pairing(
        queries=len(rows),
        arena_score=score,
        accuracy=_paired(100 * accuracy.mean(axis=0), 100 * _means(accuracy, draws, seed)),
        cost_per_1k=_paired(1000 * cost.mean(axis=0), 1000 * _means(cost, draws, seed)),
        only_one=only_one,
        only_other=only_other,
        p=p,
        detectable=100 * DETECTABLE * spread / math.sqrt(len(rows)),
        differ=not score.low <= 0 <= score.high,
    )


def _means(values: Floats, draws: int, seed: int) -> Floats:
    """Means [draws, 2] over queries drawn anew."""
    dice = np.random.default_rng(seed)
    return np.stack([values[dice.integers(len(values), size=len(values))].mean(axis=0) for _ in range(draws)])


def _paired(found: Floats, drawn: Floats) -> Paired:
    between = interval(drawn[:, 0] - drawn[:, 1])
    one, other = float(found[0]), float(found[1])
    return Paired(one, other, one - other, between.low, between.high)
