# SPDX-License-Identifier: Apache-2.0
"""This test will hold the arena's figures against published ones, and against a plain second implementation."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arena_data import ARENA, MODELS, full_matrix, outcomes
from mpsafe.arena import scoring
from mpsafe.arena.files import Object, Prediction
from mpsafe.arena.matrix import Matrix, figures
from mpsafe.arena.prices import Prices, Rules
from mpsafe.arena.routers.oracles import oracle
from mpsafe.arena.scoring import Score, arena_score, latency_score, score, score_path
from mpsafe.arena.table import Table, columns, load
from mpsafe.errors import BadArenaFile, BadRequest


def rows(name: str) -> list[dict[str, str]]:
    with (ARENA / name).open(newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.parametrize(
    "row", [row for row in rows("flips.csv") if row["published_robustness"]], ids=lambda r: r["router"]
)
def test_published_robustness(row: dict[str, str]) -> None:
    flips, matches = int(row["flips"]), int(row["matched_rows"])
    full = {str(query): "a" for query in range(matches)}
    other = [(str(query), "b" if query < flips else "a") for query in range(matches)] + [("0", ""), ("none", "a")]
    found = scoring.robustness(full, other, "file")
    assert (found.flips, found.matches) == (flips, matches)
    assert f"{100 * found.score:.2f}" == f"{float(row['published_robustness']):.2f}"


def test_published_arena_scores() -> None:
    """Within what the rounding of the printed accuracy, cost and score allows."""
    printed = [row for row in rows("leaderboard.csv") if row["accuracy"] and row["cost_per_1k"]]
    for row in printed:
        accuracy, cost, wanted = (float(row[name]) for name in ("accuracy", "cost_per_1k", "arena"))
        low = 100 * arena_score((accuracy - 0.005) / 100, cost + 0.005)
        high = 100 * arena_score((accuracy + 0.005) / 100, cost - 0.005)
        assert low - 0.005 <= wanted <= high + 0.005, row["router"]
    assert len(printed) > 20


def test_costs_of_each_row() -> None:
    prices = Prices.read(ARENA / "cost_2025-11.json")
    phantom = 0
    for row in outcomes():
        entry = prices.find(row["model"])
        assert entry is not None
        used = (float(row["input_tokens"]), float(row["output_tokens"]), float(row["total_tokens"]))
        assert math.isclose(entry[1].of(used, "2025-11"), float(row["inference_cost"]), abs_tol=1e-15)
        phantom += entry[1].of(used, "2026-07") > entry[1].of(used, "2025-11")
    assert phantom == 374


@pytest.mark.parametrize(
    ("rules", "opt_cost", "oracle_cost", "oracle_score"),
    [("2025-11", 37.0879, 0.056783, 74.2611), ("2026-07", 37.2023, 0.056957, 74.2587)],
)
def test_two_real_models(rules: Rules, opt_cost: float, oracle_cost: float, oracle_score: float) -> None:
    matrix = full_matrix(rules)
    always = figures(matrix, np.zeros(len(matrix), np.intp))
    assert always.optimality is not None and always.arena_score is not None
    assert 100 * always.accuracy == pytest.approx(52.3356, abs=5e-5)
    assert always.cost_per_1k == pytest.approx(0.175992, abs=5e-7)
    assert 100 * always.arena_score == pytest.approx(53.3159, abs=5e-5)
    assert 100 * always.optimality.opt_sel == pytest.approx(7.1048, abs=5e-5)
    assert 100 * always.optimality.opt_cost == pytest.approx(opt_cost, abs=5e-5)
    assert 100 * always.optimality.opt_acc == pytest.approx(70.5242, abs=5e-5)
    assert (always.optimality.queries, len(matrix)) == (563, 809)
    picks = oracle(matrix)
    best = figures(matrix, picks)
    assert best.arena_score is not None and best.optimality is not None
    assert int((picks == 0).sum()) == 59
    assert 100 * best.accuracy == pytest.approx(74.0773, abs=5e-5)
    assert best.cost_per_1k == pytest.approx(oracle_cost, abs=5e-7)
    assert 100 * best.arena_score == pytest.approx(oracle_score, abs=5e-5)
    assert (best.optimality.opt_sel, best.optimality.opt_cost, best.optimality.opt_acc) == (1, 1, 1)


def prediction(query: str, model: str, accuracy: object, cost: object, **other: object) -> Object:
    usage = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    result = {"generated_answer": "x", "success": True, "token_usage": usage}
    row = {"global index": query, "prompt": "p", "prediction": model, "generated_result": result}
    return row | {"accuracy": accuracy, "cost": cost} | other


def scored(every: list[Object], rules: Rules = "2026-07") -> Score:
    return score(Table.of([Prediction(number, raw) for number, raw in enumerate(every, 1)]), name="f.json", rules=rules)


def brute(matrix: Matrix, picks: list[int]) -> tuple[float, float, float, float, float, float]:
    """RouterArena's six figures, query by query, from the words of the rules."""
    right = wrong_sel = 0
    money = cost_best = cost_own = accuracy_best = accuracy_own = accuracy = 0.0
    for query, pick in enumerate(picks):
        own, paid = matrix.score[query, pick], matrix.cost[query, pick]
        accuracy += own
        money += paid if paid > 0 else 0
        pool = [pick, *(model for model in range(len(matrix.models)) if model != pick)]
        best = None
        for model in pool:
            if matrix.score[query, model] >= 1 and (
                best is None or matrix.cost[query, model] < matrix.cost[query, best]
            ):
                best = model
        if best is None or (own == 0 and paid == 0):
            continue
        wrong_sel += not (own >= 1 and best == pick)
        right += own >= 1 and best == pick
        accuracy_best += matrix.score[query, best]
        accuracy_own += own
        if own >= 1:
            cost_best += matrix.cost[query, best]
            cost_own += paid
    count, per_1k = len(picks), money / len(picks) * 1000
    cheap = (math.log2(200) - math.log2(min(max(per_1k, 0.0044), 200))) / (math.log2(200) - math.log2(0.0044))
    mean = accuracy / count
    total = 1.1 * mean * cheap / (0.1 * mean + cheap) if mean + cheap > 0 else 0.0
    sel = right / (right + wrong_sel) if right + wrong_sel else 0.0
    return (
        *(mean, per_1k, total, sel),
        *(cost_best / cost_own if cost_own > 0 else 0.0, accuracy_own / accuracy_best if accuracy_best else 0.0),
    )


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_both_ways_and_a_third_agree(data: st.DataObject) -> None:
    """The vectorised figures, those of a written file, and the plain ones, on the same random matrix and picks."""
    queries, models = data.draw(st.integers(1, 12)), data.draw(st.integers(2, 5))
    grades = st.sampled_from([0.0, 0.25, 1.0])
    costs = st.sampled_from([0.0, 1e-6, 2e-6, 3e-3, 0.5])
    score_of = np.asarray([[data.draw(grades) for _ in range(models)] for _ in range(queries)])
    cost_of = np.asarray([[data.draw(costs) for _ in range(models)] for _ in range(queries)])
    picks = [data.draw(st.integers(0, models - 1)) for _ in range(queries)]
    if not any(cost_of[query, pick] > 0 for query, pick in enumerate(picks)):
        cost_of[0, picks[0]] = 1e-6
    names = [f"m{model}" for model in range(models)]
    ids = [f"q_{query}" for query in range(queries)]
    matrix = Matrix(ids, ids, [""] * queries, names, score_of, cost_of, "random")
    wanted = brute(matrix, picks)
    found = figures(matrix, np.asarray(picks, np.intp))
    assert found.optimality is not None and found.cost_per_1k is not None and found.arena_score is not None
    marks = found.optimality
    vector = (found.accuracy, found.cost_per_1k, found.arena_score, marks.opt_sel, marks.opt_cost, marks.opt_acc)
    assert vector == pytest.approx(wanted)
    every = [prediction(ids[q], names[p], float(score_of[q, p]), float(cost_of[q, p])) for q, p in enumerate(picks)]
    for query, pick in enumerate(picks):
        others = [model for model in range(models) if model != pick]
        every += [
            prediction(ids[query], names[m], float(score_of[query, m]), float(cost_of[query, m]), for_optimality=True)
            for m in others
        ]
    told = scored(every)
    assert told.optimality is not None
    written = (told.accuracy, told.cost_per_1k, told.arena_score)
    assert (*written, told.optimality.opt_sel, told.optimality.opt_cost, told.optimality.opt_acc) == pytest.approx(
        wanted
    )


