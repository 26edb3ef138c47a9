# SPDX-License-Identifier: Apache-2.0

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

class _Column:
    def to_numpy(self) -> npt.NDArray[np.float64]: ...

class _Schema:
    names: list[str]

class Table:
    column_names: list[str]
    num_rows: int
    def __getitem__(self, name: str) -> _Column: ...
    def drop_columns(self, columns: Sequence[str]) -> Table: ...
    def set_column(self, i: int, field: str, column: Sequence[npt.NDArray[np.float64]]) -> Table: ...

def read_schema(where: str | os.PathLike[str]) -> _Schema: ...
def read_table(
    source: str | os.PathLike[str],
    *,
    columns: Sequence[str] | None = ...,
    filters: Sequence[tuple[str, str, Any]] | None = ...,
) -> Table: ...
def write_table(table: Table, where: str | os.PathLike[str]) -> None: ...
