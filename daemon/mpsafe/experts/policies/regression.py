# SPDX-License-Identifier: Apache-2.0
"""Ridge regression from what is known at one layer to what the next layers will ask for, learned while serving.

What is known: the logarithms of this router's probabilities and of what the next routers make of the same hidden
state, and the token's embedding and context, projected to at most 128 numbers each. Rows are gathered; the equations
are solved anew each time their number has doubled, and every 4,096 rows from then on.
"""

import os
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from typing_extensions import override

from mpsafe.experts.core import Halves, bfloat16, ffi, floats, halves, lib
from mpsafe.experts.policies.base import Routed, Shape, Step
from mpsafe.experts.trace import Floats, Ids

if TYPE_CHECKING:
    from mpsafe.experts._core import CData

__all__ = ["Regressions", "projected"]

WIDTH: Final = 128
RIDGE: Final = 30.0
GATHER: Final = 64
FIRST_SOLVED: Final = 256
SOLVED_EVERY: Final = 4096
LEAST: Final = 1e-3


class Regressions:
    """One from the start of a token, and one from each layer but the last. `ahead` [reach, E]: what is expected of the
    layers behind the place that was reached last; None where nothing was learned yet, or nothing is known.
    """

    def __init__(self, shape: Shape, *, reach: int) -> None:
        self.ahead: Floats | None = None
        self._shape = shape
        self._reach = reach
        self._places = [_Regression(shape, reach=reach) for _ in range(shape.layers)]
        self._token: Floats = np.ones(1, np.float32)
        self._token_at = floats(self._token)
        self._known = 0
        self._asked: list[Ids] = []

    def begin(self, step: Step, *, learn: bool = True) -> None:
        """A token begins; from the one before is learned, if it came to its end."""
        if learn and len(self._asked) == self._known == self._shape.layers:
            for number, place in enumerate(self._places):
                place.learn(self._asked[number : number + self._reach])
        self._known = 0
        self._asked.clear()
        one = np.ones(1, np.float32)
        self._token = np.concatenate([projected(step.embedding), projected(step.context), one])
        self._token_at = floats(self._token)
        self._know(None, None)

    def routed(self, routed: Routed) -> None:
        """A router has spoken."""
        layer = routed.layer
        self._asked.append(routed.flat - layer * self._shape.experts)
        self.ahead = None
        if routed.probabilities is not None and layer + 1 < self._shape.layers:
            self._know(routed.probabilities, None if routed.ahead is None else routed.ahead[: self._reach])

    def finish(self) -> None:
        """Nothing more is learned from: all that was gathered counts."""
        for place in self._places:
            place.finish()

    def _know(self, probabilities: Floats | None, ahead: Floats | None) -> None:
        """A row, and what is expected."""
        if self._known < len(self._places):
            place = self._places[self._known]
            place.know(probabilities, self._token_at, len(self._token), ahead)
            self.ahead = place.predict()
        self._known += 1

    @override
    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_token_at"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._token_at = floats(self._token)


def projected(vector: Floats | None) -> Floats:
    """A vector of any length as at most 128 numbers of length sqrt(128): as it is, or by a fixed random projection."""
    if vector is None:
        return np.zeros(0, np.float32)
    found = vector
    if len(vector) > WIDTH:
        found = vector @ _projection(len(vector))
    length = float(np.sqrt(found @ found))
    scaled: Floats = found * np.float32(np.sqrt(len(found)) / (length + 1e-6))
    return scaled


_PROJECTIONS: dict[int, Floats] = {}


def _projection(width: int) -> Floats:
    if width not in _PROJECTIONS:
        draw = np.random.default_rng(width).standard_normal((width, WIDTH))
        _PROJECTIONS[width] = (draw / np.sqrt(WIDTH)).astype(np.float32)
    return _PROJECTIONS[width]


