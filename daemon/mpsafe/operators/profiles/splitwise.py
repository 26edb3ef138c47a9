# SPDX-License-Identifier: Apache-2.0
"""Power in Splitwise's table: the only published measurement of it, whole models on A100s, 260 of 1,260 rows."""

from pathlib import Path
from typing import Final

import numpy as np

from mpsafe.errors import BadProfile
from mpsafe.operators.profiles.csv_table import rows

__all__ = ["BUSY_POWER", "busy_power"]

# Of the peak power, while it works: a tenth, half and nine tenths of those rows draw less. tests/ hold it to the table.
BUSY_POWER: Final = (0.43, 0.61, 0.74)


def busy_power(file: Path) -> tuple[float, float, float]:
    """Average power as a part of the peak, at 10, 50 and 90 % of the rows that have it; 0 means not measured. Raises
    BadProfile."""
    found = [row["average_power"] for row, _ in rows(file, ("average_power",)) if row["average_power"] > 0]
    if not found:
        raise BadProfile(str(file), "has no row with a power that was measured")
    low, middle, high = np.quantile(found, (0.1, 0.5, 0.9))
    return float(low), float(middle), float(high)
