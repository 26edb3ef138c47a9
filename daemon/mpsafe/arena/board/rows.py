# SPDX-License-Identifier: Apache-2.0
"""The rows of a board, computed from its inputs: RouterArena's figures, with intervals and groups of equals."""

import csv
import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np

from mpsafe.arena.board.inputs import Entry, Inputs, digest_of, place
from mpsafe.arena.board.live import LiveRow, live_rows
from mpsafe.arena.counted import counted
from mpsafe.arena.domains import class_of
from mpsafe.arena.files import read_predictions
from mpsafe.arena.frontier import pareto
from mpsafe.arena.matrix import Floats, Matrix, Picks, figures, from_cached
from mpsafe.arena.prices import Prices
from mpsafe.arena.routers import held_out
from mpsafe.arena.scoring import Optimality, arena_score, latency_score, robustness, score
from mpsafe.arena.statistics import bootstrap, interval, rank_intervals, tie_groups
from mpsafe.arena.table import cache_directory
from mpsafe.arena.table import load as load_table
from mpsafe.errors import BadArenaFile

__all__ = ["Board", "Row", "build"]

RECORDED: Final = ("oracle", "domain-oracle", "random")
LEVELS: Final = ("easy", "medium", "hard")
POOL_LEAST: Final = 3


@dataclass(frozen=True, slots=True)
class Row:
    """One router; per cent and dollars, None where a figure is not known, never 0.

    `kind`: scored (from its file), recorded (over cached results) or published (as printed). `group`: routers of one
    group cannot be told apart, None for what is not comparable; `ranks`: where it lies in 95 % of the draws. `front`:
    no other is cheaper and more accurate. `decision_p50_ms`, `decision_p95_ms`: measured when it chose.
    `latency_score`: as published, or by that formula from 10 ms on, below which it has no sense. `cells`: accuracy by
    class and difficulty, with the number of queries.
    """

    name: str
    kind: str
    affiliation: str
    arena_score: float
    accuracy: float
    cost_per_1k: float
    low: float | None = None
    high: float | None = None
    group: int | None = None
    ranks: tuple[int, int] | None = None
    opt_sel: float | None = None
    opt_cost: float | None = None
    opt_acc: float | None = None
    decision_p50_ms: float | None = None
    decision_p95_ms: float | None = None
    latency_score: float | None = None
    robustness: float | None = None
    queries: int | None = None
    abnormal: int | None = None
    comparable: bool = True
    front: bool = False
    rules: str = ""
    prices: str | None = None
    source: str = ""
    cells: dict[str, dict[str, tuple[float, int]]] = field(
        default_factory=lambda: dict[str, dict[str, tuple[float, int]]]()
    )


@dataclass(frozen=True, slots=True)
class Board:
    """All rows, best first, and what they follow from."""

    rules: str
    beta: float
    seed: int
    draws: int
    prices: str | None
    suite: str
    rows: list[Row]
    notes: list[str]
    live: list[LiveRow]


@dataclass(frozen=True, slots=True)
class _Judged:
    """A row with its queries: accuracy and dollars of each, in the file's order."""

    row: Row
    queries: tuple[str, ...]
    accuracy: Floats
    cost: Floats


def build(board: Path, inputs: Inputs, *, cache: Path | None = None) -> Board:
    """The board that follows from its inputs. BadArenaFile where one of them cannot be scored."""
    prices = Prices.read(place(board, inputs.prices)) if inputs.prices else None
    judged = [
        _from_file(board, entry, inputs, prices, cache) for entry in inputs.entries if entry.kind == "predictions"
    ]
    judged += _recorded(board, inputs, prices)
    published = [
        row
        for entry in inputs.entries
        if entry.kind == "published"
        for row in _published(place(board, entry.file), inputs)
    ]
    rows = [*_surely(judged, inputs), *published]
    fair = [row for row in rows if row.comparable]
    front = [fair[one] for one in pareto([row.cost_per_1k for row in fair], [row.accuracy for row in fair])]
    rows = [replace(row, front=row in front) for row in rows]
    rows.sort(key=lambda row: (-row.arena_score, row.name))
    suites = sorted({_suite(one.queries) for one in judged})
    return Board(
        rules=inputs.rules,
        beta=inputs.beta,
        seed=inputs.seed,
        draws=inputs.draws,
        prices=prices.digest if prices else None,
        suite=", ".join(suites),
        rows=rows,
        notes=_notes(rows),
        live=live_rows(board, inputs.entries),
    )


