# SPDX-License-Identifier: Apache-2.0
"""Ridge regression from what is known at one layer to what the next layers will ask for, learned while serving.

What is known: the logarithms of this router's probabilities and of what the next routers make of the same hidden
state, and the token's embedding and context, projected to at most 128 numbers each. Rows are gathered; the equations
are solved anew each time their number has doubled, and every 4,096 rows from then on.
"""

from typing import Final

import numpy as np

from mpsafe.experts.policies.base import Routed, Shape, Step
from mpsafe.experts.trace import Floats, Ids

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
        self._known: list[Floats] = []
        self._asked: list[Ids] = []

    def begin(self, step: Step, *, learn: bool = True) -> None:
        """A token begins; from the one before is learned, if it came to its end."""
        if learn and len(self._asked) == len(self._known) == self._shape.layers:
            for place, known in enumerate(self._known):
                self._places[place].learn(known, self._asked[place : place + self._reach])
        self._known.clear()
        self._asked.clear()
        one = np.ones(1, np.float32)
        self._token = np.concatenate([projected(step.embedding), projected(step.context), one])
        self._know(self._token)

    def routed(self, routed: Routed) -> None:
        """A router has spoken."""
        layer = routed.layer
        self._asked.append(routed.flat - layer * self._shape.experts)
        self.ahead = None
        if routed.probabilities is not None and layer + 1 < self._shape.layers:
            parts = [np.log(routed.probabilities + LEAST), self._token]
            if routed.ahead is not None:
                parts.append(np.log(routed.ahead[: self._reach] + LEAST).ravel())
            self._know(np.concatenate(parts))

    def finish(self) -> None:
        """Nothing more is learned from: all that was gathered counts."""
        for place in self._places:
            place.finish()

    def _know(self, known: Floats) -> None:
        self.ahead = self._places[len(self._known)].predict(known) if len(self._known) < len(self._places) else None
        self._known.append(known)


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
    """From one place in the model, a layer or the start, to the next `reach` layers."""

    def __init__(self, shape: Shape, *, reach: int) -> None:
        self._experts = shape.experts
        self._reach = reach
        self._square: Floats | None = None
        self._cross: Floats = np.zeros((0, 0), np.float32)
        self._solution: Floats | None = None
        self._rows: list[Floats] = []
        self._truths: list[Floats] = []
        self._count = 0
        self._solve_at = FIRST_SOLVED

    def predict(self, known: Floats) -> Floats | None:
        """How likely each expert of the next layers is, [reach, E]; None before enough was seen."""
        if self._solution is None or len(self._solution) != len(known):
            return None
        found: Floats = np.clip(known @ self._solution, LEAST, 1).reshape(self._reach, self._experts)
        return found

    def learn(self, known: Floats, asked: list[Ids]) -> None:
        """What the next layers did ask for."""
        truth = np.zeros((self._reach, self._experts), np.float32)
        for row, ids in zip(truth, asked, strict=False):
            row[ids] = 1
        self._rows.append(known)
        self._truths.append(truth.ravel())
        if len(self._rows) == GATHER:
            self._gather()
            if self._count >= self._solve_at:
                self._solve_at += min(self._solve_at, SOLVED_EVERY)
                self._solve()

    def finish(self) -> None:
        """Solves for all rows so far."""
        if self._rows:
            self._gather()
        if self._square is not None:
            self._solve()

    def _gather(self) -> None:
        rows, truths = np.stack(self._rows), np.stack(self._truths)
        self._rows.clear()
        self._truths.clear()
        if self._square is None or len(self._square) != rows.shape[1]:
            self._square = np.zeros((rows.shape[1], rows.shape[1]), np.float32)
            self._cross = np.zeros((rows.shape[1], truths.shape[1]), np.float32)
        self._square += rows.T @ rows
        self._cross += rows.T @ truths
        self._count += len(rows)

    def _solve(self) -> None:
        assert self._square is not None
        ridge = RIDGE * np.eye(len(self._square))
        self._solution = np.linalg.solve(self._square + ridge, self._cross).astype(np.float32)
