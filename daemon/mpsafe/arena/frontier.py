# SPDX-License-Identifier: Apache-2.0
"""What a router is worth beyond one score: fronts of accuracy over cost, what is lost to the oracle, calibration.

AIQ: RouterBench (arXiv 2403.12031, section 3); APGR and CPT: RouteLLM (arXiv 2406.18665, section 3.1).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from mpsafe.arena.matrix import Floats, Matrix, Picks
from mpsafe.arena.routers.oracles import oracle
from mpsafe.errors import BadRequest

__all__ = ["Losses", "Recovery", "aiq", "calibration", "losses", "outcome_robustness", "pareto", "recovery"]

BINS: Final = 10


@dataclass(frozen=True, slots=True)
class Losses:
    """Shares of accuracy. `gap`: to the oracle; `regret`: dollars per 1,000 queries beyond the oracle's, or None;
    `over_best`, `over_random`: gained over the best single model, and over a uniform choice; `worst_domain`: its name
    and its accuracy; `collapse`: the share of the most picked model.
    """

    gap: float
    regret: float | None
    over_best: float
    over_random: float
    worst_domain: tuple[str, float]
    collapse: float


@dataclass(frozen=True, slots=True)
class Recovery:
    """Of a weak and a strong model: `apgr`, the mean share of the gap that is recovered as more goes to the strong one;
    `cpt50`, `cpt80`: the share of calls to the strong one that recovers 50 and 80 per cent, None where it never does.
    """

    apgr: float
    cpt50: float | None
    cpt80: float | None


def pareto(cost: Sequence[float], accuracy: Sequence[float]) -> list[int]:
    """Those that no other beats in both, by cost. Of equal points the first stays."""
    front: list[int] = []
    for one in sorted(range(len(cost)), key=lambda one: (cost[one], -accuracy[one], one)):
        if not front or accuracy[one] > accuracy[front[-1]]:
            front.append(one)
    return front


def aiq(cost: Sequence[float], accuracy: Sequence[float], *, low: float, high: float) -> float:
    """The mean accuracy between two costs of the non-decreasing concave hull of some points (cost, accuracy).

    Below the cheapest point nothing can be bought, which counts 0. BadRequest unless low < high.
    """
    if not low < high:
        raise BadRequest("cost", "a range with low below high", f"{low} to {high}")
    hull: list[tuple[float, float]] = []
    for one in pareto(cost, accuracy):
        point = (cost[one], accuracy[one])
        while len(hull) > 1 and _turns_up(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    costs, values = np.asarray([x for x, _ in hull]), np.asarray([y for _, y in hull])
    inner = [x for x in costs if low < x < high]
    at = np.asarray([max(low, float(costs[0])), *inner, high])
    at = np.unique(at[(at >= costs[0]) & (at <= high)])
    if len(at) < 2:
        return 0.0
    return float(np.trapezoid(np.interp(at, costs, values), at)) / (high - low)


def _turns_up(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    return (b[1] - a[1]) * (c[0] - b[0]) <= (c[1] - b[1]) * (b[0] - a[0])


def recovery(weak: Floats, strong: Floats, wish: Floats) -> Recovery:
    """Scores [Q] of both models, and how much a query should go to the strong one [Q]; of equals the first goes.

    BadRequest where the strong one is not better.
    """
    gap = float(strong.mean() - weak.mean())
    if gap <= 0:
        raise BadRequest("strong", "a model with a higher mean score than the weak one", f"{gap:+.4f}")
    order = np.argsort(-wish, kind="stable")
    gained = np.concatenate([[0.0], np.cumsum((strong - weak)[order])]) / len(weak) / gap
    share = np.arange(len(weak) + 1) / len(weak)

    def first(wanted: float) -> float | None:
        reached = np.flatnonzero(gained >= wanted - 1e-12)
        return float(share[reached[0]]) if len(reached) else None

    return Recovery(float(np.trapezoid(gained, share)), first(0.5), first(0.8))


def losses(matrix: Matrix, picks: Picks) -> Losses:
    """What picks [Q] lose and gain over a matrix."""
    rows = np.arange(len(matrix))
    best = oracle(matrix)
    own = matrix.score[rows, picks]
    mean = float(own.mean())
    priced = not np.isnan(matrix.cost).any()
    domains = np.asarray(matrix.domains)
    by_domain = {domain: float(own[domains == domain].mean()) for domain in dict.fromkeys(matrix.domains)}
    worst = min(by_domain.items(), key=lambda one: one[1])
    return Losses(
        gap=float(matrix.score[rows, best].mean()) - mean,
        regret=float((matrix.cost[rows, picks] - matrix.cost[rows, best]).mean() * 1000) if priced else None,
        over_best=mean - float(matrix.score.mean(axis=0).max()),
        over_random=mean - float(matrix.score.mean()),
        worst_domain=worst,
        collapse=float(np.bincount(picks, minlength=len(matrix.models)).max()) / len(matrix),
    )


def calibration(likely: Floats, right: Floats) -> tuple[float, float]:
    """Brier score and expected calibration error (10 bins of equal width) of predictions [N] of outcomes [N]."""
    place = np.minimum((likely * BINS).astype(np.intp), BINS - 1)
    error = sum(abs(float((likely - right)[place == one].sum())) for one in range(BINS))
    return float(((likely - right) ** 2).mean()), error / len(likely)


def outcome_robustness(before: Floats, after: Floats) -> float:
    """How seldom a paraphrase changes whether the answer is right; scores [Q] of the same queries."""
    return float(((before >= 1) == (after >= 1)).mean())
