# SPDX-License-Identifier: Apache-2.0
"""This test will read RouterArena's files, whole and malformed, and write them back unchanged."""

import json
import math
from pathlib import Path

import pytest

from arena_data import ARENA, HAIKU
from mpsafe.arena.files import Prediction, read_cached, read_config, read_predictions, write
from mpsafe.arena.matrix import from_cached, from_table
from mpsafe.arena.prices import Prices
from mpsafe.arena.validation import validate
from mpsafe.errors import BadArenaFile

ROBUST = sorted(ARENA.glob("*-robustness.json"))


@pytest.mark.parametrize("path", ROBUST, ids=lambda path: path.stem)
def test_a_real_file_goes_out_as_it_came_in(path: Path, tmp_path: Path) -> None:
    rows = read_predictions(path)
    write(tmp_path / "out.json", rows)
    assert (tmp_path / "out.json").read_text() == path.read_text()
    assert all(row.query and row.prompt and row.model and not row.for_optimality for row in rows)


def test_the_other_spellings(tmp_path: Path) -> None:
    row = {"global_index": "q_1", "prompt_formatted": "p", "prediction": "m", "generated_result": {"token_usage": {
        "prompt_tokens": 3, "completion_tokens": 4}}}  # fmt: skip
    path = tmp_path / "old.json"
    path.write_text(json.dumps({"results": [row]}))
    (found,) = read_predictions(path)
    assert (found.query, found.prompt, found.tokens["input_tokens"], found.tokens["output_tokens"]) == (
        "q_1",
        "p",
        3,
        4,
    )


def test_both_forms_of_a_configuration() -> None:
    assert read_config(ARENA / "carrot.json")["gpt-4o"] == 1.436
    assert read_config(ARENA / "carrot.json")["aws-titan-text-premier-v1"] is None
    assert len(read_config(ARENA / "chayan.json")) == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[{", "may be cut short"),
        ('[{"a": 1}, 3]', "row 2: an object is expected"),
        ("[]", "there is no row"),
        ("3", "a JSON array is expected"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_what_is_no_prediction_file(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(BadArenaFile) as raised:
        read_predictions(path)
    assert said in str(raised.value) and "bad.json" in str(raised.value)


def test_cached_results_that_end_too_soon(tmp_path: Path) -> None:
    path = tmp_path / "cut.jsonl"
    path.write_bytes(HAIKU.read_bytes()[:-30])
    with pytest.raises(BadArenaFile, match=r"line 109: .*cut short"):
        read_cached(path)


def odd(**changes: object) -> Prediction:
    usage = {"input_tokens": 1000, "output_tokens": 10, "total_tokens": 1010}
    result = {"generated_answer": "x", "success": True, "token_usage": usage}
    row = {"global index": "q_1", "prompt": "p", "prediction": "gpt-4", "generated_result": result}
    return Prediction(1, row | {"cost": 0.0103, "accuracy": 1.0, "for_optimality": False} | changes)


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"accuracy": True}, "accuracy", "not true"),
        ({"accuracy": "1.0"}, "accuracy", 'not "1.0"'),
        ({"accuracy": 1.5}, "accuracy", "at most 1"),
        ({"cost": math.nan}, "cost", "not NaN"),
        ({"cost": -1}, "cost", "0 or more"),
        ({"cost": 0.5}, "cost", "does not follow from its tokens"),
        ({"prediction": None}, "prediction", "missing"),
        ({"prediction": "gpt-3.5-turbo"}, "prediction", "not in the configuration"),
        ({"prompt": "q"}, "prompt", "not the split's prompt"),
        ({"global index": "q_9"}, "global index", "the split has no q_9"),
        ({"global index": 7}, "global index", "no text"),
        ({"for_optimality": "false"}, "for_optimality", 'not "false"'),
        ({"generated_result": "x"}, "generated_result", "an object or null"),
        ({"generated_result": {"success": "False"}}, "generated_result.success", 'not "False"'),
    ],
)
def test_each_problem_names_row_field_and_reason(changes: dict[str, object], field: str, said: str) -> None:
    prices = Prices.read(ARENA / "cost_2025-11.json")
    known = {"models": {"gpt-4": None}, "prices": prices, "prompts": {"q_1": "p"}}
    assert validate([odd()], **known) == []  # type: ignore[arg-type]  # one call for all checks
    found = validate([odd(**changes)], **known)  # type: ignore[arg-type]  # one call for all checks
    assert any(one.row == 1 and one.field == field and said in one.reason for one in found), found


def test_tokens_twice_and_sizes() -> None:
    usage = {"input_tokens": True, "output_tokens": 0}
    row = odd(generated_result={"generated_answer": "x", "success": True, "token_usage": usage})
    fields = {one.field for one in validate([row])}
    assert fields == {f"generated_result.token_usage.{kind}_tokens" for kind in ("input", "output")}
    assert "already in row 1" in validate([odd(), Prediction(2, odd().raw)])[0].reason
    assert "robustness has 420" in validate([odd()], split="robustness")[0].reason


def test_costs_of_real_files_that_do_not_follow() -> None:
    """Those of r2-router are known not to; those of azure-model-router are."""
    prices = Prices.read(ARENA / "model_cost_2026-07.json")
    found = {path.stem: validate(read_predictions(path), prices=prices) for path in ROBUST}
    assert {one.field for one in found["r2-router-robustness"]} == {"cost"}
    assert found["azure-model-router-robustness"] == []


@pytest.mark.parametrize(
    "entry", ["x", {}, {"input_token_price_per_million": -1}, {"input_token_price_per_million": True}]
)
def test_bad_prices(entry: object, tmp_path: Path) -> None:
    path = tmp_path / "prices.json"
    path.write_text(json.dumps({"m": entry}))
    with pytest.raises(BadArenaFile, match="input_token_price_per_million"):
        Prices.read(path)


def test_tables(tmp_path: Path) -> None:
    wide = tmp_path / "wide.csv"
    wide.write_text('prompt,weak,strong,domain\n"a\nb",True,False,x\nc,False,True,y\n')
    found = from_table(wide)
    assert (found.models, found.score.tolist(), found.domains) == (["weak", "strong"], [[1, 0], [0, 1]], ["x", "y"])
    long = tmp_path / "long.csv"
    long.write_text("query,model,score,cost\nq,a,1,0.5\nq,b,0.25,0.1\nr,b,0,0.1\nr,a,1,0.5\n")
    found = from_table(long)
    assert (found.queries, found.score.tolist(), found.cost.tolist()) == (
        ["q", "r"],
        [[1, 0.25], [1, 0]],
        [[0.5, 0.1]] * 2,
    )
    long.write_text("query,model,score\nq,a,1\nq,b,0.25\nr,b,0\n")
    with pytest.raises(BadArenaFile, match="a has no score"):
        from_table(long)
    long.write_text("query,model,score\nq,a,1\nq,a,1\n")
    with pytest.raises(BadArenaFile, match="two rows of one model"):
        from_table(long)
    long.write_text("x,y\n1,2\n")
    with pytest.raises(BadArenaFile, match="query, model and score"):
        from_table(long)


def test_a_matrix_of_real_results() -> None:
    found = from_cached([HAIKU, ARENA / "gemini-2.0-flash-001.jsonl"])
    assert found.ours and found.models[0] == "claude-3-haiku-20240307"
    with pytest.raises(BadArenaFile, match="same model"):
        from_cached([HAIKU, HAIKU])