def _from_file(board: Path, entry: Entry, inputs: Inputs, prices: Prices | None, cache: Path | None) -> _Judged:
    path = place(board, entry.file)
    table = load_table(path, cache=cache or cache_directory(), known=digest_of(entry.file))
    found = score(table, name=os.fspath(path), prices=prices, rules=inputs.rules, beta=inputs.beta)
    steady = None
    if entry.robustness:
        picks = {q: m for q, m, o in zip(table.query, table.model, table.for_optimality, strict=True) if not o and m}
        other = [(row.query or "", row.model or "") for row in read_predictions(place(board, entry.robustness))]
        steady = 100 * robustness(picks, other, entry.robustness).score
    row = Row(
        name=entry.name,
        kind="scored",
        affiliation=entry.affiliation,
        arena_score=100 * found.arena_score,
        accuracy=100 * found.accuracy,
        cost_per_1k=found.cost_per_1k,
        robustness=steady,
        queries=found.queries,
        abnormal=found.abnormal,
        comparable=entry.comparable,
        decision_p50_ms=entry.decision_p50_ms,
        decision_p95_ms=entry.decision_p95_ms,
        latency_score=_latency(entry.decision_p50_ms),
        rules=inputs.rules,
        prices=found.prices,
        source=entry.file,
    )
    each = counted(table, prices, inputs.rules)
    return _Judged(_with(row, found.optimality), each.queries, each.accuracy, each.cost)


def _latency(decision_ms: float | None) -> float | None:
    return None if decision_ms is None or decision_ms <= 10 else latency_score(decision_ms)


def _recorded(board: Path, inputs: Inputs, prices: Prices | None) -> list[_Judged]:
    """Each model of the cached results by itself, and what bounds them."""
    paths = [place(board, entry.file) for entry in inputs.entries if entry.kind == "cached"]
    if not paths:
        return []
    matrix = from_cached(paths, prices=prices, rules=inputs.rules)
    every = [f"always:{model}" for model in matrix.models] + ([*RECORDED] if len(matrix.models) > 1 else [])
    return [_over(matrix, name, held_out(name, matrix, seed=inputs.seed), inputs, prices) for name in every]


def _over(matrix: Matrix, name: str, picks: Picks, inputs: Inputs, prices: Prices | None) -> _Judged:
    found = figures(matrix, picks, beta=inputs.beta)
    if found.arena_score is None or found.cost_per_1k is None:
        raise BadArenaFile(matrix.source, "", "costs are not known: a price file is needed")
    constant = name.startswith("always:")
    row = Row(
        name=name,
        kind="recorded",
        affiliation="mpsafe arena",
        arena_score=100 * found.arena_score,
        accuracy=100 * found.accuracy,
        cost_per_1k=found.cost_per_1k,
        robustness=100.0 if constant else None,
        queries=len(matrix),
        abnormal=0,
        comparable="oracle" not in name,
        rules=inputs.rules,
        prices=prices.digest if prices else None,
        source=matrix.source,
    )
    each = np.arange(len(matrix))
    return _Judged(
        _with(row, found.optimality), tuple(matrix.queries), matrix.score[each, picks], matrix.cost[each, picks]
    )


def _with(row: Row, found: Optimality | None) -> Row:
    if found is None:
        return row
    return replace(row, opt_sel=100 * found.opt_sel, opt_cost=100 * found.opt_cost, opt_acc=100 * found.opt_acc)


def _surely(judged: Sequence[_Judged], inputs: Inputs) -> list[Row]:
    """The rows with intervals, groups and cells. Routers on the same queries are drawn together, so they are paired."""
    if not judged:
        return []
    drawn = np.zeros((inputs.draws, len(judged)))
    cells: dict[tuple[str, ...], dict[tuple[str, str], Picks]] = {}
    for queries in dict.fromkeys(one.queries for one in judged):
        same = [number for number, one in enumerate(judged) if one.queries == queries]
        accuracy = np.stack([judged[number].accuracy for number in same], axis=1)
        cost = np.stack([judged[number].cost for number in same], axis=1)
        drawn[:, same] = bootstrap(accuracy, cost, beta=inputs.beta, draws=inputs.draws, seed=inputs.seed)
        pool = accuracy[:, [judged[number].row.comparable for number in same]]
        cells[queries] = _places(queries, _levels(pool))
    fair = [number for number, one in enumerate(judged) if one.row.comparable]
    groups = dict(zip(fair, tie_groups([judged[one].row.arena_score for one in fair], drawn[:, fair]), strict=True))
    ranks = rank_intervals(drawn)
    rows: list[Row] = []
    for number, one in enumerate(judged):
        sure = interval(drawn[:, number])
        told = replace(one.row, low=100 * sure.low, high=100 * sure.high, group=groups.get(number), ranks=ranks[number])
        rows.append(replace(told, cells=_cells(one, cells[one.queries])))
    return rows


