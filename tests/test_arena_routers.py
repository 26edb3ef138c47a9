# SPDX-License-Identifier: Apache-2.0
"""This test will let each router of the arena choose, from a router to the board, as the README says."""

import functools
import http.server
import json
import re
import shlex
import shutil
import threading
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from typing_extensions import override

from arena_data import ARENA, HAIKU, MODELS
from mpsafe.arena.choices import commitment_path
from mpsafe.arena.files import read_predictions
from mpsafe.arena.frontier import losses
from mpsafe.arena.matrix import Matrix, Picks, figures
from mpsafe.arena.routers import FIXED, LEARNED, NAMES, Query, Router, held_out, make, trained
from mpsafe.arena.routers.learned import learn
from mpsafe.cli import cli
from mpsafe.errors import BadArenaFile, BadRequest, NotComparable

README = Path(__file__).parent.parent / "README.md"
GEMINI = ARENA / "gemini-2.0-flash-001.jsonl"
DICE = np.random.default_rng(1)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["arena", *map(str, arguments)], standalone_mode=False)


def separable(ours: bool = False) -> Matrix:
    """200 queries; the cheap model knows those of animals, the dear one those of numbers, and which is in the words."""
    kinds = DICE.integers(2, size=200)
    words = ((["cat", "dog", "horse"], "animal"), (["one", "two", "three"], "number"))
    prompts = [f"{words[kind][0][row % 3]} {words[kind][1]} {row}" for row, kind in enumerate(kinds.tolist())]
    score = np.stack([kinds == 0, kinds == 1], axis=1).astype(float)
    cost = np.tile([1e-5, 1e-4], (200, 1))
    return Matrix(
        [f"q_{row}" for row in range(200)], prompts, ["d"] * 200, ["cheap", "dear"], score, cost, "made", ours
    )


MATRIX = separable()


@functools.cache
def chosen(name: str) -> Picks:
    return held_out(name, MATRIX)


@pytest.mark.parametrize("name", NAMES)
def test_each_router_picks_for_each_query(name: str) -> None:
    picks = chosen(name)
    assert picks.shape == (200,)
    assert set(picks.tolist()) <= {0, 1}


@pytest.mark.parametrize("name", ["random", "irt"])
def test_the_same_seed_gives_the_same_picks(name: str) -> None:
    assert np.array_equal(chosen(name), held_out(name, MATRIX))


@pytest.mark.parametrize("name", ["knn", "logistic", "mf", "cascade"])
def test_what_can_be_learned_is_learned(name: str) -> None:
    assert figures(MATRIX, chosen(name)).accuracy > 0.9


def test_nobody_beats_the_oracle() -> None:
    best = figures(MATRIX, chosen("oracle")).accuracy
    assert all(figures(MATRIX, chosen(name)).accuracy <= best for name in (*FIXED, *LEARNED))
    assert losses(MATRIX, chosen("oracle")).gap == 0


def test_fixed_routers() -> None:
    assert set(held_out("cheapest", MATRIX).tolist()) == {0}
    assert held_out("round-robin", MATRIX).tolist() == [0, 1] * 100
    assert held_out("always:dear", MATRIX).tolist() == [1] * 200
    with pytest.raises(BadRequest, match="cheap, dear"):
        held_out("always:nobody", MATRIX)
    with pytest.raises(BadRequest, match="one of"):
        held_out("nonsense", MATRIX)


def test_learning_from_the_arena_is_refused() -> None:
    with pytest.raises(NotComparable, match="200 of the training queries"):
        make("knn", separable(ours=True))
    assert make("knn", separable(ours=True), not_comparable=True).route(Query("q", "cat animal")) == "cheap"


@pytest.mark.parametrize("name", LEARNED)
def test_a_trained_router_is_the_same_from_its_file(name: str, tmp_path: Path) -> None:
    made = learn(name, MATRIX, seed=3)
    told = trained.save(tmp_path / "r", made, seed=3, queries=200, trained_on="made", comparable=True)
    found, about = trained.load(tmp_path / "r")
    assert about == told and about.models == MATRIX.models
    asked = [Query("q", prompt) for prompt in ("a cat animal", "two number", "", "nothing known")]
    assert [found.route(query) for query in asked] == [made.route(query) for query in asked]
    assert all(np.array_equal(found.predict(query), made.predict(query)) for query in asked)


