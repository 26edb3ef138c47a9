# SPDX-License-Identifier: Apache-2.0
"""Bounds: policies that know the whole trace. Nothing that serves can do what they do."""

from typing import Final

import numpy as np

from mpsafe.experts.policies.base import NOTHING, Routed, Scores, Shape, Step, Wishes
from mpsafe.experts.trace import Ids, Trace

__all__ = ["Belady", "Prophet"]

AHEAD_LAYERS: Final = 2


class Foresight:
    """When each expert is asked for next, in layers from the trace's first; `now` is the layer that is being served."""

    def __init__(self, shape: Shape, trace: Trace) -> None:
        self.shape = shape
        self.trace = trace
        self.now = -1
        never = len(trace.ids)
        self.next = np.full(shape.total, never)
        self._after: list[Ids] = [np.empty(0, np.intp)] * never
        layers = np.arange(never) % shape.layers * shape.experts
        for number in range(never - 1, -1, -1):
            flat = trace.ids[number] + layers[number]
            self._after[number] = self.next[flat]
            self.next[flat] = number

    def begin(self, step: Step) -> None:
        pass

    def routed(self, routed: Routed) -> None:
        """The next layer is served: what it asks for is asked for again when the trace says so."""
        self.now += 1
        self.next[routed.flat] = self._after[self.now]


class Belady(Foresight):
    """Who is asked for last leaves (Belady 1966): the best that can be done without prefetching."""

    def brought(self, flat: Ids) -> None:
        pass

    def keep(self, candidates: Ids) -> Scores:
        return -self.next[candidates].astype(np.float64)


class Prophet(Foresight):
    """Wishes for what the next layers will ask for, in that order; likely is 1."""

    def learn(self, traces: list[Trace]) -> None:
        pass

    def wishes(self) -> Wishes:
        ahead = range(self.now + 1, min(self.now + 1 + AHEAD_LAYERS, len(self.trace.ids)))
        if not ahead:
            return NOTHING
        flat = np.concatenate([self.trace.ids[n] + n % self.shape.layers * self.shape.experts for n in ahead])
        return Wishes(flat, np.ones(len(flat)))

    def worth(self, wish: int, likely: float, victim: int) -> bool:
        """Only for somebody who is asked for later."""
        return bool(self.next[victim] > self.next[wish])
