# SPDX-License-Identifier: Apache-2.0
"""This test will hold the C of the policies to the same said in NumPy, over shapes and tokens at random."""

import copy

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mpsafe.experts.core import bfloat16, floats, halves, integers, lib
from mpsafe.experts.maps import MapStore, Trajectory
from mpsafe.experts.policies.base import Routed, Shape
from mpsafe.experts.policies.estimator import Estimator
from mpsafe.experts.trace import Floats, Ids

TINY = 1e-3
PRIOR = 4.0
HALF_LIVES = (1.0, 4.0, 16.0, 64.0)
Matrix = NDArray[np.float64]


def shape_of(layers: int, experts: int, used: int) -> Shape:
    return Shape(layers, experts, min(used, experts - 1), layers * experts // 2)


shapes = st.builds(shape_of, st.integers(1, 4), st.integers(2, 70), st.integers(1, 8))


class Logistic:
    def __init__(self, weights: list[float]) -> None:
        self.weights = np.asarray(weights, np.float64)
        self.squares = np.full(len(weights), 1e-2)

    def __call__(self, features: Matrix) -> Matrix:
        found: Matrix = 1 / (1 + np.exp(-np.clip(features @ self.weights, -15, 15)))
        return found

    def learn(self, features: Matrix, ids: Ids) -> None:
        error = self(features)
        error[ids] -= 1
        slope = error @ features
        self.squares += slope * slope
        self.weights -= 0.4 * slope / np.sqrt(self.squares)


class Plain:
    """The estimator, as a reader would write it."""

    def __init__(self, shape: Shape, reach: int) -> None:
        layers, experts = shape.layers, shape.experts
        self.shape, self.reach, self.rate = shape, reach, shape.used / experts
        self.likely = np.full((layers, experts), self.rate)
        self.later = self.likely.copy()
        self.counts = np.zeros((4, layers, experts))
        self.ages = np.full((layers, experts), 64)
        self.uses = np.zeros((layers, experts))
        self.follows = np.zeros((layers, experts, experts))
        self.leads = np.zeros((reach, layers, experts, experts))
        self.last: list[Ids | None] = [None] * layers
        self.later_model = Logistic([np.log(self.rate / (1 - self.rate))] + [0.0] * 8)
        self.sooner_models = [Logistic([0.0, 1.0] + [0.0] * 6) for _ in range(reach)]
        self.later_waits: dict[int, Matrix] = {}
        self.sooner_waits: dict[tuple[int, int], Matrix] = {}

    def routed(self, layer: int, ids: Ids, probabilities: Floats | None) -> None:
        if layer in self.later_waits:
            self.later_model.learn(self.later_waits[layer], ids)
        for distance in range(self.reach):
            if (known := self.sooner_waits.pop((distance, layer), None)) is not None:
                self.sooner_models[distance].learn(known, ids)
        if (before := self.last[layer]) is not None:
            self.follows[layer][np.ix_(before, ids)] += 1
        for distance in range(1, min(self.reach, layer) + 1):
            if (source := self.last[layer - distance]) is not None:
                self.leads[distance - 1, layer - distance][np.ix_(source, ids)] += 1
        self.uses[layer, ids] += 1
        self.last[layer] = ids
        fades = 0.5 ** (1 / np.asarray(HALF_LIVES))
        self.counts[:, layer] *= fades[:, None]
        self.counts[:, layer, ids] += 1
        self.ages[layer] += 1
        self.ages[layer, ids] = 0
        shares = self.counts[:, layer] * (1 - fades)[:, None]
        said = np.log(shares[3] + 0.01) if probabilities is None else np.log(probabilities + TINY)
        columns = [np.ones(self.shape.experts), *np.log1p(8 * shares)]
        columns += [np.exp(-self.ages[layer] / 2), np.log1p(self.ages[layer]) / 4]
        columns += [self.share(self.follows[layer], layer, ids), said / 2 + 1]
        self.later_waits[layer] = features = np.stack(columns, 1)
        self.later[layer] = self.likely[layer] = self.later_model(features)

    def look_ahead(self, now: int, ahead: Floats | None, maps: Floats | None, regressed: Floats | None) -> None:
        for distance in range(1, self.reach + 1):
            if (layer := now + distance) < self.shape.layers:
                row = distance - 1
                features = np.zeros((self.shape.experts, 8))
                features[:, 0] = 1
                features[:, 1] = np.log(self.later[layer] / (1 - self.later[layer]))
                if now >= 0 and (source := self.last[now]) is not None:
                    features[:, 2] = self.share(self.leads[row, now], now, source)
                if ahead is not None and row < len(ahead):
                    features[:, 3] = np.log(ahead[row] + TINY) / 2 + 1
                    features[np.argsort(-ahead[row], kind="stable")[: self.shape.used], 4] = 1
                if maps is not None:
                    features[:, 5] = np.log(maps[row] + TINY) / 2 + 1
                if regressed is not None:
                    features[:, 6] = np.log(regressed[row] + TINY**2) / 2 + 1
                    features[:, 7] = regressed[row]
                self.sooner_waits[row, layer] = features
                self.likely[layer] = self.sooner_models[row](features)

    def share(self, pairs: Matrix, layer: int, ids: Ids) -> Matrix:
        base = self.uses[layer, ids].sum() - len(ids)
        found: Matrix = np.log((pairs[ids].sum(0) + PRIOR * self.rate) / (base + PRIOR) + TINY) / 2 + 1
        return found


@settings(max_examples=25, deadline=None)
@given(shapes, st.integers(0, 2), st.integers(0, 2**32 - 1))
def test_likelihoods_are_those_of_the_formulas(shape: Shape, reach: int, seed: int) -> None:
    dice = np.random.default_rng(seed)
    quick, plain = Estimator(shape, reach=reach), Plain(shape, min(reach, shape.layers - 1))
    known = dice.random(3) < 0.7
    for token in range(12):
        rows = dice.dirichlet(np.full(shape.experts, 0.3), (2, 3, max(1, reach))).astype(np.float32)
        for now in range(-1, shape.layers):
            if now >= 0:
                ids = np.sort(dice.permutation(shape.experts)[: dice.integers(1, shape.used + 1)])
                said = rows[0, 0, 0] if known[0] else None
                quick.routed(Routed(now, ids + now * shape.experts, 0, said))
                plain.routed(now, ids, said)
            near = min(quick.reach, shape.layers - 1 - now)
            given = [rows[1, at, : max(near, 1)] if known[at] and near else None for at in range(3)]
            quick.look_ahead(now, ahead=given[0], maps=given[1], regressed=given[2])
            plain.look_ahead(now, *given)
            assert np.allclose(quick.likely, plain.likely, rtol=2e-2, atol=2e-3), (token, now)
            if token == 6 and now == 0:
                quick = copy.deepcopy(quick)


@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(0, 2**32 - 1))
def test_who_leaves_and_who_is_wished_for_come_in_order(shape: Shape, seed: int) -> None:
    dice = np.random.default_rng(seed)
    estimator = Estimator(shape, reach=2)
    estimator.likely[:] = dice.choice([0.0, 0.25, 0.5, 0.75], estimator.likely.shape)
    may_leave = dice.random(shape.total) < dice.choice([0.0, 0.1, 0.9])
    now, count = int(dice.integers(-1, shape.layers)), int(dice.integers(0, 6))
    layer_of = np.arange(shape.total) // shape.experts
    worth = estimator.likely.ravel() - np.float32(0.125) * ((layer_of - now - 1) % shape.layers)
    worst = sorted(np.flatnonzero(may_leave).tolist(), key=lambda one: (worth[one], one))
    assert estimator.leaving(now, may_leave, count, rent=0.125).tolist() == worst[:count]

    near = [one for one in range(shape.total) if 0 < layer_of[one] - now <= estimator.reach]
    likely = estimator.likely.ravel()
    wanted = [one for one in near if likely[one] > 0.3]
    wanted.sort(key=lambda one: (-likely[one] / (layer_of[one] - now), one))
    found = estimator.wishes(now, least=0.3)
    assert found.flat.tolist() == wanted
    assert found.likely.tolist() == [likely[one] for one in wanted]


