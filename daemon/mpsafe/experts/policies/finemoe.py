# SPDX-License-Identifier: Apache-2.0
"""FineMoE as its paper has it (EuroSys'26, arXiv 2502.05370): maps searched by meaning, then by trajectory.

Search: the arg-max map by the embedding's cosine guides the first d layers; from then on, after each layer, the arg-max
map by the cosine of all layers so far guides the layer that is d ahead. Selection: delta = clip(1 - score, 0, 1); of a
guided layer the likeliest experts are taken until their sum reaches delta, and at least K; they are fetched by
p / (layers to go). Eviction: who leaves first has the highest 1 / (p * frequency); recency counts for nothing.
Deduplication: a full store has its most redundant map overwritten, RDY = d/L * semantic + (L - d)/L * trajectory.
"""

from typing import Final

import numpy as np

from mpsafe.experts.maps import MapStore, Trajectory
from mpsafe.experts.policies.base import NOTHING, Flags, Routed, Scores, Shape, Step, Wishes, least
from mpsafe.experts.trace import Floats, Ids, Trace

__all__ = ["CAPACITY", "FineMoe", "selected"]

CAPACITY: Final = 1000
TINY: Final = 1e-9


def selected(row: Floats, score: float, at_least: int) -> Ids:
    """The experts of a guided layer that are prefetched, likeliest first: see above, selection."""
    delta = min(max(1.0 - score, 0.0), 1.0)
    order = np.argsort(-row, kind="stable")
    enough = int(np.searchsorted(np.cumsum(row[order]), delta)) + 1
    return order[: min(max(enough, at_least), len(order))]


class FineMoe:
    """Evictor and predictor in one. `distance`: d, the paper's 3 to 6; `capacity`: C, of maps.

    `guide` [L, E]: what the last map that guided a layer says of it.
    `uses` [L * E]: frequencies, which outlive evictions.
    """

    def __init__(self, shape: Shape, *, distance: int = 2, capacity: int = CAPACITY) -> None:
        self._shape = shape
        self._distance = min(distance, shape.layers)
        self._capacity = capacity
        self.store: MapStore | None = None
        self.uses = np.zeros(shape.total)
        self.guide = np.full((shape.layers, shape.experts), 1 / shape.experts, np.float32)
        self._rows: Floats = np.zeros((shape.layers, shape.experts), np.float32)
        self._key: Floats | None = None
        self._semantic: Floats = np.empty(0, np.float32)
        self._trajectory: Trajectory | None = None
        self._cosines: Floats = np.empty(0, np.float32)
        self._wanted: dict[int, tuple[int, float]] = {}
        self._now = -1

    def learn(self, traces: list[Trace]) -> None:
        """Fills the store with the maps of these traces."""
        for trace in traces:
            if trace.probabilities is not None and trace.embeddings is not None:
                for rows, key in zip(trace.probabilities, trace.embeddings, strict=True):
                    self.remember(key, rows)

    def begin(self, step: Step) -> None:
        assert step.embedding is not None
        self._now = -1
        self._wanted.clear()
        self._key = step.embedding
        store = self.store
        if store is None or not store.count:
            self._trajectory = None
            return
        self._semantic = store.semantic(step.embedding)
        self._trajectory = Trajectory(store, self._semantic)
        best = int(self._semantic.argmax())
        for layer, row in enumerate(store.map(best)[: self._distance]):
            self._guided(layer, row, float(self._semantic[best]))

    def routed(self, routed: Routed) -> None:
        assert routed.probabilities is not None
        self._now = layer = routed.layer
        self.uses[routed.flat] += 1
        self._rows[layer] = routed.probabilities
        if self._trajectory is not None:
            self._cosines = self._trajectory.extend(routed.probabilities)
            if (target := layer + self._distance) < self._shape.layers:
                best = int(self._cosines.argmax())
                row = self._trajectory.rows(np.asarray([best]), target)[0]
                self._guided(target, row, float(self._cosines[best]))
        if layer + 1 == self._shape.layers and self._key is not None:
            self.remember(self._key, self._rows)

    def brought(self, flat: Ids) -> None:
        pass

    def keep(self, candidates: Ids) -> Scores:
        return (self.guide.ravel()[candidates] + TINY) * self.uses[candidates]

    def leaving(self, may_leave: Flags, count: int) -> Ids:
        return least(self, may_leave, count)

    def wishes(self) -> Wishes:
        layers = {flat: layer for flat, (layer, _) in self._wanted.items() if layer > self._now}
        if not layers:
            return NOTHING
        flat = np.fromiter(layers, np.intp, len(layers))
        likely = np.asarray([self._wanted[one][1] for one in layers])
        order = np.argsort(-likely / (np.asarray(list(layers.values())) - self._now), kind="stable")
        return Wishes(flat[order], likely[order])

    def worth(self, wish: int, likely: float, victim: int) -> bool:
        return True

    def _guided(self, layer: int, row: Floats, score: float) -> None:
        self.guide[layer] = row
        for one in selected(row, score, self._shape.used):
            self._wanted[layer * self._shape.experts + int(one)] = (layer, float(row[one]))

    def remember(self, key: Floats, rows: Floats) -> None:
        """Stores a token's map [L, E] under its embedding; in a full store over the most redundant one."""
        if self.store is None:
            layers, experts = rows.shape
            self.store = MapStore(layers, experts, width=len(key), capacity=self._capacity)
        store = self.store
        store.put(key, rows, where=None if store.count < store.capacity else self._most_redundant(store, key, rows))

    def _most_redundant(self, store: MapStore, key: Floats, rows: Floats) -> int:
        near = store.semantic(key)
        if self._trajectory is None or len(self._cosines) != store.count:  # learning, or the first of a full store
            walk = Trajectory(store, near)
            cosines = [walk.extend(row) for row in rows][-1]
            places = walk.places
        else:
            cosines, places = self._cosines, self._trajectory.places
        near = near if places is None else near[places]
        share = self._distance / self._shape.layers
        worst = int((share * near + (1 - share) * cosines).argmax())
        return worst if places is None else int(places[worst])
