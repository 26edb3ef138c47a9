# SPDX-License-Identifier: Apache-2.0
"""The routers to compare with: fixed ones, learned ones, and bounds that know the outcomes."""

import importlib
from collections.abc import Callable, Iterator
from typing import Final, cast

import numpy as np

from mpsafe.arena.matrix import Floats, Matrix, Picks
from mpsafe.arena.routers.base import Predicts, Query, Router
from mpsafe.arena.routers.fixed import Always, Random, RoundRobin, best_single, cheapest, strongest
from mpsafe.arena.routers.oracles import domain_oracle, oracle
from mpsafe.errors import BadRequest, NotComparable

__all__ = ["BOUNDS", "FIXED", "LEARNED", "NAMES", "Query", "Router", "held_out", "make", "predictions"]

LEARNED: Final = ("knn", "logistic", "mf", "irt", "cascade")
FIXED: Final = ("random", "round-robin", "cheapest", "strongest", "best-single")
BOUNDS: Final[dict[str, Callable[[Matrix], Picks]]] = {"oracle": oracle, "domain-oracle": domain_oracle}
NAMES: Final = (*FIXED, *LEARNED, *BOUNDS)
FOLDS: Final = 5


def make(name: str, known: Matrix, *, seed: int = 0, not_comparable: bool = False) -> Router:
    """A router that decides from a prompt alone, after what `known` says of its models.

    `name`: one of FIXED and LEARNED, `always:MODEL`, or `module:attribute` of a plugin, which is called with the
    names of the models. NotComparable where it would learn from RouterArena's queries.
    """
    if name.startswith("always:"):
        return Always(known.models[known.model(name.removeprefix("always:"))])
    if name == "random":
        return Random(known.models, seed)
    if name == "round-robin":
        return RoundRobin(known.models)
    singles = {"cheapest": cheapest, "strongest": strongest, "best-single": best_single}
    if name not in (*singles, *LEARNED):
        return _plugin(name, known)
    if known.ours and not not_comparable:
        raise NotComparable(len(known))
    if name in singles:
        return Always(known.models[singles[name](known)])
    learned = importlib.import_module("mpsafe.arena.routers.learned")
    return cast("Router", learned.learn(name, known, seed=seed))


def held_out(name: str, matrix: Matrix, *, seed: int = 0) -> Picks:
    """Picks [Q] of any router over a matrix, where what learns has never seen the query: five folds, by the seed.

    On RouterArena's queries such a result is not comparable with a board, since the other folds are of the same data.
    """
    if name in BOUNDS:
        return BOUNDS[name](matrix)
    if name not in (*LEARNED, "cheapest", "strongest", "best-single"):
        router = make(name, matrix, seed=seed)
        return _picks(router, matrix)
    picks = np.zeros(len(matrix), np.intp)
    for router, judged in _folds(name, matrix, seed):
        picks[judged] = _picks(router, matrix.rows(judged))
    return picks


def predictions(name: str, matrix: Matrix, *, seed: int = 0) -> Floats:
    """How likely each model is right [Q, M], by one of LEARNED that has never seen the query, as in `held_out`."""
    if name not in LEARNED:
        raise BadRequest("router", f"one that predicts: {', '.join(LEARNED)}", repr(name))
    likely = np.zeros(matrix.score.shape)
    for router, judged in _folds(name, matrix, seed):
        likely[judged] = [cast("Predicts", router).predict(query) for query in _queries(matrix.rows(judged))]
    return likely


def _folds(name: str, matrix: Matrix, seed: int) -> Iterator[tuple[Router, Picks]]:
    """A router that has seen all but a fifth of the queries, and the rows of that fifth, five times."""
    if len(matrix) < FOLDS:
        raise BadRequest("router", f"at least {FOLDS} queries to learn from", str(len(matrix)))
    fold = np.random.default_rng(seed).permutation(len(matrix)) % FOLDS
    for one in range(FOLDS):
        known = matrix.rows(np.flatnonzero(fold != one))
        yield make(name, known, seed=seed, not_comparable=True), np.flatnonzero(fold == one)


def _picks(router: Router, matrix: Matrix) -> Picks:
    return np.asarray([matrix.model(router.route(query)) for query in _queries(matrix)], np.intp)


def _queries(matrix: Matrix) -> list[Query]:
    return [Query(*one) for one in zip(matrix.queries, matrix.prompts, matrix.domains, strict=True)]


def _plugin(name: str, known: Matrix) -> Router:
    module, _, attribute = name.partition(":")
    if not attribute:
        raise BadRequest("router", f"always:MODEL, module:attribute, or one of {', '.join(NAMES)}", repr(name))
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise BadRequest("router", "a module and an attribute that can be imported", f"{name!r}: {error}") from None
    return cast("Router", found(known.models))
