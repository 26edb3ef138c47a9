# SPDX-License-Identifier: Apache-2.0
"""Traces of requests to a served model: when each came, how long its prompt and its answer were.

Two published forms. Azure's CSV: TIMESTAMP (a date, seven digits of a second), ContextTokens, GeneratedTokens.
Mooncake's JSON lines: timestamp (ms), input_length, output_length; its times stand in groups some seconds apart, and
the requests of a group are spread at random, by the seed, until the next group begins.
"""

import csv
import io
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from mpsafe.errors import BadRequestTrace
from mpsafe.operators.model import Floats

__all__ = ["TOKENS_MAX", "Lengths", "Trace", "read", "superpose", "window"]

Lengths: TypeAlias = npt.NDArray[np.int64]

BYTES_MAX: Final = 1 << 30
TOKENS_MAX: Final = 1 << 22
COLUMNS: Final = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_DATE: Final = re.compile(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(\.\d{1,9})?(Z|[+-]\d\d:\d\d)?")


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests by time of arrival: seconds from the first one, lengths in tokens, an answer has one at least."""

    name: str
    arrivals_s: Floats
    prompts: Lengths
    outputs: Lengths

    def __len__(self) -> int:
        return len(self.arrivals_s)

    @property
    def span_s(self) -> float:
        """From the first arrival to where the next one would be expected."""
        last = float(self.arrivals_s[-1])
        return last * len(self) / (len(self) - 1) if last > 0 else 1.0


def read(path: Path, *, seed: int = 0) -> Trace:
    """A trace of either form. BadRequestTrace names the file, the line and what was expected."""
    name = os.fspath(path)
    try:
        if path.stat().st_size > BYTES_MAX:
            raise BadRequestTrace(name, "", f"it has more than {BYTES_MAX} bytes")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise BadRequestTrace(name, "", f"cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise BadRequestTrace(name, f"byte {error.start}", "it is not text in UTF-8") from None
    as_json = text.lstrip()[:1] == "{"
    rows = _mooncake(name, text) if as_json else _azure(name, text)
    if not rows:
        raise BadRequestTrace(name, "", "there is no request in it")
    times, prompts, outputs, lines = (np.asarray(column) for column in zip(*rows, strict=True))
    if (back := np.flatnonzero(np.diff(times) < 0)).size:
        late = int(back[0]) + 1
        problem = f"it is {times[late - 1] - times[late]:.6g} s earlier than the line before; sort the trace by time"
        raise BadRequestTrace(name, f"line {lines[late]}", problem)
    arrivals = _spread(times, seed) if as_json else times
    return Trace(path.name, arrivals - arrivals[0], prompts, np.maximum(outputs, 1))


def superpose(trace: Trace, copies: int, *, seed: int = 0) -> Trace:
    """The trace and `copies` - 1 more of it, each turned around its span by a time of its own, drawn by the seed."""
    if copies == 1:
        return trace
    shifts = np.random.default_rng(seed).uniform(0, trace.span_s, copies - 1)
    times = np.concatenate([trace.arrivals_s, *((trace.arrivals_s + shift) % trace.span_s for shift in shifts)])
    order = np.argsort(times, kind="stable")
    prompts, outputs = (np.tile(lengths, copies)[order] for lengths in (trace.prompts, trace.outputs))
    return Trace(f"{trace.name} x {copies}", times[order], prompts, outputs)


def window(trace: Trace, begin_s: float, end_s: float) -> Trace:
    """The requests from `begin_s` up to, not with, `end_s`. ValueError where there is none."""
    first, last = (int(at) for at in np.searchsorted(trace.arrivals_s, (begin_s, end_s)))
    if first == last:
        raise ValueError(f"no request of {trace.name} comes from {begin_s:g} s to {end_s:g} s")
    taken = slice(first, last)
    times = trace.arrivals_s[taken] - trace.arrivals_s[first]
    return Trace(trace.name, times, trace.prompts[taken], trace.outputs[taken])


_Row: TypeAlias = tuple[float, int, int, int]


def _azure(name: str, text: str) -> list[_Row]:
    lines = csv.reader(io.StringIO(text), strict=True)
    rows: list[_Row] = []
    try:
        heads = tuple(next(lines, list[str]()))
        if unknown := [head for head in heads if head not in COLUMNS]:
            raise BadRequestTrace(name, "line 1", f"the column {unknown[0]!r} is unknown")
        if missing := [head for head in COLUMNS if head not in heads]:
            raise BadRequestTrace(name, "line 1", f"the column {missing[0]} is missing")
        if len(heads) != len(COLUMNS):
            raise BadRequestTrace(name, "line 1", "a column is named twice")
        places = [heads.index(column) for column in COLUMNS]
        for row in lines:
            if not row:
                continue
            place = f"line {lines.line_num}"
            if len(row) != len(COLUMNS):
                raise BadRequestTrace(name, place, f"it has {len(row)} fields, {len(COLUMNS)} are expected")
            time, prompt, output = (row[at] for at in places)
            tokens = _count(name, place, COLUMNS[1], prompt, 1), _count(name, place, COLUMNS[2], output, 0)
            rows.append((_seconds(name, place, time), *tokens, lines.line_num))
    except csv.Error as error:
        raise BadRequestTrace(name, f"line {lines.line_num}", f"it is no CSV: {error}") from None
    return rows


def _seconds(name: str, place: str, text: str) -> float:
    if (parts := _DATE.fullmatch(text)) is not None:
        zone = parts[3] or ""
        try:
            whole = datetime.fromisoformat(parts[1] + zone.replace("Z", "+00:00"))
        except ValueError as error:
            raise BadRequestTrace(name, place, f"TIMESTAMP {text!r}: {error}") from None
        # Seconds of an epoch keep 100 ns in a float until the year 2255.
        return (whole if zone else whole.replace(tzinfo=UTC)).timestamp() + float(parts[2] or 0)
    try:
        seconds = float(text)
    except ValueError:
        raise BadRequestTrace(
            name, place, f"TIMESTAMP is a date like 2023-11-16 18:15:46.6805900, not {text!r}"
        ) from None
    if not 0 <= seconds < 1e11:
        raise BadRequestTrace(name, place, f"TIMESTAMP {text} is negative or no time")
    return seconds


def _count(name: str, place: str, column: str, text: str, least: int) -> int:
    if not (text.isascii() and text.isdecimal() and least <= int(text) <= TOKENS_MAX):
        problem = f"{column} is a whole number from {least} to {TOKENS_MAX}, not {text[:40]!r}"
        raise BadRequestTrace(name, place, problem)
    return int(text)


class _Line(msgspec.Struct):
    timestamp: Annotated[float, msgspec.Meta(ge=0, lt=1e14)]
    input_length: Annotated[int, msgspec.Meta(ge=1, le=TOKENS_MAX)]
    output_length: Annotated[int, msgspec.Meta(ge=0, le=TOKENS_MAX)]


_DECODER: Final = msgspec.json.Decoder(_Line)


def _mooncake(name: str, text: str) -> list[_Row]:
    rows: list[_Row] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = _DECODER.decode(line)
        except (msgspec.DecodeError, RecursionError) as error:
            raise BadRequestTrace(name, f"line {number}", str(error)) from None
        rows.append((row.timestamp / 1000, row.input_length, row.output_length, number))
    return rows


def _spread(times: Floats, seed: int) -> Floats:
    """Requests of equal times, spread until the next time, or for the median pause where that is shorter."""
    distinct, group, sizes = np.unique(times, return_inverse=True, return_counts=True)
    if len(distinct) < 2 or sizes.max() == 1:
        return times
    pauses = np.diff(distinct)
    usual = float(np.median(pauses))
    room = np.minimum(np.append(pauses, usual), usual)
    return np.sort(times + np.random.default_rng(seed).random(len(times)) * (room * (sizes > 1))[group])
