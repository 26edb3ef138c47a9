# SPDX-License-Identifier: Apache-2.0
"""How likely each expert is to be asked for when its layer comes next, learned while serving.

Two logistic models with weights that all experts share, so that a few hundred tokens teach them. One says what the last
tokens tell of a layer's next turn, and is asked once a layer has been routed. The other says the same of the layers
just ahead, with what this token has shown so far; it is one for each distance. Weights move by AdaGrad each time the
truth is known. The arithmetic is in ffi/experts/.
"""

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from mpsafe.experts.core import ffi, flags, floats, integers, lib
from mpsafe.experts.policies.base import NOTHING, Routed, Shape, Wishes
from mpsafe.experts.trace import Floats, Ids

if TYPE_CHECKING:
    from mpsafe.experts._core import CData

__all__ = ["Estimator"]

RATE_MAX: Final = 0.99


class Estimator:
    """`reach`: how many layers ahead. All that it knows is one array of bytes, `memory`, good on this machine."""

    def __init__(self, shape: Shape, *, reach: int) -> None:
        self.shape = shape
        self.reach = min(reach, shape.layers - 1)
        nbytes = lib.estimator_bytes(shape.layers, shape.experts, self.reach)
        self.memory: NDArray[np.uint8] = np.empty(nbytes, np.uint8)
        rate = min(shape.used / shape.experts, RATE_MAX)
        lib.estimator_start(self._pointer(), shape.layers, shape.experts, self.reach, rate)
        self._bind()

    @property
    def likely(self) -> Floats:
        """Of each expert, [L, E]; a view."""
        return self._likely

    def routed(self, routed: Routed) -> None:
        """Learns from the truth about a layer, and says anew what its next turn will ask for."""
        flat, said = routed.flat, routed.probabilities
        lib.estimator_routed(self._self, routed.layer, integers(flat), len(flat), floats(said))

    def look_ahead(self, now: int, *, ahead: Floats | None, maps: Floats | None, regressed: Floats | None) -> None:
        """Says anew what the layers behind `now` will ask for, -1 before the first.

        `ahead` [any, E]: what their routers make of the present hidden state; `maps` [near, E]: what similar tokens
        asked for; `regressed` [reach, E].
        """
        depth = 0 if ahead is None else len(ahead)
        lib.estimator_ahead(self._self, now, floats(ahead), depth, floats(maps), floats(regressed))

    def wishes(self, now: int, *, least: float) -> Wishes:
        """Who of the layers behind `now` is likelier than `least`; the nearer the layer, the more urgent."""
        count = lib.estimator_wishes(self._self, now, least, self._wished_at, self._chances_at)
        return Wishes(self._wished[:count].copy(), self._chances[:count].copy()) if count else NOTHING

    def leaving(self, now: int, may_leave: NDArray[np.bool_], count: int, *, rent: float) -> Ids:
        """The `count` who are worth least: likelihood less `rent` for each layer until it can be asked for."""
        found = np.empty(count, np.int64)
        found_count = lib.estimator_leaving(self._self, now, rent, flags(may_leave), count, integers(found))
        return found[:found_count]

    @override
    def __getstate__(self) -> dict[str, Any]:
        return {"shape": self.shape, "reach": self.reach, "memory": self.memory}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._bind()

    def _bind(self) -> None:
        """Pointers into the memory, and room for answers."""
        layers, experts = self.shape.layers, self.shape.experts
        self._self = self._pointer()
        likely = ffi.buffer(lib.estimator_likely(self._self), layers * experts * 4)
        self._likely: Floats = np.frombuffer(likely, np.float32).reshape(layers, experts)
        self._wished = np.empty(max(1, self.reach) * experts, np.int64)
        self._chances = np.empty(len(self._wished))
        self._wished_at = integers(self._wished)
        self._chances_at = ffi.from_buffer("double[]", self._chances)

    def _pointer(self) -> "CData":
        return ffi.cast("struct estimator *", ffi.from_buffer("char[]", self.memory))
