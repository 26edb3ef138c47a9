# SPDX-License-Identifier: Apache-2.0
"""This test will read traces of requests in both published forms, refuse bad ones with one sentence, and superpose."""

from pathlib import Path

import numpy as np
import pytest

from mpsafe.errors import BadRequestTrace
from mpsafe.operators.traces import Trace, read, superpose, window

HEADS = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
LINE = '{"timestamp": %d, "input_length": %d, "output_length": %d, "hash_ids": [1, 2]}\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "trace"
    path.write_text(text)
    return path


def test_azure(tmp_path: Path) -> None:
    rows = "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n2023-11-17 00:00:00,5,0\n"
    trace = read(write(tmp_path, HEADS + rows))
    assert trace.arrivals_s == pytest.approx([0, 4.314579, 20653.31941], abs=1e-6)
    assert (trace.prompts.tolist(), trace.outputs.tolist()) == ([374, 396, 5], [44, 109, 1])


def test_columns_in_another_order_and_times_in_seconds(tmp_path: Path) -> None:
    trace = read(write(tmp_path, "GeneratedTokens,TIMESTAMP,ContextTokens\n44,100.5,374\n1,101,2\n"))
    assert (trace.arrivals_s.tolist(), trace.prompts.tolist(), trace.outputs.tolist()) == ([0, 0.5], [374, 2], [44, 1])


def test_mooncake_groups_are_spread(tmp_path: Path) -> None:
    lines = "".join(LINE % (time, 100, 10) for time in (3000, 3000, 3000, 6000, 9000, 9000, 60000))
    path = write(tmp_path, lines)
    trace = read(path, seed=1)
    times = trace.arrivals_s + (3 + 3 * np.random.default_rng(1).random(7)[:3].min())
    assert (np.diff(times) >= 0).all()
    assert np.histogram(times, (3, 6, 9, 12, 60, 63))[0].tolist() == [3, 1, 2, 0, 1]
    assert len(set(times[:3])) == 3
    assert read(path, seed=1).arrivals_s.tolist() == trace.arrivals_s.tolist() != read(path, seed=2).arrivals_s.tolist()


BAD = {
    "unknown column": ("TIMESTAMP,ContextTokens,Tokens\n", "line 1: the column 'Tokens' is unknown"),
    "missing column": ("TIMESTAMP,ContextTokens\n", "line 1: the column GeneratedTokens is missing"),
    "no request": (HEADS, "there is no request in it"),
    "nothing": ("", "line 1: the column TIMESTAMP is missing"),
    "unsorted": (
        HEADS + "2023-11-16 18:15:46.5,1,1\n2023-11-16 18:15:46,1,1\n",
        "line 3: it is 0.5 s earlier than the line before; sort the trace by time",
    ),
    "negative time": (HEADS + "-3,1,1\n", "line 2: TIMESTAMP -3 is negative or no time"),
    "no time": (HEADS + "yesterday,1,1\n", "line 2: TIMESTAMP is a date like 2023-11-16 18:15:46.6805900"),
    "no date": (HEADS + "2023-13-16 18:15:46,1,1\n", "line 2: TIMESTAMP '2023-13-16 18:15:46': month must be in"),
    "a short line": (HEADS + "1,1\n", "line 2: it has 2 fields, 3 are expected"),
    "negative length": (HEADS + "1,-1,1\n", "line 2: ContextTokens is a whole number from 1 to 4194304, not '-1'"),
    "no prompt": (HEADS + "1,0,1\n", "line 2: ContextTokens is a whole number from 1"),
    "JSON, negative time": (LINE % (-1, 1, 1), "line 1: Expected `float` >= 0.0 - at `$.timestamp`"),
    "JSON, no length": ('{"timestamp": 1}\n', "line 1: Object missing required field `input_length`"),
    "JSON, cut short": (LINE % (1, 1, 1) + '{"timesta', "line 2: Input data was truncated"),
    "JSON, unsorted": (LINE % (1, 1, 1) + LINE % (0, 1, 1), "line 2: it is 0.001 s earlier"),
}


@pytest.mark.parametrize(("text", "problem"), BAD.values(), ids=BAD.keys())
def test_bad_file(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(BadRequestTrace) as caught:
        read(write(tmp_path, text))
    assert str(caught.value).startswith(f"{tmp_path / 'trace'}: {problem}")


def test_missing_file_and_binary_file(tmp_path: Path) -> None:
    with pytest.raises(BadRequestTrace, match="cannot be read: No such file"):
        read(tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadRequestTrace, match="byte 0: it is not text"):
        read(tmp_path / "binary")


def test_copies_keep_each_request_and_the_span() -> None:
    dice = np.random.default_rng(0)
    trace = Trace("t", np.sort(dice.random(50)) * 100, np.arange(1, 51), np.arange(2, 52))
    many = superpose(trace, 4, seed=3)
    assert len(many) == 200
    assert (np.diff(many.arrivals_s) >= 0).all()
    assert float(many.arrivals_s[-1]) < trace.span_s
    assert sorted(many.prompts.tolist()) == sorted(trace.prompts.tolist() * 4)
    assert (many.outputs == many.prompts + 1).all()
    assert superpose(trace, 4, seed=3).arrivals_s.tolist() == many.arrivals_s.tolist()
    assert superpose(trace, 4, seed=4).arrivals_s.tolist() != many.arrivals_s.tolist()
    assert superpose(trace, 1) is trace


def test_window() -> None:
    trace = Trace("t", np.arange(10.0), np.arange(1, 11), np.arange(1, 11))
    assert window(trace, 3, 6).prompts.tolist() == [4, 5, 6]
    assert window(trace, 3, 6).arrivals_s.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="no request of t"):
        window(trace, 20, 30)
