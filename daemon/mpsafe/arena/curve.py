# SPDX-License-Identifier: Apache-2.0
"""What a router that learns is worth over all prices: its curve of accuracy over cost, and how well it predicts.

The curve: the model with the highest of what is predicted minus a price times its mean cost, for prices from nothing
to so much that only the cheapest is picked (RouterBench, arXiv 2403.12031, section 3).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from mpsafe.arena.frontier import Recovery, aiq, calibration, recovery
from mpsafe.arena.matrix import Floats, Matrix
from mpsafe.arena.routers import predictions
from mpsafe.arena.routers.fixed import cheapest, strongest

__all__ = ["Curve", "Point", "curve"]

PRICES: Final = 41


@dataclass(frozen=True, slots=True)
class Point:
    """Dollars per 1,000 queries, and a share of accuracy."""

    cost_per_1k: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Curve:
    """`aiq`: the mean accuracy between the costs of the cheapest and of the dearest model, `aiq_singles`: that of the
    models alone, mixed by chance; both None where costs are not known or all equal. `recovery`: between `weak` and
    `strong`, None where the strong one is not better. `brier`, `calibration_error`: of how likely each model was
    predicted to be right.
    """

    points: list[Point]
    singles: list[Point]
    aiq: float | None
    aiq_singles: float | None
    weak: str
    strong: str
    recovery: Recovery | None
    brier: float
    calibration_error: float


def curve(name: str, matrix: Matrix, *, weak: str | None = None, strong: str | None = None, seed: int = 0) -> Curve:
    """The curve of a router that learns, of which no query was seen before it is judged on it.

    `weak`: else the cheapest model, or the one with the lowest mean where costs are not known; `strong`: else the one
    with the highest. BadRequest where the router predicts nothing.
    """
    likely = predictions(name, matrix, seed=seed)
    priced = not np.isnan(matrix.cost).any()
    low = matrix.model(weak) if weak else cheapest(matrix) if priced else int(matrix.score.mean(axis=0).argmin())
    high = matrix.model(strong) if strong else strongest(matrix)
    better = matrix.score[:, high].mean() > matrix.score[:, low].mean()
    wish = likely[:, high] - likely[:, low]
    brier, error = calibration(likely.ravel(), matrix.score.ravel())
    points = _points(likely, matrix) if priced else []
    singles = (
        [
            Point(float(matrix.cost[:, m].mean()) * 1000, float(matrix.score[:, m].mean()))
            for m in range(len(matrix.models))
        ]
        if priced
        else []
    )
    return Curve(
        points=points,
        singles=singles,
        aiq=_aiq(points, singles),
        aiq_singles=_aiq(singles, singles),
        weak=matrix.models[low],
        strong=matrix.models[high],
        recovery=recovery(matrix.score[:, low], matrix.score[:, high], wish) if better else None,
        brier=brier,
        calibration_error=error,
    )


def _points(likely: Floats, matrix: Matrix) -> list[Point]:
    """One for each price, by cost; the last price makes the dearest model cost as much as being right is worth."""
    dear = matrix.cost.mean(axis=0)
    unit = dear / max(float(dear.max() - dear.min()), 1e-300)
    rows = np.arange(len(matrix))
    found: set[tuple[float, float]] = set()
    for price in (0.0, *np.geomspace(1e-3, 1.01, PRICES - 1)):
        picks = (likely - price * unit).argmax(axis=1)
        found.add((float(matrix.cost[rows, picks].mean()) * 1000, float(matrix.score[rows, picks].mean())))
    return [Point(*one) for one in sorted(found)]


def _aiq(points: list[Point], singles: list[Point]) -> float | None:
    costs = [one.cost_per_1k for one in singles]
    if not costs or min(costs) == max(costs):
        return None
    return aiq([one.cost_per_1k for one in points], [one.accuracy for one in points], low=min(costs), high=max(costs))
