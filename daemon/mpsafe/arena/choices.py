# SPDX-License-Identifier: Apache-2.0
"""A router's choices over a suite, and their commitment: a hash that is written before any outcome is known."""

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from mpsafe.arena.files import Object, Prediction, contents, decode, objects
from mpsafe.arena.matrix import Matrix
from mpsafe.arena.routers import Query, Router
from mpsafe.errors import BadArenaFile

__all__ = ["Commitment", "commit", "commitment_path", "names_only", "pass_on", "read_suite", "route", "verify"]


@dataclass(frozen=True, slots=True)
class Commitment:
    """`choices`, `suite`: SHA-256 over the lines `query TAB model`, and over the ids and prompts.

    `decision_p50_ms`, `decision_p95_ms`: how long a decision took, None where that was not measured.
    """

    router: str
    seed: int
    queries: int
    comparable: bool
    suite: str
    choices: str
    decision_p50_ms: float | None = None
    decision_p95_ms: float | None = None


def read_suite(path: Path) -> list[Object]:
    """The queries of a suite: RouterArena's prompts, a prediction file, or what mpsafe arena suite build wrote."""
    if path.suffix == ".jsonl":
        rows = objects(path, [decode(path, line) for line in contents(path).splitlines() if line.strip()])
    else:
        rows = objects(path, decode(path, contents(path)))
    seen: set[str] = set()
    for number, raw in enumerate(rows, 1):
        row = Prediction(number, raw)
        if row.query is None or row.prompt is None:
            raise BadArenaFile(os.fspath(path), f"row {number}", "a global index and a prompt are expected")
        if row.query in seen:
            raise BadArenaFile(os.fspath(path), f"row {number}", f"the query {row.query} is there twice")
        seen.add(row.query)
    if not rows:
        raise BadArenaFile(os.fspath(path), "", "there is no query in it")
    return rows


def names_only(models: Sequence[str]) -> Matrix:
    """What a router knows that was only told the names of its models."""
    none = np.full((0, len(models)), math.nan)
    return Matrix([], [], [], list(models), none, none, "names")


def route(
    router: Router, suite: Sequence[Object], *, done: Callable[[], None] = lambda: None
) -> tuple[list[Prediction], list[float]]:
    """A prediction file without outcomes, null for what is not known yet, and the milliseconds of each decision."""
    rows: list[Prediction] = []
    took_ms: list[float] = []
    for number, raw in enumerate(suite, 1):
        query = Prediction(number, raw)
        asked = Query(query.query or "", query.prompt or "", str(raw.get("domain") or ""))
        began = time.perf_counter()
        pick = router.route(asked)
        took_ms.append((time.perf_counter() - began) * 1e3)
        made: Object = {"global index": asked.id, "prompt": asked.prompt, "prediction": pick}
        rows.append(
            Prediction(
                number, made | dict.fromkeys(("generated_result", "cost", "accuracy")) | {"for_optimality": False}
            )
        )
        done()
    return rows, took_ms


def commit(
    path: Path, rows: Sequence[Prediction], took_ms: Sequence[float], *, router: str, seed: int, comparable: bool
) -> Commitment:
    """Writes the commitment of a prediction file beside it."""
    middle, late = (float(one) for one in np.percentile(took_ms, [50, 95]))
    made = Commitment(router, seed, len(rows), comparable, _suite(rows), _choices(rows), middle, late)
    text = msgspec.json.format(msgspec.json.encode(made), indent=2)
    commitment_path(path).write_bytes(text + b"\n")
    return made


def verify(path: Path, rows: Sequence[Prediction]) -> Commitment | None:
    """The commitment of a file, or None. BadArenaFile where a choice or a prompt was changed after it."""
    beside = commitment_path(path)
    if not beside.exists():
        return None
    try:
        made = msgspec.convert(decode(beside, contents(beside)), Commitment)
    except msgspec.ValidationError as error:
        raise BadArenaFile(os.fspath(beside), "", str(error)) from None
    regular = [row for row in rows if not row.for_optimality]
    for what, now, then in (("choices", _choices(regular), made.choices), ("prompts", _suite(regular), made.suite)):
        if now != then:
            raise BadArenaFile(os.fspath(path), "", f"its {what} are not those that were committed to in {beside.name}")
    return made


def commitment_path(path: Path) -> Path:
    """Where the commitment of a prediction file lies."""
    return path.with_name(path.name + ".commitment")


def pass_on(path: Path, out: Path) -> None:
    """Lays the commitment of a file, if it has one, beside what was made from it."""
    if commitment_path(path).exists():
        commitment_path(out).write_bytes(commitment_path(path).read_bytes())


def _choices(rows: Sequence[Prediction]) -> str:
    return hashlib.sha256("".join(f"{row.query}\t{row.model}\n" for row in rows).encode()).hexdigest()


def _suite(rows: Sequence[Prediction]) -> str:
    return hashlib.sha256(json.dumps([[row.query, row.prompt] for row in rows]).encode()).hexdigest()
