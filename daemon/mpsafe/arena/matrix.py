# SPDX-License-Identifier: Apache-2.0
"""Outcomes of every model on every query, and the figures of any picks over them, without a loop over queries.

Read from RouterArena's cached results, from RouteLLM's tables (arXiv 2406.18665: a column of True and False a model)
and from any table with the columns query, model, score and, where they are known, cost, prompt, domain.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mpsafe.arena.files import read_cached, tokens
from mpsafe.arena.grading.families import dataset_of
from mpsafe.arena.prices import Prices, Rules
from mpsafe.arena.scoring import Optimality, arena_score
from mpsafe.arena.table import number
from mpsafe.errors import BadArenaFile, BadRequest

__all__ = ["Figures", "Floats", "Matrix", "Picks", "figures", "from_cached", "from_table"]

Floats = NDArray[np.float64]
Picks = NDArray[np.intp]

TABLE_COLUMNS: Final = ("query", "model", "score")


@dataclass(frozen=True, slots=True)
class Matrix:
    """Q queries, M models. `score`, `cost` [Q, M]: 0 to 1 and dollars; a cost that is not known is NaN.

    `source`: where it comes from; `ours`: whether the queries are RouterArena's, on which nothing may be trained.
    """

    queries: list[str]
    prompts: list[str]
    domains: list[str]
    models: list[str]
    score: Floats
    cost: Floats
    source: str
    ours: bool = False

    def __len__(self) -> int:
        return len(self.queries)

    def rows(self, kept: NDArray[np.intp]) -> "Matrix":
        """Only some of the queries."""
        pick = [int(row) for row in kept]
        return replace(
            self,
            queries=[self.queries[row] for row in pick],
            prompts=[self.prompts[row] for row in pick],
            domains=[self.domains[row] for row in pick],
            score=self.score[pick],
            cost=self.cost[pick],
        )

    def model(self, name: str) -> int:
        """The column of a model. BadRequest names those that there are."""
        if name not in self.models:
            raise BadRequest("model", f"one of {', '.join(self.models)}", repr(name))
        return self.models.index(name)


@dataclass(frozen=True, slots=True)
class Figures:
    """Of picks over a matrix. `cost_per_1k`, `arena_score`, `optimality`: None where costs are not known."""

    accuracy: float
    cost_per_1k: float | None
    arena_score: float | None
    optimality: Optimality | None


def from_cached(paths: Sequence[Path], *, prices: Prices | None = None, rules: Rules = "2026-07") -> Matrix:
    """The matrix of cached results, a file a model: their stored grades, and costs from tokens or as stored.

    Only queries that every file has; BadArenaFile where a row is not graded, or a query is there twice.
    """
    columns: list[dict[str, tuple[float, float]]] = []
    prompts: dict[str, str] = {}
    models: list[str] = []
    for path in paths:
        column: dict[str, tuple[float, float]] = {}
        rows = read_cached(path)
        models.append(rows[0].model or path.stem)
        price = prices.find(models[-1]) if prices else None
        if prices and price is None:
            raise BadArenaFile(os.fspath(path), "", f"the price file does not have {models[-1]}")
        for row in rows:
            place = f"line {row.number}"
            evaluation = row.evaluation
            score, _ = number(evaluation.get("score") if evaluation else None, boolean=False)
            if math.isnan(score):
                raise BadArenaFile(os.fspath(path), place, "it is not graded: mpsafe arena grade comes first")
            if row.query in column:
                raise BadArenaFile(os.fspath(path), place, f"the query {row.query} is there twice")
            cost, _ = number(evaluation.get("inference_cost") if evaluation else None, boolean=False)
            if price is not None:
                used = tokens(row.raw)
                given, made, total = (
                    number(used.get(f"{kind}_tokens"), boolean=False)[0] for kind in ("input", "output", "total")
                )
                cost = price[1].of((given, made, total), rules)
            column[row.query] = (score, cost)
            prompts.setdefault(row.query, str(row.raw.get("question") or ""))
        columns.append(column)
    if len(set(models)) != len(models):
        raise BadArenaFile(os.fspath(paths[-1]), "", "two files are of the same model")
    queries = [query for query in columns[0] if all(query in column for column in columns)]
    if not queries:
        raise BadArenaFile(os.fspath(paths[-1]), "", "it has no query in common with the others")
    both = np.asarray([[column[query] for column in columns] for query in queries], np.float64)
    return Matrix(
        queries=queries,
        prompts=[prompts[query] for query in queries],
        domains=[dataset_of(query) for query in queries],
        models=models,
        score=both[:, :, 0],
        cost=both[:, :, 1],
        source=", ".join(path.name for path in paths),
        ours=True,
    )


def from_table(path: Path) -> Matrix:
    """The matrix of a CSV or Parquet table: RouteLLM's wide form, or query, model, score [, cost, prompt, domain]."""
    try:
        frame = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path, infer_schema_length=None)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise BadArenaFile(os.fspath(path), "", f"it is no table: {str(error).splitlines()[0]}") from None
    if frame.is_empty():
        raise BadArenaFile(os.fspath(path), "", "there is no row in it")
    if set(TABLE_COLUMNS) <= set(frame.columns):
        return _from_long(path, frame)
    models = [name for name in frame.columns if frame[name].dtype == pl.Boolean]
    if "prompt" in frame.columns and len(models) > 1:
        count = len(frame)
        return Matrix(
            queries=[f"{path.stem}_{row}" for row in range(count)],
            prompts=frame["prompt"].cast(pl.String).to_list(),
            domains=frame["domain"].cast(pl.String).to_list() if "domain" in frame.columns else [""] * count,
            models=models,
            score=frame.select(pl.col(models).cast(pl.Float64)).to_numpy(),
            cost=np.full((count, len(models)), math.nan),
            source=path.name,
        )
    wanted = "query, model and score, or prompt and a column of True and False for each model"
    raise BadArenaFile(os.fspath(path), "", f"the columns {wanted} are expected")


