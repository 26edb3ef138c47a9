# SPDX-License-Identifier: Apache-2.0
"""A prediction file as columns: what scoring needs of it, and a cache of that, keyed by the file's content."""

import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mpsafe.arena.files import Prediction, contents, read_predictions

__all__ = ["ABSENT", "BOOLEAN", "NOT_FINITE", "NUMBER", "OTHER", "Table", "cache_directory", "load"]

FORM: Final = "1"
# What stood where a number was expected.
ABSENT, NUMBER, BOOLEAN, OTHER, NOT_FINITE = range(5)


@dataclass(frozen=True, slots=True)
class Table:
    """N rows. Arrays [N]; a number that is absent or none is NaN, and its kind says which.

    `success`: is it the JSON value true. `used` [N, 3]: input, output and total tokens.
    """

    query: list[str]
    model: list[str]
    for_optimality: NDArray[np.bool_]
    success: NDArray[np.bool_]
    used: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    accuracy_kind: NDArray[np.int8]
    cost: NDArray[np.float64]
    cost_kind: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.query)

    @classmethod
    def of(cls, rows: Sequence[Prediction]) -> "Table":
        """The columns of the rows."""
        generated = [row.generated or {} for row in rows]
        tokens = [row.tokens for row in rows]
        names = ("input_tokens", "output_tokens", "total_tokens")
        accuracy = [number(row.raw.get("accuracy")) for row in rows]
        cost = [number(row.raw.get("cost")) for row in rows]
        return cls(
            query=[row.query or "" for row in rows],
            model=[row.model or "" for row in rows],
            for_optimality=np.asarray([row.for_optimality for row in rows], np.bool_),
            success=np.asarray([one.get("success") is True for one in generated], np.bool_),
            used=np.asarray(
                [[number(one.get(name), boolean=False)[0] for name in names] for one in tokens], np.float64
            ),
            accuracy=np.asarray([one for one, _ in accuracy], np.float64),
            accuracy_kind=np.asarray([kind for _, kind in accuracy], np.int8),
            cost=np.asarray([one for one, _ in cost], np.float64),
            cost_kind=np.asarray([kind for _, kind in cost], np.int8),
        )


def number(value: Any, *, boolean: bool = True) -> tuple[float, int]:
    """A value and its kind. A boolean is the number that Python takes it for, or NaN where it may not be one."""
    if value is None:
        return math.nan, ABSENT
    if isinstance(value, bool):
        return (float(value) if boolean else math.nan), BOOLEAN
    if isinstance(value, int | float):
        if abs(value) < 1e300:
            return float(value), NUMBER
        return math.nan, NOT_FINITE
    return math.nan, OTHER


def cache_directory() -> Path:
    """Where tables are kept: $XDG_CACHE_HOME/mpsafe/arena. Whatever is in it may be removed at any time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mpsafe" / "arena"


def load(path: Path, *, cache: Path | None = None) -> Table:
    """The table of a prediction file; where `cache` has it already, for just these bytes, from there."""
    data = contents(path)
    if cache is None:
        return Table.of(read_predictions(path, data))
    kept = cache / f"{hashlib.sha256(data).hexdigest()}-{FORM}.parquet"
    try:
        return _from_frame(pl.read_parquet(kept))
    except (OSError, pl.exceptions.PolarsError):
        table = Table.of(read_predictions(path, data))
    try:
        cache.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(f".{os.getpid()}")
        _frame(table).write_parquet(partial)
        partial.replace(kept)
    except OSError:
        return table
    return table


def _frame(table: Table) -> pl.DataFrame:
    columns = {name: getattr(table, name) for name in Table.__dataclass_fields__ if name != "used"}
    parts = {f"used{column}": table.used[:, column] for column in range(3)}
    return pl.DataFrame(columns | parts)


def _from_frame(frame: pl.DataFrame) -> Table:
    arrays = {
        name: frame[name].to_numpy() for name in Table.__dataclass_fields__ if name not in ("used", "query", "model")
    }
    used = np.stack([frame[f"used{column}"].to_numpy() for column in range(3)], axis=1)
    return Table(query=frame["query"].to_list(), model=frame["model"].to_list(), used=used, **arrays)
