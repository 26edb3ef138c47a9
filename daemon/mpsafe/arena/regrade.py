# SPDX-License-Identifier: Apache-2.0
"""Grades of a whole file: cached results against the grades that they came with, or predictions against truths."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mpsafe.arena.files import Cached, Prediction
from mpsafe.arena.grading.families import CODE, Grade, metric_of
from mpsafe.arena.grading.pool import Task, grade_all
from mpsafe.arena.grading.sandbox import check, execute
from mpsafe.arena.prices import Prices, Rules
from mpsafe.arena.table import number

__all__ = ["Regrade", "fill", "regrade"]


@dataclass(frozen=True, slots=True)
class Regrade:
    """One row. `stored`: the grade that the file has, or None; `why`: what there is to say of a 0 or a None."""

    query: str
    metric: str
    score: float | None
    stored: float | None
    why: str

    @property
    def agrees(self) -> bool | None:
        """Whether both grades are the same, None where one is missing."""
        if self.score is None or self.stored is None:
            return None
        return math.isclose(self.score, self.stored, rel_tol=0, abs_tol=1e-9)


def regrade(
    rows: Sequence[Cached],
    *,
    seconds: float,
    workers: int,
    tests: Mapping[str, Sequence[dict[str, object]]] | None = None,
    done: Callable[[], None] = lambda: None,
) -> list[Regrade]:
    """A grade for each row that has a truth. `tests`: of code, by query; without them no code is executed."""
    known = [(row, row.evaluation or {}) for row in rows if row.evaluation and "ground_truth" in row.evaluation]
    tasks = [Task(metric_of(row.query), row.answer, str(told["ground_truth"])) for row, told in known]
    grades = _graded(tasks, [row.query for row, _ in known], seconds, workers, tests, done)
    return [
        Regrade(row.query, one.metric, one.score, stored if not math.isnan(stored) else None, one.why)
        for (row, told), one in zip(known, grades, strict=True)
        for stored in [number(told.get("score"), boolean=False)[0]]
    ]


def fill(
    rows: Sequence[Prediction],
    truths: Mapping[str, str],
    *,
    seconds: float,
    workers: int,
    prices: Prices | None = None,
    rules: Rules = "2026-07",
    tests: Mapping[str, Sequence[dict[str, object]]] | None = None,
    done: Callable[[], None] = lambda: None,
) -> tuple[list[Prediction], int]:
    """The rows with `accuracy`, and `cost` where there are prices; and how many could not be graded.

    As upstream, a row without a truth, or whose inference did not succeed, keeps what it has.
    """
    able = [
        row
        for row in rows
        if row.query in truths and row.generated is not None and row.generated.get("success") is True
    ]
    answers = [str((row.generated or {}).get("generated_answer") or "") for row in able]
    queries = [row.query or "" for row in able]
    tasks = [Task(metric_of(query), answer, truths[query]) for query, answer in zip(queries, answers, strict=True)]
    grades = dict(
        zip(
            [row.number for row in able],
            _graded(tasks, queries, seconds, workers, tests, done),
            strict=True,
        )
    )
    filled: list[Prediction] = []
    for row in rows:
        raw = dict(row.raw)
        found = grades.get(row.number)
        if found is not None and found.score is not None:
            raw["accuracy"] = found.score
        entry = prices.find(row.model) if prices and row.model and row.generated else None
        if entry is not None:
            given, made, total = (
                number(row.tokens.get(f"{kind}_tokens"), boolean=False)[0] for kind in ("input", "output", "total")
            )
            raw["cost"] = entry[1].of((given, made, total), rules)
        filled.append(Prediction(row.number, raw))
    return filled, sum(row.raw.get("accuracy") is None for row in filled)


def _graded(
    tasks: Sequence[Task],
    queries: Sequence[str],
    seconds: float,
    workers: int,
    tests: Mapping[str, Sequence[dict[str, object]]] | None,
    done: Callable[[], None],
) -> list[Grade]:
    grades = grade_all(tasks, seconds=seconds, workers=workers, done=done)
    if tests is None:
        return grades
    check()
    return [
        execute(task.answer, tests[query]) if task.metric == CODE and query in tests else one
        for task, query, one in zip(tasks, queries, grades, strict=True)
    ]
