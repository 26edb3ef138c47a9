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

CLASS_FADE: Final = 0.5 ** (1 / 128)
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
    """The least frequently used leaves. `count`: uses of each expert."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.count: Scores = np.zeros(shape.total)

    @override
    def routed(self, routed: Routed) -> None:
        super().routed(routed)
        self.count[routed.flat] += 1

    @override
    def keep(self, candidates: Ids) -> Scores:
        return self.count[candidates] + self.recency(candidates)

    def age(self, candidates: Ids) -> Scores:
        """Uses of any expert since its own last one, from 1."""
        return self.clock + 1 - self.last[candidates]


class Lfru(Lfu):
    """Frequency over age (vLLM, RFC #38256)."""

    @override
    def keep(self, candidates: Ids) -> Scores:
        return self.count[candidates] / self.age(candidates)


class ClassLru(Lfu):
    """The greatest age over 2^class leaves (llama.cpp, #27861 and llama-moe-cache.cpp).

    A count halves in 128 tokens; its class is the whole part of its logarithm to the base 2, at most 7.
    """

    @override
    def begin(self, step: Step) -> None:
        self.count *= CLASS_FADE

    @override
    def keep(self, candidates: Ids) -> Scores:
        classes = np.floor(np.log2(np.maximum(self.count[candidates], 1)))
        return -self.age(candidates) / np.exp2(np.minimum(classes, CLASSES - 1))


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
