# SPDX-License-Identifier: Apache-2.0
"""Expert maps of old tokens, and the search for those that resemble a new one (FineMoE, arXiv 2502.05370).

An expert map is what the routers said of one token: [L, E], a softmax a layer. A store has C maps, layer by layer in
memory, so that the similarity of the layers so far grows by one matrix-vector product a layer.
"""

from typing import Final

import numpy as np

from mpsafe.experts.trace import Floats, Ids

__all__ = ["SHORTLIST", "MapStore", "Trajectory"]

TINY: Final = 1e-12
SHORTLIST_ABOVE: Final = 20_000
SHORTLIST: Final = 256


class MapStore:
    """At most `capacity` maps, each with a key of `width` numbers; fp32, since NumPy's fp16 products are slow."""

    def __init__(self, layers: int, experts: int, *, width: int, capacity: int) -> None:
        self.layers = layers
        self.capacity = capacity
        self.count = 0
        self.maps: Floats = np.zeros((layers, capacity, experts), np.float32)
        self.norms: Floats = np.zeros((layers, capacity), np.float32)
        self.keys: Floats = np.zeros((capacity, width), np.float32)

    def semantic(self, key: Floats) -> Floats:
        """The cosine of each stored key with this one, [count]."""
        return self.keys[: self.count] @ _unit(key)

    def put(self, key: Floats, rows: Floats, *, where: int | None = None) -> int:
        """Stores a map under its key, in a free place or over the map that is at `where`; returns its place."""
        place = self.count if where is None else where
        if where is None:
            self.count += 1
        self.keys[place] = _unit(key)
        self.maps[:, place] = rows
        self.norms[:, place] = np.sqrt(np.cumsum(np.square(rows).sum(1)))
        return place


class Trajectory:
    """How much the layers so far of one token resemble those of each stored map.

    Over a store of more than `shortlist_above` maps only the SHORTLIST with the nearest keys are compared.
    """

    def __init__(self, store: MapStore, key_scores: Floats, *, shortlist_above: int = SHORTLIST_ABOVE) -> None:
        self._store = store
        self.places: Ids | None = None
        if store.count > shortlist_above:
            self.places = np.argpartition(key_scores, -SHORTLIST)[-SHORTLIST:]
        self._sums: Floats = np.zeros(store.count if self.places is None else SHORTLIST, np.float32)
        self._square = 0.0
        self._layers = 0

    def extend(self, row: Floats) -> Floats:
        """The cosines after one more layer: of each stored map, or of those at `places`."""
        layer = self._layers
        stored = self._store.maps[layer]
        chosen = stored[: len(self._sums)] if self.places is None else stored[self.places]
        norms = self._store.norms[layer]
        old = norms[: len(self._sums)] if self.places is None else norms[self.places]
        self._sums += chosen @ row
        self._square += float(row @ row)
        self._layers += 1
        cosines: Floats = self._sums / (old * np.float32(np.sqrt(self._square)) + np.float32(TINY))
        return cosines

    def rows(self, best: Ids, layer: int) -> Floats:
        """What the maps that are best by `extend`'s order say of a layer: [len(best), E]."""
        places = best if self.places is None else self.places[best]
        found: Floats = self._store.maps[layer, places]
        return found


def _unit(vector: Floats) -> Floats:
    found: Floats = vector / np.float32(np.sqrt(float(vector @ vector)) + TINY)
    return found
