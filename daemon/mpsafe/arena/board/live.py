# SPDX-License-Identifier: Apache-2.0
"""Live runs on a board: apart from its rows, since what small random models answer is compared with nobody's."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mpsafe.arena.board.inputs import Entry, place
from mpsafe.arena.live.figures import LiveFigures, Verdict
from mpsafe.arena.live.record import LiveRun, read_files, score

__all__ = ["LiveRow", "live_rows"]


@dataclass(frozen=True, slots=True)
class LiveRow:
    """One live run, scored from its trace."""

    name: str
    device: str
    seed: int
    figures: list[LiveFigures]
    verdict: Verdict | None
    run: LiveRun


def live_rows(board: Path, entries: Sequence[Entry]) -> list[LiveRow]:
    """Those of all live runs, in the order in which they were added."""
    found: list[LiveRow] = []
    for entry in entries:
        if entry.kind == "live" and entry.trace is not None:
            run = read_files(place(board, entry.file), place(board, entry.trace))
            scored = score(run)
            found.append(LiveRow(entry.name, run.device, run.plan.seed, scored.figures, scored.verdict, run))
    return found
