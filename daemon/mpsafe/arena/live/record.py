# SPDX-License-Identifier: Apache-2.0
"""A live run as files: run.json, what it was, and trace.jsonl, a line for each decision; no more is scored."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec

from mpsafe.arena.files import contents, decode
from mpsafe.arena.live.figures import LiveFigures, Verdict, figures, verdict
from mpsafe.arena.live.plan import Plan
from mpsafe.arena.live.runner import Decision, Trace
from mpsafe.errors import BadArenaFile

__all__ = ["FILES", "LiveRun", "Scored", "read", "read_files", "score", "write"]

FILES: Final = ("run.json", "trace.jsonl")


@dataclass(frozen=True, slots=True)
class LiveRun:
    """All runs of one router and its twin. `device`: what the models ran on, in words; `prices`: dollars a token."""

    router: str
    device: str
    machine: str
    version: str
    prices: Mapping[str, float]
    plan: Plan
    traces: list[Trace]


@dataclass(frozen=True, slots=True)
class Scored:
    """The figures of each trace, in the order of the runs; `verdict` only where both twins met the faults."""

    figures: list[LiveFigures]
    verdict: Verdict | None


class _Line(msgspec.Struct):
    """A decision, and the number of its run."""

    run: int
    decision: Decision


def score(run: LiveRun) -> Scored:
    """Judges what was recorded."""

    def trace(*, aware: bool, faulted: bool) -> Trace | None:
        return next((one for one in run.traces if (one.aware, one.faulted) == (aware, faulted)), None)

    found = [
        figures(one, run.prices, trace(aware=one.aware, faulted=False) if one.faulted else None) for one in run.traces
    ]
    aware, blind = (trace(aware=each, faulted=True) for each in (True, False))
    return Scored(found, verdict(aware, blind) if aware is not None and blind is not None else None)


def write(place: Path, run: LiveRun) -> None:
    """Both files."""
    place.mkdir(parents=True, exist_ok=True)
    bare = replace(run, traces=[replace(one, decisions=[]) for one in run.traces])
    (place / FILES[0]).write_bytes(msgspec.json.format(msgspec.json.encode(bare), indent=1) + b"\n")
    lines = [_Line(number, one) for number, trace in enumerate(run.traces) for one in trace.decisions]
    (place / FILES[1]).write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))


def read(place: Path) -> LiveRun:
    """A run that was written. BadArenaFile names the file and the line that is none."""
    return read_files(*(place / name for name in FILES))


def read_files(path: Path, lines: Path) -> LiveRun:
    """A run by its two files, wherever they are."""
    try:
        run = msgspec.convert(decode(path, contents(path)), LiveRun)
    except msgspec.ValidationError as error:
        raise BadArenaFile(os.fspath(path), "", str(error)) from None
    decisions: Sequence[list[Decision]] = [[] for _ in run.traces]
    for number, data in enumerate(contents(lines).splitlines(), 1):
        try:
            line = msgspec.convert(decode(lines, data), _Line)
            decisions[line.run].append(line.decision)
        except (msgspec.ValidationError, IndexError) as error:
            raise BadArenaFile(os.fspath(lines), f"line {number}", str(error)) from None
    if not all(decisions):
        raise BadArenaFile(os.fspath(lines), "", "a run of run.json has no decision in it")
    return replace(run, traces=[replace(one, decisions=own) for one, own in zip(run.traces, decisions, strict=True)])
