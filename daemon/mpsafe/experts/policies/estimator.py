# SPDX-License-Identifier: Apache-2.0
"""How likely each expert is to be asked for when its layer comes next, learned while serving.

Two logistic models with weights that all experts share, so that a few hundred tokens teach them. `later`: what the
last tokens say of a layer's next turn; asked for once a layer has been routed. `sooner`: the same for the layers just
ahead, with what this token has shown so far. Weights move by AdaGrad each time the truth is known.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from mpsafe.experts.policies.base import Routed, Scores, Shape
from mpsafe.experts.trace import Floats, Ids

__all__ = ["Estimator"]

HALF_LIVES: Final = (1.0, 4.0, 16.0, 64.0)
RATE: Final = 0.4
START_SQUARE: Final = 1e-2
TINY: Final = 1e-3
PRIOR_USES: Final = 4.0
AGES: Final = 4096
LOGIT_MAX: Final = 30.0

_Matrix = NDArray[np.float64]


class _Logistic:
    """Weights for features [E, F], learned online."""

    def __init__(self, features: int, *, bias: float) -> None:
        self.weights = np.zeros(features)
        self.weights[0] = bias
        self._square = np.full(features, START_SQUARE)

    def __call__(self, features: _Matrix) -> Scores:
        logits = features @ self.weights
        np.clip(logits, -LOGIT_MAX, LOGIT_MAX, out=logits)  # a likelihood of 1 has no logarithm of its odds
        found: Scores = 1 / (1 + np.exp(-logits))
        return found

    def learn(self, features: _Matrix, ids: Ids) -> None:
        """What was asked for is known. The error is that of the weights as they are now, not as they were then."""
        error = self(features)
        error[ids] -= 1
        slope = error @ features
        self._square += slope * slope
        self.weights -= RATE * slope / np.sqrt(self._square)


class Estimator:
    """`later` [L, E]: likelihoods for each layer's next turn. `reach`: of how many layers ahead `sooner` is asked."""

    def __init__(self, shape: Shape, *, reach: int) -> None:
        layers, experts = shape.layers, shape.experts
        rate = shape.used / experts
        self.shape = shape
        self.reach = min(reach, layers - 1)
        self.later: Scores = np.full((layers, experts), rate)
        self._rate = rate
        self._counts = np.zeros((len(HALF_LIVES), layers, experts))
        self._fade = 0.5 ** (1 / np.asarray(HALF_LIVES))
        self._ages = np.full((layers, experts), 64)
        self._age_features = np.stack([np.exp(-np.arange(AGES) / 2), np.log1p(np.arange(AGES)) / 4], 1)
        # How often b was asked for, of all times that a had been: by a's layer a token before, or the layers before.
        self._follows = np.zeros((layers, experts, experts), np.float32)
        self._leads = np.zeros((self.reach, layers, experts, experts), np.float32)
        self._uses = np.zeros((layers, experts), np.float32)
        self._last: list[Ids | None] = [None] * layers
        bias = float(np.log(rate / (1 - rate)))
        self._later_model = _Logistic(9, bias=bias)
        self._later_features: list[_Matrix | None] = [None] * layers
        self._sooner_models = [_Logistic(8, bias=0.0) for _ in range(self.reach)]
        for model in self._sooner_models:
            model.weights[1] = 1.0
        self._sooner_features: list[list[_Matrix | None]] = [[None] * layers for _ in range(self.reach)]

    def routed(self, routed: Routed) -> None:
        """Learns from the truth about a layer, and says anew what its next turn will ask for."""
        layer = routed.layer
        ids = routed.flat - layer * self.shape.experts
        if (features := self._later_features[layer]) is not None:
            self._later_model.learn(features, ids)
        for model, waiting in zip(self._sooner_models, self._sooner_features, strict=True):
            if (known := waiting[layer]) is not None:
                model.learn(known, ids)
                waiting[layer] = None
        self._count(layer, ids)
        self._later_features[layer] = features = self._features(layer, ids, routed.probabilities)
        self.later[layer] = self._later_model(features)

    def sooner(
        self, layer: int, distance: int, *, ahead: Floats | None, maps: Floats | None, regressed: Floats | None
    ) -> Scores:
        """Likelihoods for `layer`, `distance` layers (from 1) behind the one that was routed last, [E].

        `ahead`: what the layer's router makes of the present hidden state; `maps`: what similar tokens asked for.
        """
        experts = self.shape.experts
        later = self.later[layer]
        features = np.zeros((experts, 8))
        features[:, 0] = 1
        features[:, 1] = np.log(later / (1 - later))
        source = layer - distance
        last = self._last[source] if source >= 0 else None
        if last is not None:
            led = self._leads[distance - 1, source, last].sum(0)
            base = float(self._uses[source, last].sum()) - len(last)
            features[:, 2] = np.log((led + PRIOR_USES * self._rate) / (base + PRIOR_USES) + TINY) / 2 + 1
        if ahead is not None:
            features[:, 3] = np.log(ahead + TINY) / 2 + 1
            features[np.argpartition(-ahead, self.shape.used - 1)[: self.shape.used], 4] = 1
        if maps is not None:
            features[:, 5] = np.log(maps + TINY) / 2 + 1
        if regressed is not None:
            features[:, 6] = np.log(regressed) / 2 + 1
            features[:, 7] = regressed
        self._sooner_features[distance - 1][layer] = features
        return self._sooner_models[distance - 1](features)

    def _count(self, layer: int, ids: Ids) -> None:
        if (before := self._last[layer]) is not None:
            self._follows[layer, before[:, None], ids] += 1
        for distance in range(1, self.reach + 1):
            if layer >= distance and (source := self._last[layer - distance]) is not None:
                self._leads[distance - 1, layer - distance, source[:, None], ids] += 1
        self._uses[layer, ids] += 1
        self._last[layer] = ids
        self._counts[:, layer] *= self._fade[:, None]
        self._counts[:, layer, ids] += 1
        self._ages[layer] += 1
        self._ages[layer, ids] = 0

    def _features(self, layer: int, ids: Ids, probabilities: Floats | None) -> _Matrix:
        features = np.empty((self.shape.experts, 9))
        features[:, 0] = 1
        shares = self._counts[:, layer] * (1 - self._fade)[:, None]
        features[:, 1:5] = np.log1p(8 * shares).T
        features[:, 5:7] = self._age_features[np.minimum(self._ages[layer], AGES - 1)]
        followed = self._follows[layer, ids].sum(0)
        base = float(self._uses[layer, ids].sum()) - len(ids)
        features[:, 7] = np.log((followed + PRIOR_USES * self._rate) / (base + PRIOR_USES) + TINY) / 2 + 1
        features[:, 8] = np.log(shares[3] + 0.01) / 2 + 1
        if probabilities is not None:
            features[:, 8] = np.log(probabilities + TINY) / 2 + 1
        return features
