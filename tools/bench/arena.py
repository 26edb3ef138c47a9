# SPDX-License-Identifier: Apache-2.0
"""The arena against its bounds: files of RouterArena's size, made from the recorded outcomes of the tests.

Rows are real outcomes of two models, repeated under new ids and with texts of real length; no figure here says
anything of a router. Baselines are bounds, and where there is one, the same work done as RouterArena's code does it.
"""

import csv
import functools
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from mpsafe.arena.board.inputs import Inputs, add, keep, save
from mpsafe.arena.board.page import update
from mpsafe.arena.choices import names_only
from mpsafe.arena.files import read_cached, read_predictions
from mpsafe.arena.grading.families import CODE, metric_of
from mpsafe.arena.live.host import SERVED
from mpsafe.arena.live.state import HostState, Outstanding
from mpsafe.arena.matrix import Matrix
from mpsafe.arena.prices import Prices
from mpsafe.arena.regrade import regrade
from mpsafe.arena.routers import Query, make
from mpsafe.arena.routers.aware import StateAware
from mpsafe.arena.scoring import arena_score, score_path
from mpsafe.arena.validation import validate
from mpsafe.demo.daemon import Daemon
from mpsafe.demo.hosts import SoftwareGpu
from tools.bench.rows import Row, report

__all__ = ["main"]

DATA: Final = Path("tests/data/arena")
PRICES: Final = DATA / "cost_2025-11.json"
CACHED: Final = DATA / "claude-3-haiku-20240307.jsonl"
QUERIES: Final = 8400
OTHERS: Final = 4600
ROUTERS: Final = 50
TEXT: Final = "An answer of the usual length, which a router's file holds beside its prompt. " * 9


def main() -> None:
    """Makes the files, measures, and prints."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        os.environ["XDG_CACHE_HOME"] = os.fspath(place / "home")
        rows = [*_one_router(place), *_grading(place), *_board(place), *_decisions(), _live(place)]
    report("arena", "no GPU", rows)


def _one_router(place: Path) -> list[Row]:
    path, prices = place / "router.json", Prices.read(PRICES)
    path.write_text(json.dumps(_predictions(0, others=OTHERS), indent=2, ensure_ascii=False), encoding="utf-8")
    size = f"{path.stat().st_size / 1e6:.1f} MB, {QUERIES + OTHERS} rows"
    cold = _seconds(lambda: score_path(path, prices=prices, rules="2026-07"))
    cache = place / "cache"
    score_path(path, prices=prices, rules="2026-07", cache=cache)
    warm = statistics.median(
        _seconds(lambda: score_path(path, prices=prices, rules="2026-07", cache=cache)) for _ in range(5)
    )
    plain = _seconds(lambda: _row_by_row(path))
    rows = read_predictions(path)
    return [
        Row(f"score one router, {size}, cold", cold, "s", "bound", 1.0),
        Row(f"score one router, {size}, cold", cold, "s", "json.load, row by row, score only", plain),
        Row("the same again, from the cache", warm * 1e3, "ms", "bound", 50.0),
        Row(f"validate {len(rows)} rows", _seconds(lambda: validate(rows, prices=prices)), "s", "bound", 1.0),
    ]


def _grading(place: Path) -> list[Row]:
    real = [json.loads(line) for line in CACHED.read_text().splitlines()]
    real = [row for row in real if metric_of(row["global_index"]) != CODE]
    path = place / "many.jsonl"
    many = [
        real[row % len(real)] | {"global_index": f"{real[row % len(real)]['global_index']}_{row}"}
        for row in range(QUERIES)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in many))
    took = _seconds(lambda: regrade(read_cached(path), seconds=10, workers=1))
    return [Row(f"regrade {QUERIES} rows without code, one grader of mathematics", took, "s", "bound", 6.0)]


def _board(place: Path) -> list[Row]:
    board = place / "board"
    inputs = replace(Inputs(), prices=keep(board, PRICES))
    for router in range(ROUTERS):
        path = place / f"router{router}.json"
        path.write_text(json.dumps(_predictions(router, others=0)), encoding="utf-8")
        inputs = add(board, inputs, path)
        path.unlink()
    save(board, inputs)
    cold = _seconds(lambda: update(board))
    warm = _seconds(lambda: update(board))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    name = f"board of {ROUTERS} routers x {QUERIES} queries, 1000 draws, page"
    return [
        Row(f"{name}, with the cache of tables", warm, "s", "bound", 10.0),
        Row(f"{name}, first time", cold, "s", "bound", 10.0),
        Row("peak memory of all of this benchmark", peak, "GB", "bound", 1.5),
    ]


def _decisions() -> list[Row]:
    dice = np.random.default_rng(0)
    words = [f"word{number}" for number in range(5000)]
    prompts = [" ".join(dice.choice(words, 120)) for _ in range(2000)]
    score = (dice.random((2000, 10)) < 0.6).astype(np.float64)
    ids = [f"q_{row}" for row in range(2000)]
    known = Matrix(ids, prompts, [""] * 2000, [f"m{one}" for one in range(10)], score, dice.random((2000, 10)), "made")
    rows: list[Row] = []
    for name in ("knn", "logistic", "mf", "irt"):
        router = make(name, known)
        took = [_seconds(functools.partial(router.route, Query("q", prompt))) for prompt in prompts[:500]]
        rows.append(Row(f"a decision of {name}, 120 words, p50", statistics.median(took) * 1e3, "ms", "bound", 1.0))
    return rows


def _live(place: Path) -> Row:
    """A decision that looks at a real status page; the models are known to mpsafed and do not run."""
    models = [*SERVED]
    with SoftwareGpu(place / "gpu") as host:
        host.start_mps()
        with Daemon(host, place, models) as daemon, HostState(daemon.socket, Outstanding()) as state:
            router = StateAware(make("random", names_only(models)), models, state.look)
            took = [_seconds(functools.partial(router.route, Query("q", f"prompt {one}"))) for one in range(2000)]
    return Row("a state-aware decision over a status page, p50", statistics.median(took) * 1e3, "ms", "bound", 1.0)


def _predictions(seed: int, *, others: int) -> list[dict[str, Any]]:
    with (DATA / "outcomes.csv").open(newline="") as lines:
        outcomes = list(csv.DictReader(lines))
    dice = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for row in range(QUERIES + others):
        taken = outcomes[int(dice.integers(len(outcomes)))]
        usage = {name: int(taken[name]) for name in ("input_tokens", "output_tokens", "total_tokens")}
        result = {"generated_answer": TEXT, "success": True, "token_usage": usage, "provider": "x", "error": None}
        made = {"global index": f"MMLU_{row % QUERIES}", "prompt": TEXT, "prediction": taken["model"]}
        if row >= QUERIES:
            made["prediction"] = "gpt-4.1"
        rows.append(made | {"generated_result": result, "cost": float(taken["inference_cost"]),
                            "accuracy": float(taken["score"]), "for_optimality": row >= QUERIES})  # fmt: skip
    return rows


def _row_by_row(path: Path) -> float:
    """The score alone, as RouterArena's compute_router_metrics goes about it: stored costs, no optimality, no check."""
    regular = [row for row in json.loads(path.read_text(encoding="utf-8")) if not row.get("for_optimality", False)]
    accuracies = [row["accuracy"] for row in regular if row["accuracy"] is not None]
    total = sum(row["cost"] for row in regular if row["cost"] is not None and row["cost"] > 0)
    return arena_score(sum(accuracies) / len(accuracies), total / len(regular) * 1000)


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
