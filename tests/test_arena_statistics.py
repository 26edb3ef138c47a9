# SPDX-License-Identifier: Apache-2.0
"""This test will hold intervals, groups of equals, fronts and losses of the arena against cases that are known."""

import math

import numpy as np
import pytest

from arena_data import full_matrix
from mpsafe.arena import frontier, statistics
from mpsafe.arena.matrix import Matrix
from mpsafe.arena.routers.oracles import oracle
from mpsafe.errors import BadRequest

DICE = np.random.default_rng(0)


def test_half_width_on_809_queries() -> None:
    """About three points, as measured on the real matrix."""
    matrix = full_matrix("2026-07")
    found = statistics.interval(statistics.bootstrap(matrix.score, matrix.cost, draws=400)[:, 1])
    assert 0.02 < (found.high - found.low) / 2 < 0.04


def test_equals_are_one_group_and_a_better_one_is_its_own() -> None:
    queries = 400
    weak = (DICE.random(queries) < 0.5).astype(float)
    same = np.where(np.arange(queries) < 4, 1 - weak, weak)
    accuracy = np.stack([weak, same, np.ones(queries)], axis=1)
    drawn = statistics.bootstrap(accuracy, np.full((queries, 3), 1e-4), draws=300)
    found = [float(one) for one in statistics.scores(accuracy.mean(axis=0), np.full(3, 0.1))]
    groups = statistics.tie_groups(found, drawn)
    assert groups[0] == groups[1] == 2 and groups[2] == 1
    assert statistics.rank_intervals(drawn)[2] == (1, 1)


def test_mcnemar() -> None:
    one, other = np.asarray([1.0] * 9 + [0.0]), np.asarray([0.0] * 9 + [1.0])
    only, their, p = statistics.mcnemar(one, other)
    assert (only, their) == (9, 1)
    assert p == pytest.approx(2 * (1 + 10) / 2**10)
    assert statistics.mcnemar(one, one)[2] == 1.0


def test_front() -> None:
    assert frontier.pareto([1.0, 2.0, 3.0, 2.0], [0.5, 0.4, 0.9, 0.5]) == [0, 2]


def test_aiq_of_two_points() -> None:
    """A straight line from (1, 0.4) to (3, 0.8), then flat, nothing below 1: by hand."""
    found = frontier.aiq([1.0, 3.0, 2.0], [0.4, 0.8, 0.5], low=0.0, high=4.0)
    assert found == pytest.approx((2 * 0.6 + 0.8) / 4)
    with pytest.raises(BadRequest):
        frontier.aiq([1.0], [1.0], low=1.0, high=1.0)


def test_recovery_of_a_random_order_and_of_an_oracle() -> None:
    weak, strong = np.repeat([0.0, 1.0], 500), np.ones(1000)
    ideal = frontier.recovery(weak, strong, strong - weak)
    assert ideal.cpt50 == pytest.approx(0.25) and ideal.cpt80 == pytest.approx(0.4)
    assert ideal.apgr == pytest.approx(0.75, abs=1e-3)
    chance = frontier.recovery(weak, strong, DICE.random(1000))
    assert chance.apgr == pytest.approx(0.5, abs=0.03)
    with pytest.raises(BadRequest):
        frontier.recovery(strong, weak, weak)


def test_losses_of_the_oracle_are_none() -> None:
    matrix = full_matrix("2025-11")
    best = frontier.losses(matrix, oracle(matrix))
    assert (best.gap, best.regret) == (0, 0)
    always = frontier.losses(matrix, np.zeros(len(matrix), np.intp))
    assert always.gap == pytest.approx(0.740773 - 0.523356, abs=1e-6)
    assert always.collapse == 1
    assert always.worst_domain[1] == 0


def test_calibration() -> None:
    brier, error = frontier.calibration(np.asarray([0.75] * 4), np.asarray([1.0, 1.0, 1.0, 0.0]))
    assert brier == pytest.approx(3 / 4 * 0.0625 + 1 / 4 * 0.5625)
    assert error == pytest.approx(0)
    assert frontier.calibration(np.ones(3), np.zeros(3)) == (1, 1)


def test_outcome_robustness() -> None:
    assert frontier.outcome_robustness(np.asarray([1.0, 0.5, 0.0, 1.0]), np.asarray([1.0, 0.0, 1.0, 1.0])) == 0.75


def test_scores_of_arrays_are_those_of_numbers() -> None:
    from mpsafe.arena.scoring import arena_score

    accuracy, cost = DICE.random(50), 10.0 ** DICE.uniform(-4, 3, 50)
    wanted = [arena_score(a, c) for a, c in zip(accuracy.tolist(), cost.tolist(), strict=True)]
    assert statistics.scores(accuracy, cost).tolist() == pytest.approx(wanted)
    assert not math.isnan(statistics.scores(np.zeros(1), np.asarray([300.0]))[0])


def test_domains_of_a_matrix_without_any() -> None:
    matrix = Matrix(["a"], [""], [""], ["m"], np.ones((1, 1)), np.ones((1, 1)), "t")
    assert frontier.losses(matrix, np.zeros(1, np.intp)).worst_domain == ("", 1.0)