ODD_RESULTS = [
    {"success": "False", "token_usage": {"output_tokens": 5}},
    {"success": True, "token_usage": {"output_tokens": 0}},
    {"success": True, "token_usage": {"output_tokens": True}},
    {"success": True, "token_usage": None},
    None,
]


@pytest.mark.parametrize("result", ODD_RESULTS)
def test_an_abnormal_row_counts_as_wrong(result: object) -> None:
    odd = prediction("q_2", "m", 1.0, 0.5) | {"generated_result": result}
    found = scored([prediction("q_1", "m", 1.0, 0.001), odd])
    assert (found.accuracy, found.abnormal, found.queries) == (0.5, 1, 2)
    assert found.cost_per_1k == pytest.approx(0.5)
    before = scored([prediction("q_1", "m", 1.0, 0.001), odd], "2025-11")
    assert (before.accuracy, before.abnormal) == (1.0, 0)


@pytest.mark.parametrize("accuracy", [True, "1.0", None])
def test_an_accuracy_that_is_no_number_is_abnormal(accuracy: object) -> None:
    found = scored([prediction("q_1", "m", 1.0, 0.001), prediction("q_2", "m", accuracy, 0.001)])
    assert (found.accuracy, found.abnormal) == (0.5, 1)


@pytest.mark.parametrize(
    ("every", "said"),
    [
        ([prediction("q_1", "m", 1.0, 0.1), prediction("q_1", "n", 1.0, 0.1)], "row 2: the query q_1 is there twice"),
        ([prediction("q_1", "m", math.nan, 0.1)], "row 1, accuracy"),
        ([prediction("q_1", "m", 1.0, math.inf)], "row 1, cost"),
        ([prediction("q_1", "m", 1.0, "0.1")], "row 1, cost"),
        ([prediction("q_1", "m", 2.0, 0.1)], "row 1, accuracy"),
        ([prediction("", "m", 1.0, 0.1)], "row 1: it has no global index"),
        ([prediction("q_1", "m", None, 0.1)], "no row is graded"),
        ([prediction("q_1", "m", 1.0, 0.0)], "no row has a cost above 0"),
    ],
)
def test_what_cannot_be_scored_is_refused(every: list[Object], said: str) -> None:
    with pytest.raises(BadArenaFile) as raised:
        scored(every)
    assert said in str(raised.value)