def test_what_is_no_trained_router(tmp_path: Path) -> None:
    made = learn("logistic", MATRIX, seed=0)
    path = tmp_path / "r"
    trained.save(path, made, seed=0, queries=200, trained_on="made", comparable=True)
    whole = path.read_bytes()
    made.models = ["cheap", "dear", "third"]
    trained.save(path, made, seed=0, queries=200, trained_on="made", comparable=True)
    for data in (path.read_bytes(), whole[:-30], b"", b"x" * 100):
        path.write_bytes(data)
        with pytest.raises(BadArenaFile, match="it is no trained router"):
            trained.load(path)


def test_training_once_and_routing_later(place: Path) -> None:
    table = place / "table.csv"
    rows = [f"q_{row},{'cat' if row % 2 else 'one'},{model},{int((model == 'a') == (row % 2 == 1))}"
            for row in range(20) for model in "ab"]  # fmt: skip
    table.write_text("query,prompt,model,score\n" + "\n".join(rows) + "\n")
    done = run("train", "knn", table, "--out", place / "knn.router")
    assert done.exception is None and "trained on 20 queries" in done.output
    choices = place / "choices.json"
    words = ("route", f"trained:{place / 'knn.router'}", "--suite", place / "suite.json", "--out", choices)
    assert run(*words).exception is None
    assert json.loads(commitment_path(choices).read_text())["comparable"] is True
    assert {row.model for row in read_predictions(choices)} <= {"a", "b"}
    assert isinstance(run(*words, "--train", table).exception, BadRequest)
    refused = run("train", "knn", place / "haiku.jsonl", place / "gemini.jsonl", "--out", place / "ours.router")
    assert isinstance(refused.exception, NotComparable)
    ours = ("train", "knn", place / "haiku.jsonl", place / "gemini.jsonl", "--not-comparable", "--out")
    assert run(*ours, place / "ours.router").exception is None
    assert run("route", f"trained:{place / 'ours.router'}", *words[2:]).exception is None
    assert json.loads(commitment_path(choices).read_text())["comparable"] is False


class LastRouter(Router):
    """A plugin."""

    def __init__(self, models: list[str]) -> None:
        self._models = models

    @override
    def route(self, query: Query) -> str:
        return self._models[-1] if query.prompt else self._models[0]


def test_a_plugin_is_one_method() -> None:
    assert held_out(f"{__name__}:{LastRouter.__name__}", MATRIX).tolist() == [1] * 200


@pytest.fixture(name="place")
def tutorial_files(tmp_path: Path) -> Path:
    """The files that the README names: a suite of 30 queries that both models have answered."""
    rows = {
        path: {row["global_index"]: row for row in map(json.loads, path.read_text().splitlines())}
        for path in (HAIKU, GEMINI)
    }
    both = sorted(rows[HAIKU].keys() & rows[GEMINI].keys())[:30]
    for path, name in ((HAIKU, "haiku.jsonl"), (GEMINI, "gemini.jsonl")):
        (tmp_path / name).write_text("".join(json.dumps(rows[path][query]) + "\n" for query in both))
    (tmp_path / "suite.json").write_text(
        json.dumps([{"global index": q, "prompt_formatted": f"What of {q}?"} for q in both])
    )
    (tmp_path / "config.json").write_text(json.dumps({"pipeline_params": {"router_name": "r", "models": MODELS}}))
    shutil.copy(ARENA / "cost_2025-11.json", tmp_path / "prices.json")
    return tmp_path


