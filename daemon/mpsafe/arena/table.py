# SPDX-License-Identifier: Apache-2.0
"""A prediction file as columns: what scoring needs of it, and a cache of that, keyed by the file's content."""

import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from mpsafe.arena.files import Prediction, contents, read_predictions

__all__ = [
    "ABSENT",
    "BOOLEAN",
    "NOT_FINITE",
    "NUMBER",
    "OTHER",
    "Table",
    "cache_directory",
    "columns",
    "digest",
    "load",
]

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


def digest(data: bytes) -> str:
    """Of a content, as files of inputs and of the cache are named."""
    return hashlib.sha256(data).hexdigest()[:16]


def load(path: Path, *, cache: Path | None = None, known: str | None = None) -> Table:
    """The table of a prediction file; where `cache` has it already, for just these bytes, from there.

    `known`: the digest of the content, where that was verified already.
    """
    if cache is None:
        return _parsed(path, contents(path))
    kept = cache / f"{known or digest(contents(path))}-{FORM}.parquet"
    try:
        return _from_frame(pl.read_parquet(kept))
    except (OSError, pl.exceptions.PolarsError):
        table = _parsed(path, contents(path))
    try:
        cache.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(f".{os.getpid()}")
        _frame(table).write_parquet(partial)
        partial.replace(kept)
    except OSError:
        return table
    return table


def _parsed(path: Path, data: bytes) -> Table:
    return columns(data) or Table.of(read_predictions(path, data))


def columns(data: bytes) -> Table | None:
    """What `Table.of` gives for a file that is as RouterArena writes it, in a fifth of the time; None for any other."""
    try:
        data.decode()  # texts that are skipped are not looked at
        rows = _ROWS.decode(data)
        generated = [row.generated_result or _NONE for row in rows]
        usage = [one.token_usage or _UNUSED for one in generated]
        accuracy, accuracy_kind = _numbers([row.accuracy for row in rows])
        cost, cost_kind = _numbers([row.cost for row in rows])
        return Table(
            query=[row.index or row.index_ or "" for row in rows],
            model=[row.prediction or "" for row in rows],
            for_optimality=np.asarray([row.for_optimality is True for row in rows], np.bool_),
            success=np.asarray([one.success is True for one in generated], np.bool_),
            used=np.stack(
                [
                    _numbers([one.input_tokens for one in usage], boolean=False)[0],
                    _numbers([one.output_tokens for one in usage], boolean=False)[0],
                    _numbers([one.total_tokens for one in usage], boolean=False)[0],
                ],
                axis=1,
            ),
            accuracy=accuracy,
            accuracy_kind=accuracy_kind,
            cost=cost,
            cost_kind=cost_kind,
        )
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError, ValueError):
        return None


class _Usage(msgspec.Struct):
    """OpenAI's names are unknown here on purpose: a file that has them is left to the other reading."""

    input_tokens: bool | int | float | None
    output_tokens: bool | int | float | None
    total_tokens: bool | int | float | None = None


class _Generated(msgspec.Struct):
    success: Any = None
    token_usage: _Usage | None = None


class _Row(msgspec.Struct):
    index: str | None = msgspec.field(name="global index", default=None)
    index_: str | None = msgspec.field(name="global_index", default=None)
    prediction: str | None = None
    generated_result: _Generated | None = None
    for_optimality: Any = None
    accuracy: bool | int | float | None = None
    cost: bool | int | float | None = None


_ROWS: Final = msgspec.json.Decoder(Annotated[list[_Row], msgspec.Meta(min_length=1)])
_NONE: Final = _Generated()
_UNUSED: Final = _Usage(None, None, None)
_KINDS: Final = {bool: BOOLEAN, int: NUMBER, float: NUMBER, type(None): ABSENT}


def _numbers(values: Sequence[float | None], *, boolean: bool = True) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
    """As `number` for each."""
    kinds = np.asarray([_KINDS[type(value)] for value in values], np.int8)
    found = np.asarray(values, np.float64)
    found[~(np.abs(found) < 1e300)] = math.nan
    kinds[(kinds == NUMBER) & np.isnan(found)] = NOT_FINITE
    if not boolean:
        found[kinds == BOOLEAN] = math.nan
    return found, kinds


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
