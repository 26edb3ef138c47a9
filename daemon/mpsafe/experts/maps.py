# SPDX-License-Identifier: Apache-2.0
"""Expert maps of old tokens, and the search for those that resemble a new one (FineMoE, arXiv 2502.05370).

An expert map is what the routers said of one token: [L, E], a softmax a layer. A store has C maps, layer by layer in
memory, so that the similarity of the layers so far grows by one matrix-vector product a layer. Maps and keys are kept
as bfloat16: a search takes as long as it takes to read them.
"""

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from typing_extensions import override

from mpsafe.experts.core import Halves, bfloat16, ffi, floats, halves, integers, lib
from mpsafe.experts.trace import Floats, Ids

if TYPE_CHECKING:
    from mpsafe.experts._core import CData

__all__ = ["SHORTLIST", "MapStore", "Trajectory"]

TINY: Final = 1e-12
SHORTLIST_ABOVE: Final = 20_000
SHORTLIST: Final = 256


class MapStore:
    """At most `capacity` maps, each with a key of `width` numbers."""

    def __init__(self, layers: int, experts: int, *, width: int, capacity: int) -> None:
        self.layers = layers
        self.experts = experts
        self.capacity = capacity
        self.count = 0
        self.maps: Halves = np.zeros((layers, capacity, experts), np.uint16)
        self.norms: Floats = np.zeros((layers, capacity), np.float32)
        self.keys: Halves = np.zeros((capacity, width), np.uint16)

    def semantic(self, key: Floats) -> Floats:
        """The cosine of each stored key with this one, [count]."""
        found: Floats = np.empty(self.count, np.float32)
        lib.rows_dot(halves(self.keys), ffi.NULL, self.count, len(key), floats(_unit(key)), floats(found))
        return found

    def put(self, key: Floats, rows: Floats, *, where: int | None = None) -> int:
        """Stores a map under its key, in a free place or over the map that is at `where`; returns its place."""
        place = self.count if where is None else where
        if where is None:
            self.count += 1
        self.keys[place] = bfloat16(_unit(key))
        self.maps[:, place] = bfloat16(rows)
        self.norms[:, place] = np.sqrt(np.cumsum(np.square(rows).sum(1)))
        return place

    def map(self, place: int) -> Floats:
        """What is stored there, [L, E]."""
        return _wide(self.maps[:, place])


class Trajectory:
    """How much the layers so far of one token resemble those of each stored map.

    Over a store of more than `shortlist_above` maps only the SHORTLIST with the nearest keys are compared; `places`
    says where they are.
    """

    def __init__(self, store: MapStore, key_scores: Floats, *, shortlist_above: int = SHORTLIST_ABOVE) -> None:
        self._store = store
        self.places: Ids | None = None
        if store.count > shortlist_above:
            self.places = np.argpartition(key_scores, -SHORTLIST)[-SHORTLIST:]
        self.scores: Floats = (key_scores if self.places is None else key_scores[self.places]).copy()
        self._sums: Floats = np.zeros(len(self.scores), np.float32)
        self._square = 0.0
        self._layers = 0
        self._bind()

    def extend(self, row: Floats) -> Floats:
        """The cosines after one more layer, `scores`: of each stored map, or of those at `places`."""
        layer, store = self._layers, self._store
        self._square += float(row @ row)
        self._layers += 1
        lib.rows_near(
            self._maps_at + layer * store.capacity * store.experts,
            self._norms_at + layer * store.capacity,
            self._places_at,
            len(self.scores),
            store.experts,
            floats(row),
            self._square**0.5,
            self._sums_at,
            self._scores_at,
        )
        return self.scores

    def blend(self, first: int, found: Floats, *, neighbours: int, sharpness: float) -> None:
        """A mean of what the maps with the highest scores say of the layers from `first` on, into found [layers, E].

        A map weighs exp(sharpness * score).
        """
        store = self._store
        lib.rows_blend(
            self._maps_at + first * store.capacity * store.experts,
            store.capacity,
            len(found),
            store.experts,
            self._places_at,
            self._scores_at,
            len(self.scores),
            min(neighbours, len(self.scores)),
            sharpness,
            self._nearest_at,
            floats(found),
        )

    def rows(self, best: Ids, layer: int) -> Floats:
        """What the maps that are best by `extend`'s order say of a layer: [len(best), E]."""
        places = best if self.places is None else self.places[best]
        return _wide(self._store.maps[layer, places])

    @override
    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if not name.endswith("_at")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._bind()

    def _bind(self) -> None:
        """Pointers to what stays where it is."""
        self._maps_at: CData = halves(self._store.maps)
        self._norms_at: CData = floats(self._store.norms)
        self._places_at: CData = integers(self.places)
        self._sums_at: CData = floats(self._sums)
        self._scores_at: CData = floats(self.scores)
        self._nearest: Ids = np.empty(len(self.scores), np.int64)
        self._nearest_at: CData = integers(self._nearest)


def _unit(vector: Floats) -> Floats:
    found: Floats = vector / np.float32(np.sqrt(float(vector @ vector)) + TINY)
    return found


def _wide(array: Halves) -> Floats:
    found: Floats = (array.astype(np.uint32) << 16).view(np.float32)
    return found
