# SPDX-License-Identifier: Apache-2.0

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

class _Column:
    def to_numpy(self) -> npt.NDArray[np.generic]: ...

class _Schema:
    names: list[str]

class _Table:
    column_names: list[str]
    num_rows: int
    def __getitem__(self, name: str) -> _Column: ...

def read_schema(where: str | os.PathLike[str]) -> _Schema: ...
def read_table(
    source: str | os.PathLike[str],
    *,
    columns: Sequence[str] | None = ...,
    filters: Sequence[tuple[str, str, Any]] | None = ...,
) -> _Table: ...
