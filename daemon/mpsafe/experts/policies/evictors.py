# SPDX-License-Identifier: Apache-2.0
"""Evictors that need to know nothing but what was asked for.

Ties go to the least recently used: experts of one layer count as used in the order in which the trace lists them.
Counts outlive an eviction.
"""

from typing import Final

import numpy as np
from typing_extensions import override

from mpsafe.experts.policies.base import Routed, Scores, Shape, Step
from mpsafe.experts.trace import Ids

__all__ = ["ClassLru", "LeastStale", "Lfru", "Lfu", "Lru"]

CLASS_HALF_LIFE_STEPS: Final = 128
CLASSES: Final = 8


class Lru:
    """The least recently used leaves."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.clock = 0
        self.last = np.zeros(shape.total)

    def begin(self, step: Step) -> None:
        pass

    def routed(self, routed: Routed) -> None:
        self.brought(routed.flat)

    def brought(self, flat: Ids) -> None:
        self.last[flat] = np.arange(self.clock + 1, self.clock + 1 + len(flat))
        self.clock += len(flat)

    def keep(self, candidates: Ids) -> Scores:
        return self.last[candidates]

    def recency(self, candidates: Ids) -> Scores:
        """Between 0 and 1, by last use: what settles a tie."""
        return self.last[candidates] / (self.clock + 1)


class Lfu(Lru):
    """The least frequently used leaves."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self._count = np.zeros(shape.total)

    @override
    def routed(self, routed: Routed) -> None:
        super().routed(routed)
        self._count[routed.flat] += 1

    @override
    def keep(self, candidates: Ids) -> Scores:
        return self._count[candidates] + self.recency(candidates)


class Lfru(Lru):
    """Frequency over age: uses so far by layers since the last one (vLLM, RFC #38256)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self._count = np.zeros(shape.total)

    @override
    def routed(self, routed: Routed) -> None:
        super().routed(routed)
        self._count[routed.flat] += 1

    @override
    def keep(self, candidates: Ids) -> Scores:
        return self._count[candidates] / (self.clock + 1 - self.last[candidates])


class ClassLru(Lru):
    """Least recently used within the lowest of 8 classes of frequency, which halves in 128 tokens (llama.cpp, #27861).

    A class spans a factor of two of the decayed count.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self._count = np.zeros(shape.total)
        self._fade = 0.5 ** (1 / CLASS_HALF_LIFE_STEPS)

    @override
    def begin(self, step: Step) -> None:
        self._count *= self._fade

    @override
    def routed(self, routed: Routed) -> None:
        super().routed(routed)
        self._count[routed.flat] += 1

    @override
    def keep(self, candidates: Ids) -> Scores:
        classes = np.floor(np.log2(1 + self._count[candidates]))
        return np.minimum(classes, CLASSES - 1) + self.recency(candidates)


class LeastStale(Lru):
    """Who was not used in this step, nor will be, leaves first; then who was not and might be; then who was.

    After SpecMD's Least-Stale (arXiv 2602.03921), of which no code was at hand: within each class the least recently
    used, except that of those used in this step the latest layer leaves, since it is longest in coming.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self._layer_of = np.arange(shape.total) // shape.experts
        self._begun = 0
        self._now = 0

    @override
    def begin(self, step: Step) -> None:
        self._begun = self.clock

    @override
    def routed(self, routed: Routed) -> None:
        super().routed(routed)
        self._now = routed.layer

    @override
    def keep(self, candidates: Ids) -> Scores:
        recency = self.recency(candidates)
        fresh = self.last[candidates] > self._begun
        stale = recency + (self._layer_of[candidates] > self._now)
        return np.where(fresh, 3 - recency, stale)