def test_nothing_is_written_behind_the_memory() -> None:
    for layers, experts, reach in ((1, 2, 0), (3, 5, 2), (4, 65, 2)):
        shape = Shape(layers, experts, 1, 4)
        nbytes = lib.estimator_bytes(layers, experts, reach)
        wide = np.full(nbytes + 4096, 0xA5, np.uint8)
        estimator = Estimator(shape, reach=reach)
        wide[:nbytes] = estimator.memory
        estimator.__setstate__({"shape": shape, "reach": reach, "memory": wide})
        said = np.full(experts, 1 / experts, np.float32)
        rows = np.tile(said, (max(1, reach), 1))
        for token in range(40):
            for layer in range(layers):
                estimator.look_ahead(layer - 1, ahead=rows, maps=rows, regressed=rows)
                estimator.routed(Routed(layer, np.asarray([token % experts]) + layer * experts, 0, said))
        assert (wide[nbytes:] == 0xA5).all()
    assert lib.estimator_bytes(0, 4, 1) == lib.estimator_bytes(4, -1, 1) == 0


def test_bfloat16_is_rounded_to_the_nearest() -> None:
    values = np.asarray([0.0, 1.0, -2.5, 3.14159265, 1e-30, 65504.0], np.float32)
    wide = (bfloat16(values).astype(np.uint32) << 16).view(np.float32)
    assert np.allclose(wide, values, rtol=1 / 256, atol=0)
    assert wide[:3].tolist() == [0.0, 1.0, -2.5]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_a_regression_is_a_product_between_its_bounds(rows: int, columns: int, seed: int) -> None:
    dice = np.random.default_rng(seed)
    row = dice.standard_normal(rows).astype(np.float32)
    solution = bfloat16(dice.standard_normal((rows, columns)).astype(np.float32))
    found: Floats = np.empty(columns, np.float32)
    lib.regression_predict(floats(row), rows, halves(solution), columns, 0.01, floats(found))
    wide = (solution.astype(np.uint32) << 16).view(np.float32)
    assert np.allclose(found, np.clip(row @ wide, 0.01, 1), atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 20), st.booleans(), st.integers(0, 2**32 - 1))