def test_the_tutorial(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    block = README.read_text().split("<!-- arena-tutorial -->")[1].split("```")[1]
    commands = re.findall(r"^\$ mpsafe arena (.+)$", block, re.MULTILINE)
    assert len(commands) == 6
    for command in commands:
        done = run(*shlex.split(command, comments=True))
        assert done.exception is None, (command, done.exception)
        assert not done.return_value, (command, done.output)
    rows = json.loads((place / "board" / "board.json").read_text())["rows"]
    by_name = {row["name"]: row for row in rows}
    assert {"graded", "oracle"} <= by_name.keys()
    assert by_name["oracle"]["decision_p50_ms"] is None
    assert 0 < by_name["graded"]["decision_p50_ms"] <= by_name["graded"]["decision_p95_ms"]


def test_choices_that_were_changed_are_refused(place: Path) -> None:
    choices = place / "choices.json"
    run("route", "random", "--suite", place / "suite.json", "--config", place / "config.json", "--out", choices)
    rows = json.loads(choices.read_text())
    rows[0]["prediction"] = next(model for model in MODELS if model != rows[0]["prediction"])
    choices.write_text(json.dumps(rows))
    found = run("run", choices, "--recorded", place / "haiku.jsonl", "--out", place / "answers.json")
    assert isinstance(found.exception, BadArenaFile)
    assert "its choices are not those that were committed to" in str(found.exception)


class Model(http.server.BaseHTTPRequestHandler):
    """An endpoint in OpenAI's shape, which fails for one prompt while `broken` is set."""

    asked: list[str]
    broken = False

    def do_POST(self) -> None:
        told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = told["messages"][0]["content"]
        self.asked.append(prompt)
        if self.broken and len(self.asked) > 20:
            self.send_error(503)
            return
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        said = json.dumps({"choices": [{"message": {"content": "\\boxed{A}"}}], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture(name="endpoint")
def served() -> Generator[str, None, None]:
    Model.asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Model) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()
        thread.join()


def test_a_run_goes_on_where_it_was(place: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    choices, out = place / "choices.json", place / "answers.json"
    run("route", "round-robin", "--suite", place / "suite.json", "--config", place / "config.json", "--out", choices)
    monkeypatch.setattr(Model, "broken", True)
    done = run("run", choices, "--endpoint", endpoint, "--out", out, "--parallel", "1")
    assert "20 answers, 10 failed" in done.output
    failed = [row.generated for row in read_predictions(out)][-1]
    assert failed is not None and failed["success"] is False and "503" in failed["error"]
    monkeypatch.setattr(Model, "broken", False)
    journal = out.with_name(out.name + ".journal")
    kept = [json.dumps([row.number, row.query, row.generated]) for row in read_predictions(out)]
    journal.write_text("\n".join(kept) + "\n[7, ")
    Model.asked.clear()
    done = run("run", choices, "--endpoint", endpoint, "--out", out, "--parallel", "2")
    assert "30 answers, 0 failed" in done.output
    assert len(Model.asked) == 10
    assert "an answer took" in done.output
    assert not journal.exists()
    assert [row.tokens["output_tokens"] for row in read_predictions(out)] == [3] * 30


def test_a_suite_is_built_balanced_and_checked(tmp_path: Path) -> None:
    outcomes = ARENA / "outcomes.csv"
    queries = dict.fromkeys(line.partition(",")[0] for line in outcomes.read_text().splitlines()[1:])
    table, made = tmp_path / "table.csv", tmp_path / "suite.jsonl"
    table.write_text("query,prompt,truth\n" + "".join(f"{query},Question: how many apples?,1\n" for query in queries))
    arguments = ("suite", "build", table, "--outcomes", outcomes, "--per-class", "10", "--out", made)
    assert run(*arguments).exception is None
    first = made.read_bytes()
    run(*arguments)
    assert made.read_bytes() == first
    run(*arguments, "--seed", "1")
    assert made.read_bytes() != first
    made.write_bytes(first)
    assert {json.loads(line)["bloom"] for line in first.splitlines()} == {"apply"}
    found = run("suite", "check", made, "--outcomes", outcomes)
    assert found.return_value == 0, found.output
    assert "easy" not in found.output and "difficulty: claude-3-haiku-20240307" in found.output
    lines = [line for line in first.splitlines(keepends=True) if b'"history"' not in line]
    made.write_bytes(b"".join(lines))
    found = run("suite", "check", made)
    assert found.return_value == 1 and "no query of: history" in found.output
