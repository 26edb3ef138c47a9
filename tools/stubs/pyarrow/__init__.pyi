# SPDX-License-Identifier: Apache-2.0

from collections.abc import Sequence

from .parquet import Table

def concat_tables(tables: Sequence[Table]) -> Table: ...
