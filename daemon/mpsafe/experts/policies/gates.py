# SPDX-License-Identifier: Apache-2.0
"""Predictors of the layers just ahead by what this layer knows: the later routers themselves, or a trained map."""

import numpy as np

from mpsafe.experts.policies.base import NOTHING, Routed, Shape, Step, Wishes, steps
from mpsafe.experts.policies.regression import Regressions
from mpsafe.experts.trace import Floats, Ids, Trace

__all__ = ["Gate", "Linear"]


class Gate:
    """The next routers, asked with this layer's hidden state (Mixtral-Offloading, arXiv 2312.17238).

    The K likeliest of each of the next `distance` layers, nearest layer first.
    """

    def __init__(self, shape: Shape, *, distance: int) -> None:
        self._shape = shape
        self._distance = distance
        self._wishes = NOTHING

    def learn(self, traces: list[Trace]) -> None:
        pass

    def begin(self, step: Step) -> None:
        self._wishes = NOTHING

    def routed(self, routed: Routed) -> None:
        assert routed.ahead is not None
        far = min(self._distance, len(routed.ahead), self._shape.layers - 1 - routed.layer)
        self._wishes = likeliest(routed.ahead[:far], routed.layer + 1, self._shape)

    def wishes(self) -> Wishes:
        return self._wishes


class Linear:
    """A linear map to what the next layers will ask for, trained before (after ProMoE, arXiv 2410.22134).

    As strong as we can make it: it has all that our own regression has, embedding and context of the token, this
    router's probabilities and what the next routers make of this hidden state. Without traces to learn from it wishes
    for nothing. The K likeliest of each of the next `distance` layers, nearest layer first.
    """

    def __init__(self, shape: Shape, *, distance: int) -> None:
        self._shape = shape
        self._distance = distance
        self._regressions = Regressions(shape, reach=distance)
        self._wishes = NOTHING

    def learn(self, traces: list[Trace]) -> None:
        for trace in traces:
            for step, layers in steps(trace):
                self._regressions.begin(step)
                for routed in layers:
                    self._regressions.routed(routed)
        self._regressions.finish()

    def begin(self, step: Step) -> None:
        self._regressions.begin(step, learn=False)
        self._wish(0)

    def routed(self, routed: Routed) -> None:
        self._regressions.routed(routed)
        self._wish(routed.layer + 1)

    def wishes(self) -> Wishes:
        return self._wishes

    def _wish(self, first: int) -> None:
        rows = self._regressions.ahead
        far = min(self._distance, self._shape.layers - first)
        self._wishes = NOTHING if rows is None else likeliest(rows[:far], first, self._shape)


def likeliest(rows: Floats, first: int, shape: Shape) -> Wishes:
    """The K likeliest experts of each layer from `first` on, rows [layers, E]; nearest layer first."""
    if not len(rows):
        return NOTHING
    order: Ids = np.argsort(-rows, axis=1, kind="stable")[:, : shape.used]
    likely = np.clip(np.take_along_axis(rows, order, axis=1), 0, 1)
    flat = order + (first + np.arange(len(rows)))[:, None] * shape.experts
    return Wishes(flat.ravel(), likely.ravel().astype(np.float64))
