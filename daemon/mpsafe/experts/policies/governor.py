# SPDX-License-Identifier: Apache-2.0
"""Keeps prefetching honest: within a budget of bytes, and off where it does not pay.

Plain LRU runs beside as a list of names, without data. What moved here may be at most `budget` times what LRU would
have moved; the price that a wish has to beat goes up when it was more, and down when it was less.
"""

import math
from collections import OrderedDict
from typing import Final

from mpsafe.experts.trace import Ids

__all__ = ["Governor"]

FADE: Final = 0.5 ** (1 / 256)
PRICES: Final = (0.15, 64.0)
START_PRICE: Final = 1.0
UP: Final = 0.5
DOWN: Final = 0.1
WINDOW: Final = 64
REST_STEPS: Final = 64


class Governor:
    """`price`: what a useless transfer costs, in useful ones; `open`: whether anything may be prefetched now."""

    def __init__(self, slots: int, *, budget: float) -> None:
        self.price = START_PRICE
        self._slots = slots
        self._budget = budget
        self._ghost: OrderedDict[int, None] = OrderedDict()
        self._ghost_moved = 0.0
        self._moved = 0.0
        self._outcomes = 0.0  # of the last prefetches, as a fading mean
        self._known = 0
        self._rest = 0

    @property
    def open(self) -> bool:
        return not self._rest

    def step(self) -> None:
        """A token begins."""
        self._rest = max(0, self._rest - 1)
        if self._ghost_moved:
            over = self._moved / (self._budget * self._ghost_moved) - 1
            self.price *= math.exp((UP if over > 0 else DOWN) * max(-1.0, min(1.0, over)))
            self.price = min(max(self.price, PRICES[0]), PRICES[1])
        self._moved *= FADE
        self._ghost_moved *= FADE

    def used(self, flat: Ids, missing: int) -> None:
        """A layer asked for these, and so many had to be loaded."""
        self._moved += missing
        ghost = self._ghost
        for one in flat.tolist():
            if one in ghost:
                ghost.move_to_end(one)
            else:
                ghost[one] = None
                self._ghost_moved += 1
        while len(ghost) > self._slots:
            ghost.popitem(last=False)

    def prefetched(self, count: int) -> None:
        """So many were brought in ahead."""
        self._moved += count

    def known(self, used: int, unused: int) -> None:
        """The layer that they were brought in for has passed. Below break-even there is a rest."""
        for outcome in (1.0,) * used + (0.0,) * unused:
            self._outcomes += (outcome - self._outcomes) / min(self._known + 1, WINDOW)
            self._known += 1
        if self._known >= WINDOW and self._outcomes < self.price / (1 + self.price):
            self._rest, self._known = REST_STEPS, 0
            self._outcomes = 0.0