def test_models_without_a_price_are_named(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps([prediction("q_1", "gpt-4o-2030", 1, None), prediction("q_2", "nobody", 1, None)]))
    found = score_path(path, prices=Prices.read(ARENA / "cost_2025-11.json"), rules="2026-07")
    assert found.unpriced == ("nobody",)
    assert found.guessed == (("gpt-4o-2030", "gpt-4"),)


def test_a_table_from_the_cache_is_the_same(tmp_path: Path) -> None:
    path, cache = tmp_path / "r.json", tmp_path / "cache"
    path.write_text(
        json.dumps([prediction("q_1", "m", 1.0, 0.1), prediction("q_2", "m", None, "x", for_optimality=True)])
    )
    first = load(path, cache=cache)
    assert len(list(cache.glob("*.parquet"))) == 1
    again = load(path, cache=cache)
    assert same(first, again)
    next(cache.glob("*.parquet")).write_bytes(b"broken")
    assert load(path, cache=cache).query == ["q_1", "q_2"]


NUMBERS = ("accuracy", "cost", "used")


def same(one: Table, other: Table) -> bool:
    return all(
        np.array_equal(np.asarray(getattr(one, name)), np.asarray(getattr(other, name)), equal_nan=name in NUMBERS)
        for name in Table.__dataclass_fields__
    )


ODD_VALUES: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, False, 0, 1, 0.5, -1, 1e308, 10**400, "1.0", "", "q", [], {}]
)
ODD_USAGE: st.SearchStrategy[Any] = st.one_of(
    ODD_VALUES, st.fixed_dictionaries({"input_tokens": ODD_VALUES, "output_tokens": ODD_VALUES})
)
ODD_RESULT: st.SearchStrategy[Any] = st.one_of(
    ODD_VALUES, st.fixed_dictionaries({"success": ODD_VALUES, "token_usage": ODD_USAGE})
)
ODD_ROWS: st.SearchStrategy[Object] = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("global index", "global_index", "prediction", "for_optimality"), ODD_VALUES),
        **dict.fromkeys(("accuracy", "cost"), ODD_VALUES),
        "generated_result": ODD_RESULT,
    },
)


@settings(max_examples=200, deadline=None)
@given(st.lists(ODD_ROWS, min_size=1, max_size=3))
def test_both_readings_of_a_file_are_the_same(every: list[Object]) -> None:
    found = columns(json.dumps(every).encode())
    rows = [Prediction(number, raw) for number, raw in enumerate(every, 1)]
    assert found is None or same(found, Table.of(rows))


def test_what_is_read_in_which_way() -> None:
    data = (ARENA / "azure-model-router-robustness.json").read_bytes()
    found = columns(data)
    assert found is not None and len(found) == 6
    assert columns(json.dumps([prediction("q", "m", math.nan, 1)]).encode()) is None
    assert columns(b'[{"prompt": "\xff"}]') is None
    assert columns(b"[]") is None


def test_latency_score() -> None:
    assert latency_score(11.1) == pytest.approx(90.909, abs=1e-3)
    with pytest.raises(BadRequest):
        latency_score(10)


def test_models_of_the_matrix() -> None:
    assert full_matrix("2026-07").models == list(MODELS)
