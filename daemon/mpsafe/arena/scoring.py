# SPDX-License-Identifier: Apache-2.0
"""RouterArena's figures of one router: accuracy, cost, arena score, optimality, robustness, latency score.

Source: llm_evaluation/run.py of 2025-11 (`compute_arena_score`, `compute_router_metrics`) and of 2026-07
(`compute_optimality_from_predictions`), global_utils/robustness.py; arXiv 2510.00202. Where they disagree: the website
has opt_cost as a mean of ratios and opt_acc over all queries, and the paper's c_min and c_max depend on the pool. The
code has ratios of sums, opt_cost over what the router answered right, only queries with an optimum, and constants; so
has this file.
"""

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mpsafe.arena.prices import Prices, Rules
from mpsafe.arena.table import BOOLEAN, NOT_FINITE, NUMBER, OTHER, Table, load
from mpsafe.errors import BadArenaFile, BadRequest

__all__ = [
    "BETA",
    "Optimality",
    "Robustness",
    "Score",
    "arena_score",
    "latency_score",
    "robustness",
    "row_costs",
    "score",
    "score_path",
]

BETA: Final = 0.1
COST_MAX: Final = 200.0
COST_MIN: Final = 0.0044


@dataclass(frozen=True, slots=True)
class Optimality:
    """Shares, 0 to 1, over `queries` that have an optimum: the cheapest answer that is wholly right."""

    opt_sel: float
    opt_cost: float
    opt_acc: float
    queries: int
    pool: int


@dataclass(frozen=True, slots=True)
class Robustness:
    """`score`, 0 to 1: how seldom the pick changes when a prompt is paraphrased."""

    score: float
    flips: int
    matches: int


@dataclass(frozen=True, slots=True)
class Score:
    """One router's figures: shares 0 to 1, dollars. `optimality`: None where the file has no rows for it.

    `abnormal`: rows that count as wrong whatever they say (2026-07). `unpriced`: models that the price file does not
    have, whose answers cost nothing by the rules; `guessed`: models that were priced by a part of their name.
    """

    rules: Rules
    queries: int
    abnormal: int
    accuracy: float
    total_cost: float
    cost_per_1k: float
    arena_score: float
    optimality: Optimality | None
    prices: str | None
    unpriced: tuple[str, ...] = ()
    guessed: tuple[tuple[str, str], ...] = ()


def arena_score(accuracy: float, cost_per_1k: float, beta: float = BETA) -> float:
    """0 to 1, of an accuracy 0 to 1 and dollars per 1,000 queries; the cost is clamped, as in run.py."""
    cost = min(max(cost_per_1k, COST_MIN), COST_MAX)
    cheapness = (math.log2(COST_MAX) - math.log2(cost)) / (math.log2(COST_MAX) - math.log2(COST_MIN))
    below = beta * accuracy + cheapness
    return (1 + beta) * accuracy * cheapness / below if below > 0 else 0.0


def latency_score(milliseconds: float) -> float:
    """The board's score of a routing latency, inferred from printed figures: 100 / (L - 10 ms).

    It has no bound near 10 ms and is negative below. BadRequest at 10 ms.
    """
    if milliseconds == 10:
        raise BadRequest("latency", "milliseconds other than 10, where the published score has no value", "10")
    return 100 / (milliseconds - 10)


