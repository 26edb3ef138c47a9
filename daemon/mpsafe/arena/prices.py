# SPDX-License-Identifier: Apache-2.0
"""What a token costs, and what an answer costs by each version of the rules.

Source: llm_evaluation/evaluate_models.py, `calculate_inference_cost`, of 2025-11 and of 2026-07.
"""

import hashlib
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

import numpy as np
from numpy.typing import NDArray

from mpsafe.arena.files import contents, decode
from mpsafe.errors import BadArenaFile

__all__ = ["RULES", "Price", "Prices", "Rules"]

Tokens = NDArray[np.float64]
Rules = Literal["2025-11", "2026-07"]

RULES: Final[tuple[Rules, ...]] = ("2026-07", "2025-11")


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars per million tokens. `reasoning` is the output's price where the file has no own one."""

    input: float
    output: float
    reasoning: float

    def of(self, used: tuple[float, float, float], rules: Rules) -> float:
        """Dollars for (input, output, total) tokens; a count that is absent is NaN and costs nothing.

        2026-07 bills what the total has beyond input and output as reasoning.
        """
        given, made, total = (0.0 if math.isnan(one) else one for one in used)
        dollars = given / 1e6 * self.input + made / 1e6 * self.output
        if rules == "2026-07":
            dollars += max(0.0, total - given - made) / 1e6 * self.reasoning
        return dollars

    def of_many(self, given: Tokens, made: Tokens, total: Tokens, rules: Rules) -> Tokens:
        """The same of N rows; an absent count is 0."""
        dollars = given / 1e6 * self.input + made / 1e6 * self.output
        if rules == "2026-07":
            dollars = dollars + np.maximum(0.0, total - given - made) / 1e6 * self.reasoning
        return dollars


@dataclass(frozen=True, slots=True)
class Prices:
    """The prices of one file, in its order; `digest`: the first 16 digits of the SHA-256 of its bytes."""

    by_model: dict[str, Price]
    digest: str

    @classmethod
    def read(cls, path: Path) -> "Prices":
        """A price file of RouterArena. BadArenaFile names the model and the field that is no price."""
        data = contents(path)
        found = decode(path, data)
        if not isinstance(found, dict) or not found:
            raise BadArenaFile(os.fspath(path), "", "an object from model to prices is expected")
        by_model: dict[str, Price] = {}
        for model, entry in cast("dict[str, Any]", found).items():
            fields = cast("dict[str, Any]", entry) if isinstance(entry, dict) else {}
            given = _price(path, model, fields, "input")
            made = _price(path, model, fields, "output")
            own = "reasoning_token_price_per_million" in fields
            by_model[model] = Price(given, made, _price(path, model, fields, "reasoning") if own else made)
        return cls(by_model, hashlib.sha256(data).hexdigest()[:16])

    def find(self, model: str) -> tuple[str, Price] | None:
        """The entry that RouterArena's lookup takes for a model, or None: upstream then charges nothing.

        Without a trailing `_batch`: the same name, else the first entry whose name contains it or is contained in it,
        in the file's order. So an unknown `gpt-4o-...` can be charged as `gpt-4`.
        """
        name = model.removesuffix("_batch")
        if name in self.by_model:
            return name, self.by_model[name]
        return next(((key, price) for key, price in self.by_model.items() if key in name or name in key), None)


def _price(path: Path, model: str, fields: dict[str, Any], kind: str) -> float:
    value = fields.get(f"{kind}_token_price_per_million")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        problem = f"{kind}_token_price_per_million: dollars, 0 or more, are expected, not {value!r}"
        raise BadArenaFile(os.fspath(path), model, problem)
    return float(value)