class _Regression:
    """From one place in the model, a layer or the start, to the next `reach` layers.

    Rows and truths wait for a thread that sums them up, GATHER at a time, and solves; what it has found counts from the
    next time on that so many are there. So nobody waits for it, and what is expected does not depend on its speed.
    """

    def __init__(self, shape: Shape, *, reach: int) -> None:
        self._experts = shape.experts
        self._sums = _Sums()
        self._solution: Halves | None = None
        self._solving: Future[Floats | None] | None = None
        self._row: Floats = np.empty(0, np.float32)
        self._found: Floats = np.empty((reach, shape.experts), np.float32)
        self._rows: Floats = np.empty((GATHER, 0), np.float32)
        self._truths: Floats = np.zeros((GATHER, reach * shape.experts), np.float32)
        self._count = 0
        self._bind()

    def know(self, probabilities: Floats | None, token: "CData", token_count: int, ahead: Floats | None) -> None:
        """What is known of this token here."""
        experts = 0 if probabilities is None else len(probabilities)
        more = 0 if ahead is None else ahead.size
        if len(self._row) != experts + token_count + more:
            self._row = np.empty(experts + token_count + more, np.float32)
            self._bind()
        given = floats(probabilities), experts, token, token_count, floats(ahead), more
        lib.regression_row(*given, LEAST, self._row_at)

    def predict(self) -> Floats | None:
        """How likely each expert of the next layers is, [reach, E], until the next call; None before enough is seen."""
        if self._solution is None or len(self._solution) != len(self._row):
            return None
        found = self._found
        lib.regression_predict(self._row_at, len(self._row), self._solution_at, found.size, LEAST, self._found_at)
        return found

    def learn(self, asked: list[Ids]) -> None:
        """What the next layers did ask for."""
        if self._rows.shape[1] != len(self._row):
            self._rows = np.empty((GATHER, len(self._row)), np.float32)
            self._truths = np.zeros_like(self._truths)
            self._count = 0
        self._rows[self._count] = self._row
        for distance, ids in enumerate(asked):
            self._truths[self._count, ids + distance * self._experts] = 1
        self._count += 1
        if self._count == GATHER:
            self._take()
            self._solving = _worker().submit(self._sums.add, self._rows, self._truths)
            self._rows, self._truths = np.empty_like(self._rows), np.zeros_like(self._truths)
            self._count = 0

    def finish(self) -> None:
        """Solves for all rows so far."""
        self._take()
        if self._count:
            self._sums.add(self._rows[: self._count], self._truths[: self._count])
            self._truths[:] = 0
            self._count = 0
        self._use(self._sums.solve())

    def _take(self) -> None:
        """What the thread has found."""
        if self._solving is not None:
            self._use(self._solving.result())
        self._solving = None

    def _use(self, solution: Floats | None) -> None:
        if solution is not None:
            self._solution = bfloat16(solution)
            self._bind()

    def _bind(self) -> None:
        """Pointers to what stays where it is."""
        self._row_at = floats(self._row)
        self._found_at = floats(self._found)
        self._solution_at = ffi.NULL if self._solution is None else halves(self._solution)

    @override
    def __getstate__(self) -> dict[str, Any]:
        self._take()
        return {name: value for name, value in self.__dict__.items() if not name.endswith("_at")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._bind()


class _Sums:
    """The normal equations of one regression."""

    def __init__(self) -> None:
        self._square: Floats = np.zeros((0, 0), np.float32)
        self._cross: Floats = np.zeros((0, 0), np.float32)
        self._count = 0
        self._solve_at = FIRST_SOLVED

    def add(self, rows: Floats, truths: Floats) -> Floats | None:
        """Rows and what was true; a new solution, where it is time for one."""
        if len(self._square) != rows.shape[1]:
            self._square = np.zeros((rows.shape[1], rows.shape[1]), np.float32)
            self._cross = np.zeros((rows.shape[1], truths.shape[1]), np.float32)
        self._square += rows.T @ rows
        self._cross += rows.T @ truths
        self._count += len(rows)
        if self._count < self._solve_at:
            return None
        self._solve_at += min(self._solve_at, SOLVED_EVERY)
        return self.solve()

    def solve(self) -> Floats | None:
        """From here to the truth, [rows, truths]; None where nothing was seen."""
        if not len(self._square):
            return None
        ridge = RIDGE * np.eye(len(self._square))
        return np.linalg.solve(self._square + ridge, self._cross).astype(np.float32)


@cache
def _worker() -> ThreadPoolExecutor:
    """One thread for all regressions of this process."""
    return ThreadPoolExecutor(1, thread_name_prefix="mpsafe-regression")


os.register_at_fork(after_in_child=_worker.cache_clear)  # a child has no thread but the one that forked