def row_costs(
    table: Table, prices: Prices, rules: Rules
) -> tuple[NDArray[np.float64], tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Dollars of each row [N], NaN where nothing was generated; the models without a price, and those with a guess."""
    costs = np.full(len(table), math.nan)
    unpriced: list[str] = []
    guessed: list[tuple[str, str]] = []
    codes: dict[str, int] = {}
    place = np.asarray([codes.setdefault(model, len(codes)) for model in table.model], np.intp)
    generated = ~np.isnan(table.used).all(axis=1)
    for model, number in codes.items():
        mine = generated & (place == number)
        if not model or not mine.any():
            continue
        entry = prices.find(model)
        if entry is None:
            unpriced.append(model)
            costs[mine] = 0.0
            continue
        if entry[0] != model.removesuffix("_batch"):
            guessed.append((model, entry[0]))
        given, made, total = np.nan_to_num(table.used[mine]).T
        costs[mine] = entry[1].of_many(given, made, total, rules)
    return costs, tuple(unpriced), tuple(guessed)


def score(
    table: Table, *, name: str, prices: Prices | None = None, rules: Rules = "2026-07", beta: float = BETA
) -> Score:
    """The figures of a graded file; with `prices` each cost is computed from tokens, else the file's own is taken.

    BadArenaFile where a row cannot be scored by any rule: an id twice, a number that is not finite, no grade at all.
    """
    _refuse(table, name, rules, own_costs=prices is None)
    unpriced: tuple[str, ...] = ()
    guessed: tuple[tuple[str, str], ...] = ()
    costs = table.cost
    if prices is not None:
        costs, unpriced, guessed = row_costs(table, prices, rules)
    regular = ~table.for_optimality
    queries = int(regular.sum())
    made = table.used[:, 1]
    generated = table.success & (np.nan_to_num(made) > 0)
    graded = table.accuracy_kind == NUMBER
    if rules == "2026-07":
        normal = generated & graded
        accuracy = float(table.accuracy[regular & normal].sum()) / queries
        abnormal = int((regular & ~normal).sum())
        counted = regular & generated
    else:
        graded = np.isin(table.accuracy_kind, (NUMBER, BOOLEAN))
        accuracy = float(table.accuracy[regular & graded].mean())
        abnormal = 0
        counted = regular
    paid = costs[counted & (np.nan_to_num(costs) > 0)]
    if not len(paid):
        raise BadArenaFile(name, "", "no row has a cost above 0, so there is no arena score")
    total = float(paid.sum())
    per_1k = total / queries * 1000
    valid = (generated if rules == "2026-07" else np.ones(len(table), np.bool_)) & graded & ~np.isnan(costs)
    optimality = _optimality(table, costs, valid) if table.for_optimality.any() else None
    return Score(
        rules=rules,
        queries=queries,
        abnormal=abnormal,
        accuracy=accuracy,
        total_cost=total,
        cost_per_1k=per_1k,
        arena_score=arena_score(accuracy, per_1k, beta),
        optimality=optimality,
        prices=prices.digest if prices else None,
        unpriced=unpriced,
        guessed=guessed,
    )


def robustness(full: Mapping[str, str], paraphrased: Iterable[tuple[str, str]], name: str) -> Robustness:
    """Of (query, pick) rows on paraphrased prompts, how many pick what `full` picked. Empty picks do not match."""
    pairs = [(full[query], pick) for query, pick in paraphrased if pick and full.get(query)]
    if not pairs:
        raise BadArenaFile(name, "", "no query of it has a pick in the full file")
    flips = sum(before != after for before, after in pairs)
    return Robustness(1 - flips / len(pairs), flips, len(pairs))


def _refuse(table: Table, name: str, rules: Rules, *, own_costs: bool) -> None:
    seen: set[tuple[str, str]] = set()
    others: list[bool] = table.for_optimality.tolist()
    keys = [
        (query, model if other else "") for query, model, other in zip(table.query, table.model, others, strict=True)
    ]
    doubtful = len(set(keys)) < len(keys) or not all(table.query)
    for row, key in enumerate(keys if doubtful else (), 1):
        query = key[0]
        if not query:
            raise BadArenaFile(name, f"row {row}", "it has no global index")
        if key in seen:
            raise BadArenaFile(name, f"row {row}", f"the query {query} is there twice; it would count twice")
        seen.add(key)
    checks = [("accuracy", table.accuracy_kind)] + ([("cost", table.cost_kind)] if own_costs else [])
    refused = (NOT_FINITE,) if rules == "2026-07" else (NOT_FINITE, OTHER)
    for field, kinds in checks:
        wrong = np.flatnonzero(np.isin(kinds, (NOT_FINITE, OTHER) if field == "cost" else refused))
        if len(wrong):
            raise BadArenaFile(name, f"row {wrong[0] + 1}, {field}", "a finite number is expected")
    outside = np.flatnonzero((table.accuracy > 1) | (table.accuracy < -1))
    if len(outside):
        raise BadArenaFile(name, f"row {outside[0] + 1}, accuracy", "a number of at most 1 is expected")
    if not np.isin(table.accuracy_kind[~table.for_optimality], (NUMBER, BOOLEAN)).any():
        raise BadArenaFile(name, "", "no row is graded: mpsafe arena grade comes first")


def _optimality(table: Table, costs: NDArray[np.float64], valid: NDArray[np.bool_]) -> Optimality:
    """The optimum of a query: the cheapest right answer; of equal ones the router's own, then the earlier row."""
    others: list[bool] = table.for_optimality.tolist()
    right_kind: list[bool] = valid.tolist()
    accuracies: list[float] = table.accuracy.tolist()
    paid: list[float] = costs.tolist()
    wanted = {query for query, other in zip(table.query, others, strict=True) if other}
    own: dict[str, int] = {}
    pools: dict[str, list[int]] = {query: [] for query in wanted}
    for row, query in enumerate(table.query):
        if query in wanted and right_kind[row]:
            if others[row]:
                pools[query].append(row)
            else:
                own[query] = row
    queries = picked = 0
    optimal_cost = router_cost = optimal_accuracy = router_accuracy = 0.0
    for query, row in own.items():
        accuracy, cost = accuracies[row], paid[row]
        right = [one for one in (row, *pools[query]) if accuracies[one] >= 1.0]
        if not right or (accuracy == 0 and cost == 0):
            continue
        best = min(right, key=paid.__getitem__)
        queries += 1
        optimal_accuracy += accuracies[best]
        router_accuracy += accuracy
        if accuracy >= 1.0:
            picked += table.model[best] == table.model[row]
            optimal_cost += paid[best]
            router_cost += cost
    return Optimality(
        opt_sel=picked / queries if queries else 0.0,
        opt_cost=optimal_cost / router_cost if router_cost > 0 else 0.0,
        opt_acc=router_accuracy / optimal_accuracy if optimal_accuracy > 0 else 0.0,
        queries=queries,
        pool=len(wanted),
    )


def score_path(
    path: Path, *, prices: Prices | None, rules: Rules, beta: float = BETA, cache: Path | None = None
) -> Score:
    """The figures of a graded file, by way of the cache of tables."""
    return score(load(path, cache=cache), name=os.fspath(path), prices=prices, rules=rules, beta=beta)
