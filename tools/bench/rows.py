# SPDX-License-Identifier: Apache-2.0
"""Rows of figures, each beside a named baseline of the same run, and the file that they go to."""

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

__all__ = ["DIRECTORY", "Row", "machine", "percentile", "report"]

DIRECTORY: Final = Path("build/bench")


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `ratio` over 1 is better than the baseline; all our units are better when smaller,
    unless `more_is_better`."""

    metric: str
    value: float
    unit: str
    baseline: str
    baseline_value: float
    more_is_better: bool = False

    @property
    def ratio(self) -> float:
        """How many times better than the baseline."""
        better, worse = (self.value, self.baseline_value) if self.more_is_better else (self.baseline_value, self.value)
        return better / worse if worse else float("inf")


def percentile(values: Sequence[float], percent: float) -> float:
    """The value under which `percent` of all values lie, by interpolation."""
    return statistics.quantiles(values, n=1000, method="inclusive")[round(percent * 10) - 1]


def machine() -> str:
    """The machine in words: processor, cores, kernel, Python."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = models[0].partition(":")[2].strip() if models else platform.machine()
    cores = len(os.sched_getaffinity(0))
    return f"{model}, {cores} cores, Linux {platform.release()}, Python {platform.python_version()}"


def report(bench: str, device: str, rows: Sequence[Row]) -> None:
    """Prints the rows and writes build/bench/BENCH.json."""
    when = datetime.now(UTC).isoformat(timespec="seconds")
    table = Table(
        "metric", "value", "baseline", "baseline value", "ratio", title=f"{bench}, {when}, {machine()}, {device}"
    )
    for row in rows:
        mark = f"{row.ratio:.2f}x" if row.ratio >= 1 else f"[red]{row.ratio:.2f}x[/]"
        table.add_row(
            row.metric, f"{row.value:.4g} {row.unit}", row.baseline, f"{row.baseline_value:.4g} {row.unit}", mark
        )
    Console(width=None if Console().is_terminal else 170).print(table)
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    found = {"bench": bench, "date": when, "machine": machine(), "device": device}
    listed = [{k: v for k, v in asdict(row).items() if k != "more_is_better"} | {"ratio": row.ratio} for row in rows]
    (DIRECTORY / f"{bench}.json").write_text(json.dumps({**found, "rows": listed}, indent=1) + "\n")
