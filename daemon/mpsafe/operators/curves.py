# SPDX-License-Identifier: Apache-2.0
"""Measured points as functions: straight between two points, and beyond the last along the last two."""

import numpy as np

from mpsafe.operators.model import Floats

__all__ = ["along", "surface"]


def along(at: Floats, points: Floats, values: Floats) -> Floats:
    """`values` at `points` (ascending), read at `at`. Before the first point the first value holds."""
    found = np.interp(at, points, values)
    if len(points) > 1:
        slope = max(0.0, float((values[-1] - values[-2]) / (points[-1] - points[-2])))
        beyond = at > points[-1]
        found = np.where(beyond, values[-1] + (at - points[-1]) * slope, found)
    return np.asarray(found, np.float64)


def surface(rows: Floats, columns: Floats, points: dict[float, tuple[Floats, Floats]]) -> Floats:
    """A table at `rows` x `columns` from curves over the columns that were measured at some rows."""
    measured = np.array(sorted(points))
    curves = np.array([along(columns, *points[float(row)]) for row in measured])
    return np.stack([along(rows, measured, curves[:, column]) for column in range(len(columns))], axis=1)
