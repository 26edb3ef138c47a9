# SPDX-License-Identifier: Apache-2.0
"""The policy `mpsafe`: likelihoods learned while serving, for who leaves and for what comes in ahead.

Who leaves is worth least: the likelihood that its layer's next turn asks for it, less a rent for the time until then.
What comes in ahead has to be likelier than the loss if it was wrong: p > (1 - p) * price + p of who would leave; the
governor sets the price. Similar old tokens are found by a key of embedding and context, then by trajectory, and the
nearest are blended.
"""

from typing import Final

import numpy as np

from mpsafe.experts.maps import SHORTLIST, MapStore, Trajectory
from mpsafe.experts.policies.base import NOTHING, Flags, Routed, Scores, Shape, Step, Wishes, steps
from mpsafe.experts.policies.estimator import Estimator
from mpsafe.experts.policies.governor import Governor
from mpsafe.experts.policies.regression import Regressions, projected
from mpsafe.experts.trace import Floats, Ids, Trace

__all__ = ["Mpsafe"]

RENT: Final = 0.25
REACH: Final = 2
BUDGET: Final = 1.05
NEIGHBOURS: Final = 16
CAPACITY: Final = 2000
SHARPNESS: Final = 8.0
LEAST_LIKELY: Final = 0.1


class Mpsafe:
    """Evictor and predictor in one. `maps`: whether similar tokens are looked for, where embeddings are known."""

    def __init__(self, shape: Shape, *, maps: bool = True) -> None:
        self._shape = shape
        self._estimator = Estimator(shape, reach=REACH)
        self._governor = Governor(shape.slots, budget=BUDGET)
        self._layer_of = np.arange(shape.total) // shape.experts
        self._now = -1
        self._ahead: dict[int, set[int]] = {}
        self._maps = maps
        self._store: MapStore | None = None
        self._oldest = 0
        self._key: Floats | None = None
        self._rows: Floats = np.zeros((shape.layers, shape.experts), np.float32)
        self._trajectory: Trajectory | None = None
        self._blended: Floats = np.empty((self._estimator.reach, shape.experts), np.float32)
        self._regressions = Regressions(shape, reach=self._estimator.reach)
        self._heard: Routed | None = None  # and not looked ahead from yet

    def learn(self, traces: list[Trace]) -> None:
        """Passes through them as through its own tokens, with nothing to evict."""
        for trace in traces:
            for step, layers in steps(trace):
                self.begin(step)
                for routed in layers:
                    self.routed(routed)
        self._look()
        self._regressions.finish()
        self._governor = Governor(self._shape.slots, budget=BUDGET)

    def begin(self, step: Step) -> None:
        self._look()
        self._now = -1
        self._governor.step()
        self._trajectory = None
        self._regressions.begin(step)
        if self._maps and step.embedding is not None:
            self._search(step.embedding, step.context)
        self._look_ahead(None)

    def routed(self, routed: Routed) -> None:
        self._look()
        self._now = layer = routed.layer
        self._governor.used(routed.flat, routed.missing)
        if (came := self._ahead.pop(layer, None)) is not None:
            used = len(came.intersection(routed.flat.tolist()))
            self._governor.known(used, len(came) - used)
        self._estimator.routed(routed)
        self._heard = routed

    def _look(self) -> None:
        """What was heard last says more of the layers ahead. Put off until somebody wishes for something, so that what
        is missing now is on its way meanwhile.
        """
        if (routed := self._heard) is None:
            return
        self._heard = None
        layer = routed.layer
        self._regressions.routed(routed)
        if routed.probabilities is not None:
            self._rows[layer] = routed.probabilities
            if self._trajectory is not None:
                self._trajectory.extend(routed.probabilities)
            if layer + 1 == self._shape.layers:
                self._remember()
        self._look_ahead(routed.ahead)

    def brought(self, flat: Ids) -> None:
        self._governor.prefetched(len(flat))
        for one in flat.tolist():
            self._ahead.setdefault(one // self._shape.experts, set()).add(one)

    def keep(self, candidates: Ids) -> Scores:
        wait = (self._layer_of[candidates] - self._now - 1) % self._shape.layers
        return self._estimator.likely.ravel()[candidates] - RENT / self._shape.layers * wait

    def leaving(self, may_leave: Flags, count: int) -> Ids:
        return self._estimator.leaving(self._now, may_leave, count, rent=RENT / self._shape.layers)

    def wishes(self) -> Wishes:
        self._look()
        if not self._governor.open:
            return NOTHING
        return self._estimator.wishes(self._now, least=LEAST_LIKELY)

    def worth(self, wish: int, likely: float, victim: int) -> bool:
        return likely > (1 - likely) * self._governor.price + float(self._estimator.likely.ravel()[victim])

    def _look_ahead(self, ahead: Floats | None) -> None:
        """Asks again what the layers just ahead will ask for."""
        near = min(self._estimator.reach, self._shape.layers - 1 - self._now)
        if near <= 0:
            return
        maps = None
        if self._trajectory is not None:
            maps = self._blended[:near]
            self._trajectory.blend(self._now + 1, maps, neighbours=NEIGHBOURS, sharpness=SHARPNESS)
        self._estimator.look_ahead(self._now, ahead=ahead, maps=maps, regressed=self._regressions.ahead)

    def _search(self, embedding: Floats, context: Floats | None) -> None:
        """By the token's own embedding and the last hidden state before it: a vocabulary lookup knows no context."""
        self._key = key = np.concatenate([projected(embedding), projected(context)])
        if self._store is not None and self._store.count:
            self._trajectory = Trajectory(self._store, self._store.semantic(key), shortlist_above=SHORTLIST)

    def _remember(self) -> None:
        if self._key is None:
            return
        if self._store is None:
            layers, experts = self._rows.shape
            self._store = MapStore(layers, experts, width=len(self._key), capacity=CAPACITY)
        full = self._store.count == CAPACITY
        self._store.put(self._key, self._rows, where=self._oldest if full else None)
        if full:
            self._oldest = (self._oldest + 1) % CAPACITY
