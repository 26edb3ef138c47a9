# SPDX-License-Identifier: Apache-2.0
"""Real figures of RouterArena for the tests: where the cuts are, and the 2 x 809 matrix."""

import csv
from pathlib import Path

import numpy as np

from mpsafe.arena.matrix import Matrix
from mpsafe.arena.prices import Prices, Rules

__all__ = ["ARENA", "HAIKU", "MODELS", "full_matrix", "outcomes"]

ARENA = Path(__file__).parent / "data" / "arena"
MODELS = ("claude-3-haiku-20240307", "gemini-2.0-flash-001")
HAIKU = ARENA / f"{MODELS[0]}.jsonl"


def outcomes() -> list[dict[str, str]]:
    """Rows of outcomes.csv."""
    with (ARENA / "outcomes.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def full_matrix(rules: Rules) -> Matrix:
    """Two real models on 809 queries, by the prices of 2025-11."""
    prices = Prices.read(ARENA / "cost_2025-11.json")
    by_model: dict[str, dict[str, tuple[float, float]]] = {model: {} for model in MODELS}
    for row in outcomes():
        entry = prices.find(row["model"])
        assert entry is not None
        used = (float(row["input_tokens"]), float(row["output_tokens"]), float(row["total_tokens"]))
        by_model[row["model"]][row["query"]] = (float(row["score"]), entry[1].of(used, rules))
    queries = list(by_model[MODELS[0]])
    both = np.asarray([[by_model[model][query] for model in MODELS] for query in queries])
    domains = [query.partition("_")[0] for query in queries]
    return Matrix(queries, queries, domains, list(MODELS), both[:, :, 0], both[:, :, 1], "outcomes.csv", ours=True)
