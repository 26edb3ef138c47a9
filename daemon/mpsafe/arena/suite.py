# SPDX-License-Identifier: Apache-2.0
"""The paper's construction of a data set as a program (arXiv 2510.00202, section 3), on any table that a user brings.

Candidates get a class (their own, else that of their source), a Bloom level (by the verbs of the question: a reading of
ours, the paper asks a model), and a difficulty (by how many recorded models are right, in thirds). Then equally many
of each class are drawn, within a class in turn from each category and difficulty, with a fixed seed.
"""

import json
import os
import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import polars as pl

from mpsafe.arena.domains import MIXED, class_of
from mpsafe.arena.files import Object, Prediction
from mpsafe.arena.matrix import Matrix
from mpsafe.errors import BadArenaFile

__all__ = ["BLOOM", "Finding", "Item", "bloom_of", "build", "candidates", "check", "read", "save"]

LEVELS: Final = ("easy", "medium", "hard")
UNKNOWN: Final = "unknown"
# Levels of Bloom's taxonomy, revised, from the highest down; the first whose verb is in the question.
BLOOM: Final = {
    "create": "write|create|design|compose|implement|generate|propose",
    "evaluate": "evaluate|judge|justify|assess|critique|which is best|most likely",
    "analyze": "compare|analy[sz]e|distinguish|why|infer|cause|effect|entail",
    "apply": "calculate|compute|solve|find|apply|translate|how many|how much",
    "understand": "explain|describe|summary|summarise|what does|mean|classify",
    "remember": "",
}


@dataclass(frozen=True, slots=True)
class Item:
    """One query of a suite. `split`: sub_10 for a tenth of each class, else full."""

    query: str
    prompt: str
    truth: str
    domain: str
    category: str
    bloom: str
    difficulty: str
    split: str = "full"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a suite is to hold, whether it does, and the figures."""

    name: str
    holds: bool
    figures: str


def candidates(path: Path, outcomes: Matrix | None) -> list[Item]:
    """The rows of a table with query, prompt and truth, and where they are known domain and category."""
    try:
        frame = pl.read_parquet(path) if path.suffix == ".parquet" else _read(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise BadArenaFile(os.fspath(path), "", f"it is no table: {str(error).splitlines()[0]}") from None
    lacks = [name for name in ("query", "prompt", "truth") if name not in frame.columns]
    if lacks or frame.is_empty():
        raise BadArenaFile(
            os.fspath(path), "", f"the column {lacks[0]} is missing" if lacks else "there is no row in it"
        )
    levels = _difficulty(outcomes) if outcomes else {}
    items: list[Item] = []
    for row in frame.iter_rows(named=True):
        query, prompt = str(row["query"]), str(row["prompt"])
        domain = str(row.get("domain") or class_of(query))
        category = str(row.get("category") or query.partition("_")[0])
        level = levels.get(query, UNKNOWN)
        items.append(Item(query, prompt, str(row["truth"]), domain, category, bloom_of(prompt), level))
    if doubled := [query for query, count in Counter(item.query for item in items).items() if count > 1]:
        raise BadArenaFile(os.fspath(path), doubled[0], "the query is there twice")
    return items


def bloom_of(prompt: str) -> str:
    """The highest level of which a verb is in the last question of a prompt."""
    asked = prompt.rpartition("Question:")[2].lower()
    return next(level for level, verbs in BLOOM.items() if re.search(rf"\b(?:{verbs})", asked))


def build(items: Sequence[Item], *, per_class: int, seed: int) -> list[Item]:
    """At most `per_class` of each class, in turn from its categories and difficulties; a tenth of each is sub_10."""
    dice = random.Random(seed)
    chosen: list[Item] = []
    for domain in sorted({item.domain for item in items}):
        piles: dict[tuple[str, str], list[Item]] = defaultdict(list)
        for item in sorted((item for item in items if item.domain == domain), key=lambda item: item.query):
            piles[item.category, item.difficulty].append(item)
        for pile in piles.values():
            dice.shuffle(pile)
        taken: list[Item] = []
        while len(taken) < per_class and any(piles.values()):
            for key in sorted(piles):
                if piles[key] and len(taken) < per_class:
                    taken.append(piles[key].pop())
        tenth = set(dice.sample(range(len(taken)), max(1, len(taken) // 10)))
        chosen += [
            Item(**(asdict(item) | {"split": "sub_10"})) if number in tenth else item
            for number, item in enumerate(taken)
        ]
    return chosen


def save(path: Path, items: Sequence[Item]) -> None:
    """A suite: a JSON object a line, with RouterArena's keys for the id and the prompt."""
    lines: list[Object] = []
    for item in items:
        told = asdict(item)
        lines.append({"global index": told.pop("query"), **told})
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def read(path: Path, rows: Sequence[Object]) -> list[Item]:
    """The items of a suite that `build` made. BadArenaFile names the row that is none."""
    items: list[Item] = []
    for number, raw in enumerate(rows, 1):
        row = Prediction(number, raw)
        try:
            items.append(msgspec.convert({"query": row.query, **raw}, Item))
        except msgspec.ValidationError as error:
            raise BadArenaFile(os.fspath(path), f"row {number}", str(error)) from None
    return items


def check(items: Sequence[Item], outcomes: Matrix | None, *, classes: Sequence[str]) -> list[Finding]:
    """Coverage of the classes, balance among them, and for each recorded model that easy > medium > hard."""
    counts = Counter(item.domain for item in items if item.domain != MIXED)
    lacking = [name for name in classes if not counts[name]]
    found = [Finding("coverage", not lacking, f"no query of: {', '.join(lacking)}" if lacking else "every class")]
    few, many = (min(counts.values()), max(counts.values())) if counts else (0, 0)
    found.append(Finding("balance", 0 < many <= 2 * few, f"{few} to {many} queries a class; at most twice as many"))
    if outcomes is not None:
        place = {query: row for row, query in enumerate(outcomes.queries)}
        rows = {
            level: [place[item.query] for item in items if item.difficulty == level and item.query in place]
            for level in LEVELS
        }
        for column, model in enumerate(outcomes.models):
            means = [
                float(outcomes.score[rows[level], column].mean()) if rows[level] else float("nan") for level in LEVELS
            ]
            words = " > ".join(f"{100 * mean:.1f}" for mean in means)
            found.append(Finding(f"difficulty: {model}", means[0] > means[1] > means[2], words))
    return found


def _difficulty(outcomes: Matrix) -> dict[str, str]:
    """By terciles of the mean score over the recorded models; equal means are one level."""
    mean = outcomes.score.mean(axis=1)
    low, high = np.quantile(mean, [1 / 3, 2 / 3])
    levels = [LEVELS[2] if one <= low else LEVELS[1] if one < high else LEVELS[0] for one in mean]
    return dict(zip(outcomes.queries, levels, strict=True))


def _read(path: Path) -> pl.DataFrame:
    return pl.read_csv(path, infer_schema_length=0)
