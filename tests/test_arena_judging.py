# SPDX-License-Identifier: Apache-2.0
"""This test will pair routers on the same queries, sweep one over all prices, and read what the commands say of it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from arena_data import ARENA, HAIKU, MODELS, full_matrix, outcomes
from mpsafe.arena.counted import Counted, outcomes_kept
from mpsafe.arena.curve import curve
from mpsafe.arena.files import Object, Prediction
from mpsafe.arena.matrix import Matrix
from mpsafe.arena.pairing import pair
from mpsafe.arena.table import Table
from mpsafe.cli import cli
from mpsafe.errors import BadArenaFile, BadRequest

DICE = np.random.default_rng(5)


def told(*arguments: str | Path) -> dict[str, Any]:
    done = CliRunner().invoke(cli, ["arena", *map(str, arguments), "--json"], standalone_mode=False)
    assert done.exception is None, done.exception
    found: dict[str, Any] = json.loads(done.output)
    return found


def always(model: int) -> Counted:
    matrix = full_matrix("2026-07")
    return Counted(tuple(matrix.queries), matrix.score[:, model], matrix.cost[:, model])


def test_two_real_models_differ() -> None:
    found = pair(always(0), always(1), name="other", draws=300)
    assert found.queries == 809
    assert found.accuracy.one == pytest.approx(52.3356, abs=5e-5)
    assert found.accuracy.difference == pytest.approx(found.accuracy.one - found.accuracy.other)
    assert found.accuracy.low < found.accuracy.difference < found.accuracy.high < 0
    assert found.differ and found.arena_score.high < 0 and found.p < 1e-6


def test_a_router_beside_itself() -> None:
    found = pair(always(0), always(0), name="other", draws=50)
    assert (found.differ, found.p, found.only_one, found.detectable) == (False, 1.0, 0, 0.0)
    assert (found.arena_score.difference, found.arena_score.low, found.arena_score.high) == (0, 0, 0)


def test_only_queries_of_both_count_in_any_order() -> None:
    one = Counted(("a", "b", "c"), np.asarray([1.0, 0.0, 1.0]), np.full(3, 1e-4))
    other = Counted(("c", "x", "a"), np.asarray([0.0, 1.0, 1.0]), np.full(3, 1e-4))
    found = pair(one, other, name="other", draws=20)
    assert (found.queries, found.only_one, found.only_other) == (2, 1, 0)
    with pytest.raises(BadArenaFile, match="no query in common"):
        pair(one, Counted(("y",), np.ones(1), np.ones(1)), name="other")


def test_so_many_queries_show_the_detectable_difference() -> None:
    """Drawn again and again with just that difference, about 80 % of the pairings see it."""
    count = 200
    shift = pair(coins(0.0, count), coins(0.0, count), name="other", draws=10).detectable / 100
    seen = 0
    for _ in range(40):
        found = pair(coins(shift, count), coins(0.0, count), name="other", draws=100)
        seen += not found.accuracy.low <= 0 <= found.accuracy.high
    assert 0.6 < seen / 40 < 0.97


def coins(shift: float, count: int) -> Counted:
    right = (DICE.random(count) < 0.4 + shift).astype(float)
    return Counted(tuple(map(str, range(count))), right, np.full(count, 1e-4))


def separable(priced: bool = True) -> Matrix:
    """The dear model knows everything, the cheap one animals, and which a query is of is in its words."""
    kinds = DICE.integers(2, size=200)
    words = [f"{('cat animal', 'one number')[kind]} {row}" for row, kind in enumerate(kinds.tolist())]
    score = np.stack([kinds == 0, np.ones(200)], axis=1).astype(float)
    cost = np.tile([1e-5, 1e-4] if priced else [np.nan, np.nan], (200, 1))
    return Matrix([f"q_{row}" for row in range(200)], words, [""] * 200, ["cheap", "dear"], score, cost, "made")


def test_a_curve_of_what_can_be_learned() -> None:
    found = curve("logistic", separable())
    assert (found.weak, found.strong) == ("cheap", "dear")
    assert found.aiq is not None and found.aiq_singles is not None
    assert found.aiq > found.aiq_singles + 0.1
    assert [one.cost_per_1k for one in found.points] == sorted(one.cost_per_1k for one in found.points)
    assert found.points[0].cost_per_1k == pytest.approx(0.01)
    assert found.recovery is not None and found.recovery.cpt80 is not None
    assert found.recovery.apgr > 0.7 and found.recovery.cpt80 < 0.5
    assert found.brier < 0.1 and found.calibration_error < 0.2


def test_a_curve_without_costs_or_without_a_gap() -> None:
    found = curve("knn", separable(priced=False))
    assert found.aiq is None and found.points == [] and found.recovery is not None
    assert curve("knn", separable(), weak="dear", strong="cheap").recovery is None
    with pytest.raises(BadRequest, match="one that predicts"):
        curve("random", separable())


def predictions(path: Path, model: int, *, right: float | None = None, count: int = 200) -> Path:
    """A graded prediction file of a real model; `right` instead of its grades."""
    every: list[Object] = []
    for row in [row for row in outcomes() if row["model"] == MODELS[model]][:count]:
        usage = {name: int(row[name]) for name in ("input_tokens", "output_tokens", "total_tokens")}
        result = {"generated_answer": "x", "success": True, "token_usage": usage}
        made = {"global index": row["query"], "prompt": "p", "prediction": row["model"], "generated_result": result}
        grade = float(row["score"]) if right is None else right
        every.append(made | {"cost": float(row["inference_cost"]), "accuracy": grade})
    path.write_text(json.dumps(every))
    return path


def test_what_the_commands_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    haiku, gemini = predictions(tmp_path / "h.json", 0), predictions(tmp_path / "g.json", 1)
    scored = told("score", haiku, "--draws", "100")
    assert scored["low"] < scored["arena_score"] < scored["high"]
    assert scored["worst_domain_accuracy"] < scored["accuracy"]
    pairing = told("compare", haiku, gemini, "--draws", "100")["pairing"]
    assert pairing["queries"] == 200
    assert pairing["arena_score"]["one"] == pytest.approx(scored["arena_score"])
    wrong = predictions(tmp_path / "w.json", 0, right=0.0)
    kept = told("robustness", haiku, wrong)
    share = np.mean([float(row["score"]) < 1 for row in outcomes() if row["model"] == MODELS[0]][:200])
    assert (kept["flips"], kept["outcome_robustness"]) == (0, pytest.approx(100 * share))
    swept = told("curve", HAIKU, ARENA / "gemini-2.0-flash-001.jsonl", "--router", "knn")
    assert swept["comparable"] is False and swept["num_queries"] > 20
    assert 0 < swept["brier"] < 1


def test_outcomes_that_are_not_graded() -> None:
    row: Object = {"global index": "q", "prediction": "m", "accuracy": 1.0}
    graded = Table.of([Prediction(1, row)])
    assert outcomes_kept(graded, Table.of([Prediction(1, row | {"accuracy": None})])) is None
    assert outcomes_kept(graded, graded) == 1
    assert outcomes_kept(replace(graded, for_optimality=np.ones(1, np.bool_)), graded) is None
