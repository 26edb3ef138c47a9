# SPDX-License-Identifier: Apache-2.0
"""Answers to routed queries, from an endpoint in OpenAI's shape or from recorded ones; a run that ends goes on later.

Each answer is one line of a journal beside the output, so a run of N rows writes N lines and not N files.
"""

import json
import math
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from mpsafe.arena.files import Object, Prediction, read_cached, write
from mpsafe.arena.table import number

__all__ = ["Endpoint", "Recorded", "latencies_ms", "run"]

ANSWER_BYTES_MAX: Final = 16 << 20
KEPT: Final = ("generated_answer", "success", "token_usage", "provider", "error")

Answer = Callable[[Prediction], Object | None]


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    usage: _Usage = msgspec.field(default_factory=_Usage)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`url`: up to and with /v1; `key`: sent as a bearer token where there is one. Temperature 0; no second try."""

    url: str
    key: str | None = None
    tokens: int = 1024
    seconds: float = 120

    def __call__(self, row: Prediction) -> Object:
        """What the model says, or why it does not: an error is an answer without success, never an exception.

        `latency_ms`, a key of ours: from the request until all of the answer was there.
        """
        messages = [{"role": "user", "content": row.prompt}]
        asked = {"model": row.model, "messages": messages, "max_tokens": self.tokens, "temperature": 0}
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = urllib.request.Request(
            f"{self.url.rstrip('/')}/chat/completions", json.dumps(asked).encode(), headers
        )
        began = time.perf_counter()
        try:
            with urllib.request.urlopen(request, timeout=self.seconds) as reply:
                told = msgspec.json.decode(reply.read(ANSWER_BYTES_MAX), type=_Completion)
            text = told.choices[0].message.content or ""
        except (OSError, urllib.error.URLError, msgspec.DecodeError, IndexError, ValueError) as error:
            return _result("", False, (0, 0, 0), f"{type(error).__name__}: {error}")
        took_ms = (time.perf_counter() - began) * 1e3
        used = told.usage
        counts = (used.prompt_tokens, used.completion_tokens, used.total_tokens)
        return _result(text, True, counts, None) | {"latency_ms": took_ms}


class Recorded:
    """Cached results: what each model has answered before."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._known = {(row.query, row.model): row.raw for path in paths for row in read_cached(path)}

    def __call__(self, row: Prediction) -> Object | None:
        """The recorded answer, or None where there is none."""
        found = self._known.get((row.query or "", row.model or ""))
        return {name: found.get(name) for name in KEPT} if found is not None else None


def run(
    rows: Sequence[Prediction], out: Path, answer: Answer, *, parallel: int = 1, done: Callable[[], None] = lambda: None
) -> list[Prediction]:
    """The rows with answers, written to `out` when all are there. What the journal beside it has is not asked again."""
    journal = out.with_name(out.name + ".journal")
    known = dict(_read(journal))
    left = [row for row in rows if row.number not in known and row.generated is None]
    for _ in range(len(rows) - len(left)):
        done()
    with journal.open("ab") as lines, ThreadPoolExecutor(parallel) as pool:
        for row, result in zip(left, pool.map(answer, left), strict=True):
            if result is not None:
                known[row.number] = result
                lines.write(json.dumps([row.number, row.query, result]).encode() + b"\n")
                lines.flush()
            done()
    filled = [
        Prediction(row.number, row.raw | {"generated_result": known[row.number]}) if row.number in known else row
        for row in rows
    ]
    write(out, filled)
    os.unlink(journal)
    return filled


def latencies_ms(rows: Sequence[Prediction]) -> tuple[float, float] | None:
    """The p50 and p95 of the answers of which it is known how long they took, or None."""
    found = [number((row.generated or {}).get("latency_ms"), boolean=False)[0] for row in rows]
    known = [one for one in found if not math.isnan(one)]
    if not known:
        return None
    middle, late = np.percentile(known, [50, 95])
    return float(middle), float(late)


def _read(journal: Path) -> Iterator[tuple[int, Object]]:
    """Whole lines; one that was cut short is asked again. An answer without success is, too."""
    if not journal.exists():
        return
    for line in journal.read_bytes().splitlines():
        try:
            number, _, result = msgspec.json.decode(line, type=tuple[int, str | None, dict[str, Any]])
        except msgspec.DecodeError:
            continue
        if result.get("success") is True:
            yield number, result


def _result(text: str, success: bool, used: tuple[int, int, int], error: str | None) -> Object:
    usage = dict(zip(("input_tokens", "output_tokens", "total_tokens"), used, strict=True))
    return {"generated_answer": text, "success": success, "token_usage": usage, "provider": "openai", "error": error}
