# SPDX-License-Identifier: Apache-2.0
"""Bounds: they know the outcomes that they are judged by. No router can be compared with them but from below."""

import numpy as np

from mpsafe.arena.matrix import Floats, Matrix, Picks

__all__ = ["domain_oracle", "oracle"]


def oracle(matrix: Matrix) -> Picks:
    """For each query the best score, then the cheapest, then the first model. Also where no answer is wholly right."""
    return _best(matrix.score, matrix.cost)


def domain_oracle(matrix: Matrix) -> Picks:
    """For each domain the model with the best mean score in it, then the cheapest."""
    picks = np.zeros(len(matrix), np.intp)
    domains = np.asarray(matrix.domains)
    for domain in dict.fromkeys(matrix.domains):
        inside = domains == domain
        score, cost = (one[inside].mean(axis=0, keepdims=True) for one in (matrix.score, matrix.cost))
        picks[inside] = _best(score, cost)[0]
    return picks


def _best(score: Floats, cost: Floats) -> Picks:
    top = score == score.max(axis=1, keepdims=True)
    picks: Picks = np.where(top, np.nan_to_num(cost, nan=0.0), np.inf).argmin(axis=1)
    return picks
