# SPDX-License-Identifier: Apache-2.0
"""The kernel part's core, compiled for user space: records through its ring, and faults all the way to a record read.

One thread, bursts of 256 records of the contract's size. The same bytes through a ring with one lock and nothing else
(no numbers, no count of losses), and through a pipe, are the baselines of the same run.
"""

import statistics
import subprocess
from pathlib import Path
from typing import Final

from driver_patches.user.build import program
from tools.bench.rows import Row, report

__all__ = ["main"]

RECORDS: Final = 1_000_000
ROUNDS: Final = 5
BOUND: Final = 1_000_000
LIMIT_SECONDS: Final = 240


def main() -> None:
    """Measures all of it several times, in turn, and writes the report with the medians."""
    binary = program(Path(__file__).with_name("records.c"))
    rounds = [_measure(binary) for _ in range(ROUNDS)]
    rate = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}

    def row(metric: str, name: str, baseline: str, value: float) -> Row:
        return Row(metric, rate[name], "1/s", baseline, value, more_is_better=True)

    ring, fault = "records through the ring", "absorbed faults, recorded and read"
    rows = [
        row(ring, "ring", "bound of the design", BOUND),
        row(ring, "ring", "a plain ring under one mutex", rate["plain"]),
        row(ring, "ring", "a pipe", rate["pipe"]),
        row(fault, "fault", "bound of the design", BOUND),
        row(fault, "fault", "a pipe", rate["pipe"]),
    ]
    report("kernel", "the core in user space (no GPU, no kernel)", rows)


def _measure(binary: Path) -> dict[str, float]:
    command = [str(binary), str(RECORDS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=LIMIT_SECONDS)
    return {name: float(rate) for name, rate in (line.split() for line in done.stdout.splitlines())}