def test_similarities_and_their_mean_are_what_they_say(count: int, experts: int, listed: bool, seed: int) -> None:
    dice = np.random.default_rng(seed)
    store = MapStore(3, experts, width=4, capacity=count + 3)
    maps = dice.dirichlet(np.full(experts, 0.5), (count, 3)).astype(np.float32)
    for one in maps:
        store.put(dice.random(4).astype(np.float32), one)
    walk = Trajectory(store, np.zeros(count, np.float32))
    if listed:
        walk.places = dice.permutation(count)
        walk.__setstate__(walk.__getstate__())
    token = dice.dirichlet(np.full(experts, 0.5), 3).astype(np.float32)
    kept = np.stack([store.map(place) for place in range(count)])
    assert np.allclose(kept, maps, atol=1 / 256)
    order = np.arange(count) if walk.places is None else walk.places
    scores = walk.scores
    for layer in range(3):
        scores = walk.extend(token[layer])
        dots = np.einsum("cle,le->c", kept[:, : layer + 1], token[: layer + 1])
        lengths = np.linalg.norm(maps[:, : layer + 1], axis=(1, 2)) * np.linalg.norm(token[: layer + 1])
        assert np.allclose(scores, (dots / lengths)[order], atol=1e-4)
    near = min(5, count)
    found: Floats = np.empty((2, experts), np.float32)
    walk.blend(1, found, neighbours=5, sharpness=8.0)
    best = np.argsort(-scores, kind="stable")[:near]
    weights = np.exp(8.0 * (scores[best] - scores[best[0]]))
    expected = np.einsum("n,nle->le", weights / weights.sum(), kept[order[best]][:, 1:])
    assert np.allclose(found, expected, atol=1e-3)
    assert integers(None) == floats(None)