def _from_long(path: Path, frame: pl.DataFrame) -> Matrix:
    if frame.select(pl.struct("query", "model").is_duplicated().any()).item():
        raise BadArenaFile(os.fspath(path), "", "a query has two rows of one model")
    models = cast("list[str]", frame["model"].cast(pl.String).unique(maintain_order=True).to_list())
    whole = frame.with_columns(pl.col("query", "model").cast(pl.String))
    first = whole.group_by("query", maintain_order=True).first()
    queries = cast("list[str]", first["query"].to_list())
    place = {query: row for row, query in enumerate(queries)}
    column = {model: number for number, model in enumerate(models)}
    score = np.full((len(queries), len(models)), math.nan)
    cost = np.full_like(score, math.nan)
    costs: list[object] = whole["cost"].to_list() if "cost" in whole.columns else [None] * len(whole)
    for query, model, one, paid in zip(whole["query"], whole["model"], whole["score"], costs, strict=True):
        at = place[query], column[model]
        score[at], cost[at] = number(one)[0], number(paid)[0]
    missing = np.argwhere(~np.isfinite(score))
    if len(missing):
        row, model = (int(one) for one in missing[0])
        raise BadArenaFile(os.fspath(path), queries[row], f"{models[model]} has no score for it")

    def texts(name: str) -> list[str]:
        return [str(one or "") for one in first[name].to_list()] if name in first.columns else [""] * len(queries)

    return Matrix(queries, texts("prompt"), texts("domain"), models, score, cost, path.name)


def figures(matrix: Matrix, picks: Picks, *, beta: float = 0.1) -> Figures:
    """Accuracy, cost, arena score and optimality of picks [Q], each a column of the matrix, over all its queries."""
    rows = np.arange(len(matrix))
    accuracy = matrix.score[rows, picks]
    mean = float(accuracy.mean())
    if np.isnan(matrix.cost).any():
        return Figures(mean, None, None, None)
    cost = matrix.cost[rows, picks]
    per_1k = float(cost.sum()) / len(matrix) * 1000
    right = matrix.score >= 1
    best = cheapest_right(matrix, picks)
    counted = right.any(axis=1) & ~((accuracy == 0) & (cost == 0))
    hit = counted & (accuracy >= 1)
    count = int(counted.sum())
    optimal = matrix.cost[rows, best]
    optimality = Optimality(
        opt_sel=float((hit & (best == picks)).sum()) / count if count else 0.0,
        opt_cost=float(optimal[hit].sum() / cost[hit].sum()) if cost[hit].sum() > 0 else 0.0,
        opt_acc=float(accuracy[counted].sum() / matrix.score[rows, best][counted].sum()) if count else 0.0,
        queries=count,
        pool=len(matrix),
    )
    return Figures(mean, per_1k, arena_score(mean, per_1k, beta), optimality)


def cheapest_right(matrix: Matrix, picks: Picks) -> Picks:
    """The cheapest model with a score of 1 for each query [Q], of equal ones the pick, then the first; else 0."""
    right = np.where(matrix.score >= 1, matrix.cost, math.inf)
    best = right.argmin(axis=1)
    rows = np.arange(len(matrix))
    return np.where(right[rows, picks] == right[rows, best], picks, best)
