# SPDX-License-Identifier: Apache-2.0
"""MoE-Infinity's predictor (arXiv 2401.14361): what whole requests asked for, and the one that is most like this."""

from typing import Final

import numpy as np

from mpsafe.experts.policies.base import NOTHING, Routed, Shape, Step, Wishes
from mpsafe.experts.trace import Floats, Trace

__all__ = ["ActivationMatrices"]

CAPACITY: Final = 1000
TINY: Final = 1e-9


class ActivationMatrices:
    """Counts [L, E] of each request. The nearest old one by cosine, this one's own counts included, guides all layers
    to come; an expert is wished for by its share of its layer's uses, less the further ahead it is.
    """

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._counts: Floats = np.zeros((0, shape.total), np.float32)
        self._mine: Floats = np.zeros(shape.total, np.float32)
        self._request: int | None = None
        self._guide: Floats | None = None
        self._now = -1

    def learn(self, traces: list[Trace]) -> None:
        width = self._shape.experts
        for trace in traces:
            for number, request in enumerate(trace.requests):
                self.begin(Step(int(request)))
                for layer in range(trace.layers):
                    self._mine[trace.ids[number * trace.layers + layer] + layer * width] += 1
        self._close()

    def begin(self, step: Step) -> None:
        if step.request != self._request:
            self._close()
            self._request = step.request
        self._now = -1
        self._guide = self._nearest()

    def routed(self, routed: Routed) -> None:
        self._now = routed.layer
        self._mine[routed.flat] += 1

    def wishes(self) -> Wishes:
        first = (self._now + 1) * self._shape.experts
        if self._guide is None or first >= self._shape.total:
            return NOTHING
        rest = self._guide[first:].reshape(-1, self._shape.experts)
        likely = np.minimum(rest * self._shape.used / (rest.sum(1, keepdims=True) + TINY), 1)
        urgency = likely * (1 - np.arange(len(rest))[:, None] / self._shape.layers)
        order = np.argsort(-urgency, axis=None, kind="stable")
        order = order[likely.ravel()[order] > 0]
        return Wishes(order + first, likely.ravel()[order].astype(np.float64))

    def _nearest(self) -> Floats | None:
        if not len(self._counts):
            return self._mine if self._mine.any() else None
        norms = np.linalg.norm(self._counts, axis=1) * np.linalg.norm(self._mine)
        cosines = self._counts @ self._mine / (norms + TINY)
        found: Floats = self._counts[int(cosines.argmax())] + self._mine
        return found

    def _close(self) -> None:
        if self._mine.any():
            self._counts = np.concatenate([self._counts, self._mine[None]])[-CAPACITY:]
            self._mine = np.zeros(self._shape.total, np.float32)
