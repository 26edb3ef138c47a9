# SPDX-License-Identifier: Apache-2.0
"""The strict reading of a prediction file: each row and field that RouterArena would refuse, or would count wrongly.

Source: router_inference/check_config_prediction_files.py; the checks of tokens, of ids that are there twice, of costs
that do not follow from tokens, and of numbers that are none, are ours: upstream has none for them.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mpsafe.arena.files import PROMPT_KEYS, QUERY_KEYS, Prediction
from mpsafe.arena.prices import Prices
from mpsafe.arena.table import number

__all__ = ["SIZES", "Problem", "validate"]

SIZES: Final = {"sub_10": 809, "full": 8400, "robustness": 420}


@dataclass(frozen=True, slots=True)
class Problem:
    """`row`: from 1, 0 for the whole file; `level`: `error` where the file would be refused or counted wrongly."""

    row: int
    field: str
    level: str
    reason: str


def validate(
    rows: Sequence[Prediction],
    *,
    models: Mapping[str, float | None] | None = None,
    prices: Prices | None = None,
    prompts: Mapping[str, str] | None = None,
    split: str | None = None,
) -> list[Problem]:
    """All problems of a file. `models`: of the router's configuration; `prompts`: of the split, by global index."""
    found: list[Problem] = []
    regular = sum(not row.for_optimality for row in rows)
    if split is not None and regular != SIZES[split]:
        found.append(Problem(0, "", "error", f"{regular} regular rows, {split} has {SIZES[split]}"))
    seen: dict[tuple[str, str], int] = {}
    for row in rows:
        found += _identity(row, prompts, seen)
        found += _pick(row, models, prices)
        found += _outcome(row, prices)
    return found


def _identity(row: Prediction, prompts: Mapping[str, str] | None, seen: dict[tuple[str, str], int]) -> list[Problem]:
    found: list[Problem] = []
    optimality = row.raw.get("for_optimality")
    if "for_optimality" in row.raw and not isinstance(optimality, bool):
        found.append(
            Problem(row.number, "for_optimality", "error", f"true or false is expected, not {_shown(optimality)}")
        )
    query = row.query
    if query is None:
        found.append(Problem(row.number, QUERY_KEYS[0], "error", "it is missing, empty, or no text"))
    else:
        key = (query, (row.model or "") if row.for_optimality else "")
        if key in seen:
            found.append(Problem(row.number, QUERY_KEYS[0], "error", f"{query} is already in row {seen[key]}"))
        seen.setdefault(key, row.number)
    if row.prompt is None:
        found.append(Problem(row.number, PROMPT_KEYS[0], "error", "it is missing, empty, or no text"))
    if prompts is not None and query is not None:
        if query not in prompts:
            found.append(Problem(row.number, QUERY_KEYS[0], "error", f"the split has no {query}"))
        elif row.prompt is not None and row.prompt != prompts[query]:
            found.append(Problem(row.number, PROMPT_KEYS[0], "error", "it is not the split's prompt"))
    return found


def _pick(row: Prediction, models: Mapping[str, float | None] | None, prices: Prices | None) -> list[Problem]:
    model = row.model
    if model is None:
        return [Problem(row.number, "prediction", "error", "it is missing, empty, or no text")]
    if models is not None and model not in models:
        return [Problem(row.number, "prediction", "error", f"{model} is not in the configuration")]
    if prices is None or model.removesuffix("_batch") in prices.by_model:
        return []
    near = prices.find(model)
    if near is None:
        return [Problem(row.number, "prediction", "error", f"{model} has no price; upstream would charge nothing")]
    return [Problem(row.number, "prediction", "warning", f"{model} has no price; upstream would charge {near[0]}'s")]


def _outcome(row: Prediction, prices: Prices | None) -> list[Problem]:
    found: list[Problem] = []
    result = row.raw.get("generated_result")
    for field, most in (("accuracy", 1.0), ("cost", math.inf)):
        value = row.raw.get(field)
        one, _ = number(value, boolean=False)
        if value is not None and (math.isnan(one) or one > most or (field == "cost" and one < 0)):
            expected = "a number of at most 1" if field == "accuracy" else "dollars, 0 or more"
            found.append(Problem(row.number, field, "error", f"{expected}, or null, is expected, not {_shown(value)}"))
    if result is None:
        return found
    if row.generated is None:
        return [
            *found,
            Problem(row.number, "generated_result", "error", f"an object or null is expected, not {_shown(result)}"),
        ]
    success = row.generated.get("success")
    if not isinstance(success, bool):
        problem = f"true or false is expected, not {_shown(success)}"
        found.append(Problem(row.number, "generated_result.success", "error", problem))
    if not isinstance(row.generated.get("generated_answer"), str):
        found.append(Problem(row.number, "generated_result.generated_answer", "error", "it is missing, or no text"))
    used = row.tokens
    counts: list[float] = []
    for kind in ("input_tokens", "output_tokens", "total_tokens"):
        value = used.get(kind)
        one, _ = number(value, boolean=False)
        counts.append(one)
        if kind == "total_tokens" and value is None:
            continue
        if math.isnan(one) or one < 0 or one != int(one):
            place = f"generated_result.token_usage.{kind}"
            found.append(Problem(row.number, place, "error", f"a whole number is expected, not {_shown(value)}"))
        elif success is True and one == 0 and kind == "output_tokens":
            place = f"generated_result.token_usage.{kind}"
            found.append(Problem(row.number, place, "error", "an answer of 0 tokens counts as abnormal"))
    found += _cost(row, prices, counts)
    return found


def _cost(row: Prediction, prices: Prices | None, counts: Sequence[float]) -> list[Problem]:
    stored, _ = number(row.raw.get("cost"), boolean=False)
    entry = prices.find(row.model) if prices and row.model else None
    if entry is None or math.isnan(stored) or math.isnan(counts[0]) or math.isnan(counts[1]):
        return []
    due = [entry[1].of((counts[0], counts[1], counts[2]), rules) for rules in ("2025-11", "2026-07")]
    if any(math.isclose(stored, one, rel_tol=1e-6, abs_tol=1e-12) for one in due):
        return []
    reason = f"${stored:.8f} does not follow from its tokens, which cost ${due[1]:.8f}; scores are from tokens"
    return [Problem(row.number, "cost", "warning", reason)]


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
