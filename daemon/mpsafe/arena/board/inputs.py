# SPDX-License-Identifier: Apache-2.0
"""What a board is made from: files, each kept under its own hash, and one list of them. Nothing is typed by hand."""

import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

import msgspec

from mpsafe.arena.choices import commitment_path, verify
from mpsafe.arena.files import contents, decode, read_cached, read_predictions
from mpsafe.arena.live import record
from mpsafe.arena.prices import Rules
from mpsafe.arena.table import digest
from mpsafe.errors import BadArenaFile, BadRequest

__all__ = ["Entry", "Inputs", "Kind", "add", "load", "save"]

LIST: Final = "inputs.json"
DIRECTORY: Final = "inputs"

Kind = Literal["predictions", "cached", "published", "live"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One input. `file`: its name in the directory of inputs, which ends in the digest of its content.

    `robustness`: the picks on paraphrased prompts; `comparable`: false for what has seen data that it is judged on;
    `trace`: the decisions of a live run; `decision_p50_ms`, `decision_p95_ms`: as its commitment says, None where
    there is none.
    """

    name: str
    kind: Kind
    file: str
    robustness: str | None = None
    affiliation: str = ""
    comparable: bool = True
    trace: str | None = None
    decision_p50_ms: float | None = None
    decision_p95_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Inputs:
    """All that a board follows from. `suite`: digest of the ids of the suite that was routed, where one is known."""

    rules: Rules = "2026-07"
    beta: float = 0.1
    seed: int = 0
    draws: int = 1000
    prices: str | None = None
    entries: tuple[Entry, ...] = field(default=())


def load(board: Path) -> Inputs:
    """The list of a board; an empty one where there is none yet. BadArenaFile where a file is not what it was."""
    path = board / LIST
    if not path.exists():
        return Inputs()
    try:
        found = msgspec.convert(decode(path, contents(path)), Inputs)
    except msgspec.ValidationError as error:
        raise BadArenaFile(os.fspath(path), "", str(error)) from None
    for file in _files(found):
        if Path(file).name != file or digest(contents(board / DIRECTORY / file)) != digest_of(file):
            raise BadArenaFile(os.fspath(board / DIRECTORY / file), "", "its content is not what its name says")
    return found


def save(board: Path, inputs: Inputs) -> None:
    """Writes the list."""
    board.mkdir(parents=True, exist_ok=True)
    text = msgspec.json.format(msgspec.json.encode(asdict(inputs)), indent=2)
    (board / LIST).write_bytes(text + b"\n")


def add(
    board: Path,
    inputs: Inputs,
    path: Path,
    *,
    name: str | None = None,
    robustness: Path | None = None,
    affiliation: str = "",
    comparable: bool = True,
) -> Inputs:
    """The list with one more input, whose file is kept; the same name replaces what had it.

    A commitment beside a prediction file is held against it, and says whether the router is comparable.
    """
    kind = _kind(path)
    committed = verify(path, read_predictions(path)) if commitment_path(path).exists() else None
    entry = Entry(
        name=name or (record.read(path.parent).router if kind == "live" else path.stem),
        kind=kind,
        file=keep(board, path),
        robustness=keep(board, robustness) if robustness else None,
        affiliation=affiliation,
        comparable=comparable and (committed is None or committed.comparable),
        trace=keep(board, path.with_name(record.FILES[1])) if kind == "live" else None,
        decision_p50_ms=committed.decision_p50_ms if committed else None,
        decision_p95_ms=committed.decision_p95_ms if committed else None,
    )
    others = [one for one in inputs.entries if (one.name, one.kind) != (entry.name, kind)]
    return replace(inputs, entries=(*others, entry))


def keep(board: Path, path: Path) -> str:
    """Keeps a file of inputs under its name and digest; the name."""
    data = contents(path)
    stem = re.sub(r"[^\w.-]", "_", path.stem)
    kept = board / DIRECTORY / f"{stem}-{digest(data)}{path.suffix}"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(data)
    return kept.name


def digest_of(file: str) -> str:
    """The digest in the name of an input."""
    return Path(file).stem.rpartition("-")[2]


def place(board: Path, file: str) -> Path:
    """Where an input lies."""
    return board / DIRECTORY / file


def _kind(path: Path) -> Kind:
    if path.name == record.FILES[0]:
        return "live"
    if path.suffix == ".jsonl":
        read_cached(path)
        return "cached"
    if path.suffix == ".json":
        read_predictions(path)
        return "predictions"
    if path.suffix == ".csv":
        return "published"
    raise BadRequest(
        "FILE",
        "a prediction file (.json), cached results (.jsonl), published rows (.csv) or a live run (run.json)",
        path.name,
    )


def _files(inputs: Inputs) -> Iterator[str]:
    if inputs.prices:
        yield inputs.prices
    for entry in inputs.entries:
        yield entry.file
        yield from filter(None, (entry.robustness, entry.trace))