def _levels(accuracy: Floats) -> list[str]:
    """Our own difficulty: how much of the pool is right, in thirds; unknown where the pool has fewer than three."""
    if accuracy.shape[1] < POOL_LEAST:
        return ["all"] * len(accuracy)
    right = accuracy.mean(axis=1)
    return [LEVELS[0] if one >= 2 / 3 else LEVELS[1] if one > 1 / 3 else LEVELS[2] for one in right]


def _cells(one: _Judged, cells: Mapping[tuple[str, str], Picks]) -> dict[str, dict[str, tuple[float, int]]]:
    found: dict[str, dict[str, tuple[float, int]]] = {}
    for (domain, level), rows in sorted(cells.items()):
        found.setdefault(domain, {})[level] = (100 * math.fsum(one.accuracy[rows]) / len(rows), len(rows))
    return found


def _places(queries: Sequence[str], levels: Sequence[str]) -> dict[tuple[str, str], Picks]:
    """The rows of each class and level."""
    found: dict[tuple[str, str], list[int]] = {}
    for row, (query, level) in enumerate(zip(queries, levels, strict=True)):
        found.setdefault((class_of(query), level), []).append(row)
    return {cell: np.asarray(rows, np.intp) for cell, rows in found.items()}


def _published(path: Path, inputs: Inputs) -> list[Row]:
    """Rows of the newest board in a table of printed figures; the arena score is computed from accuracy and cost."""
    with path.open(encoding="utf-8", newline="") as lines:
        every = list(csv.DictReader(lines))
    if not every or not {"router", "accuracy", "cost_per_1k", "arena"} <= set(every[0]):
        raise BadArenaFile(
            os.fspath(path), "line 1", "the columns router, arena, accuracy and cost_per_1k are expected"
        )
    dates = [row.get("board_date") or "" for row in every]
    rows: list[Row] = []
    for number, raw in enumerate(every, 2):
        try:
            value = {name: float(raw[name]) if raw.get(name) else None for name in _PRINTED}
        except ValueError as error:
            raise BadArenaFile(os.fspath(path), f"line {number}", str(error)) from None
        accuracy, cost = value["accuracy"], value["cost_per_1k"]
        if (raw.get("board_date") or "") != max(dates) or accuracy is None or cost is None:
            continue
        rows.append(
            Row(
                name=raw["router"],
                kind="published",
                affiliation=raw.get("affiliation") or "",
                arena_score=100 * arena_score(accuracy / 100, cost, inputs.beta),
                accuracy=accuracy,
                cost_per_1k=cost,
                opt_sel=value["opt_sel"],
                opt_cost=value["opt_cost"],
                opt_acc=value["opt_acc"],
                latency_score=value["latency_score"],
                robustness=value["robustness"],
                rules=inputs.rules,
                source=f"{path.name}, {max(dates)}",
            )
        )
    return rows


_PRINTED: Final = ("accuracy", "cost_per_1k", "opt_sel", "opt_cost", "opt_acc", "latency_score", "robustness")


def _suite(queries: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(sorted(queries)).encode()).hexdigest()[:16]


def _notes(rows: Sequence[Row]) -> list[str]:
    found: list[str] = []
    if any(row.kind == "published" for row in rows):
        found.append(
            "Published rows: the arena score is computed here from the printed accuracy and cost. Their accuracy and "
            "optimality cannot be recomputed, since full prediction files are not published; so they have no interval."
        )
    if any(row.kind != "published" for row in rows):
        found.append("Routers of one group cannot be told apart: paired bootstrap over queries, 95 %.")
    singles = [row for row in rows if row.name.startswith("always:")]
    best = max(singles, key=lambda row: row.arena_score, default=None)
    if best is not None:
        for row in rows:
            if row.kind == "scored" and row.queries == best.queries and row.arena_score < best.arena_score:
                found.append(f"A fixed model beats {row.name}: {best.name}.")
    return found
