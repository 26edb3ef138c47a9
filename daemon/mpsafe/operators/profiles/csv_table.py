# SPDX-License-Identifier: Apache-2.0
"""Tables in CSV: some columns as numbers, checked."""

import csv
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mpsafe.errors import BadProfile
from mpsafe.operators.model import Floats

__all__ = ["curve", "rows"]


def rows(file: Path, wanted: Sequence[str], words: Sequence[str] = ()) -> Iterator[tuple[dict[str, float], list[str]]]:
    """Each row's numbers by column, and its `words`. Raises BadProfile."""
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            table = csv.DictReader(lines)
            if missing := sorted({*wanted, *words} - set(table.fieldnames or ())):
                raise BadProfile(str(file), f"has no column {missing[0]}")
            for number, row in enumerate(table, 2):
                try:
                    found = {name: float(row[name]) for name in wanted}
                except (TypeError, ValueError) as error:
                    raise BadProfile(str(file), f"line {number}: not a number where one is wanted") from error
                if not all(math.isfinite(value) and value >= 0 for value in found.values()):
                    raise BadProfile(str(file), f"line {number}: a negative number, or none")
                yield found, [row[name] for name in words]
    except OSError as error:
        raise BadProfile(str(file), f"cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadProfile(str(file), "is no CSV table") from error


def curve(points: Sequence[tuple[float, float]]) -> tuple[Floats, Floats]:
    """Ascending places and the median of what was measured at each."""
    at = defaultdict[float, list[float]](list)
    for place, value in points:
        at[place].append(value)
    places = sorted(at)
    return np.array(places), np.array([float(np.median(at[place])) for place in places])
