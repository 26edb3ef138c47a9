# SPDX-License-Identifier: Apache-2.0
"""Routers that do not look at the prompt."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from typing_extensions import override

from mpsafe.arena.matrix import Matrix, figures
from mpsafe.arena.routers.base import Query, Router
from mpsafe.errors import BadRequest

__all__ = ["Always", "Random", "RoundRobin", "best_single", "cheapest", "strongest"]


@dataclass(frozen=True, slots=True)
class Always(Router):
    """One model for everything."""

    model: str

    @override
    def route(self, query: Query) -> str:
        return self.model


@dataclass(frozen=True, slots=True)
class Random(Router):
    """Uniform, by a hash of the seed and the prompt: the same prompt goes to the same model in any order."""

    models: Sequence[str]
    seed: int

    @override
    def route(self, query: Query) -> str:
        digest = hashlib.sha256(f"{self.seed}\0{query.id}\0{query.prompt}".encode()).digest()
        return self.models[int.from_bytes(digest[:8]) % len(self.models)]


class RoundRobin(Router):
    """The models in turn, in the order of the queries."""

    def __init__(self, models: Sequence[str]) -> None:
        self._models = models
        self._next = 0

    @override
    def route(self, query: Query) -> str:
        self._next += 1
        return self._models[(self._next - 1) % len(self._models)]


def cheapest(matrix: Matrix) -> int:
    """The column with the lowest cost. BadRequest where costs are not known."""
    if np.isnan(matrix.cost).any():
        raise BadRequest("router", "a table with costs, for the cheapest", matrix.source)
    return int(matrix.cost.sum(axis=0).argmin())


def strongest(matrix: Matrix) -> int:
    """The column with the highest mean score; of equal ones the first."""
    return int(matrix.score.mean(axis=0).argmax())


def best_single(matrix: Matrix) -> int:
    """The column with the highest arena score; where costs are not known, the strongest."""
    whole = [figures(matrix, np.full(len(matrix), model, np.intp)).arena_score for model in range(len(matrix.models))]
    known = [one for one in whole if one is not None]
    return int(np.argmax(known)) if len(known) == len(whole) else strongest(matrix)
