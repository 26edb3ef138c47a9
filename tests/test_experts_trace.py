# SPDX-License-Identifier: Apache-2.0
"""This test will read traces of expert routes, whole, cut short and forged."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from expert_traces import OLMOE
from mpsafe.errors import BadTrace
from mpsafe.experts.trace import Trace, read, write


def lines(path: Path, *tokens: object) -> Path:
    path.write_text("".join(json.dumps(token) + "\n" for token in tokens))
    return path


def recorded() -> Trace:
    dice = np.random.default_rng(1)
    ids = [np.sort(dice.permutation(6)[:2]) for _ in range(5 * 3)]
    said = dice.random((5, 3, 6), np.float32).astype(np.float16).astype(np.float32)
    return Trace(
        name="made.npz",
        layers=3,
        experts=6,
        ids=ids,
        requests=np.asarray([0, 0, 1, 1, 1]),
        tokens=np.asarray([4, 5, 6, 7, 8]),
        expert_bytes=4096,
        probabilities=said,
        ahead=said[:, :, None].repeat(2, axis=2),
        embeddings=said[:, 0],
        contexts=said[:, 1],
    )


def test_the_real_trace_is_read_whole() -> None:
    trace = read(OLMOE)
    assert (len(trace), trace.layers, trace.experts, trace.widest) == (299, 16, 64, 8)
    assert sum(len(ids) for ids in trace.ids) == 38_272
    first = json.loads(OLMOE.read_text().splitlines()[0])
    assert [ids.tolist() for ids in trace.ids[:16]] == first["layers"]
    assert trace.tokens.tolist() == list(range(1, 300))


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    trace = recorded()
    write(tmp_path / "made.npz", trace)
    found = read(tmp_path / "made.npz")
    assert (found.name, found.layers, found.experts, found.expert_bytes) == ("made.npz", 3, 6, 4096)
    for name in ("ids", "requests", "tokens", "probabilities", "ahead", "embeddings", "contexts"):
        assert np.array_equal(np.asarray(getattr(found, name)), np.asarray(getattr(trace, name))), name


def test_layers_may_ask_for_different_numbers_and_for_none(tmp_path: Path) -> None:
    trace = read(lines(tmp_path / "t", {"layers": [[], [3], [0, 1]]}, {"layers": [[2], [], []], "more": 1}))
    assert [ids.tolist() for ids in trace.ids] == [[], [3], [0, 1], [2], [], []]
    assert (trace.widest, trace.tokens.tolist()) == (2, [0, 1])


NO_TRACES: list[tuple[list[Any], str]] = [
    ([], "there is no token"),
    ([{"layers": [[]]}], "none that asks"),
    ([{"layers": [[1], [2]]}, {"layers": [[1]]}], "line 2: it has 1 layers, the lines before have 2"),
    ([{"layers": [[1, 1]]}], "line 1, layer 0: an expert is named twice"),
    ([{"layers": [[8]]}], "line 1, layer 0: expert 8 is not one of 0 to 7"),
    ([{"layers": [[-1]]}], "line 1: Expected `int` >= 0"),
    ([{"layers": [[1.5]]}], "line 1: Expected `int`"),
    ([{"layers": [["1"]]}], "line 1: Expected `int`"),
    ([{"layers": []}], "line 1: Expected `array` of length >= 1"),
    ([{"layers": 3}], "line 1: Expected `array`"),
    ([{"tok": 1}], "line 1: Object missing required field `layers`"),
    ([[1]], "line 1: Expected `object`"),
]


@pytest.mark.parametrize(("tokens", "said"), NO_TRACES)
def test_a_trace_that_is_none_is_refused_with_its_line(tmp_path: Path, tokens: list[Any], said: str) -> None:
    with pytest.raises(BadTrace) as refused:
        read(lines(tmp_path / "t", *tokens), experts=8)
    assert str(refused.value).startswith(str(tmp_path / "t")) and said in str(refused.value)


def test_an_id_beyond_any_model_is_refused_without_being_told_how_many_there_are(tmp_path: Path) -> None:
    with pytest.raises(BadTrace, match="expert 99999 is not one of 0 to 4095"):
        read(lines(tmp_path / "t", {"layers": [[99_999]]}))


def test_a_trace_that_is_cut_anywhere_in_its_last_line_says_so(tmp_path: Path) -> None:
    whole = b"".join(OLMOE.read_bytes().splitlines(keepends=True)[:3])
    begins = whole.rindex(b"\n", 0, -1) + 1
    for end in range(begins + 1, len(whole) - 2, 7):
        (tmp_path / "cut").write_bytes(whole[:end])
        with pytest.raises(BadTrace, match=r"line 3: .*cut short"):
            read(tmp_path / "cut")


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(b'{"layers": [[1]]}\n\xff\xfe\n')
    with pytest.raises(BadTrace, match="line 2"):
        read(tmp_path / "t")


def test_a_line_without_an_end_is_not_read_into_memory(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(b'{"layers": [[' + b"1," * 600_000)
    with pytest.raises(BadTrace, match="line 1: it has more than"):
        read(tmp_path / "t")


def test_a_recorded_trace_that_is_cut_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "whole.npz", recorded())
    whole = (tmp_path / "whole.npz").read_bytes()
    for end in range(2, len(whole) - 1, 97):
        (tmp_path / "cut.npz").write_bytes(whole[:end])
        with pytest.raises(BadTrace, match="no whole archive"):
            read(tmp_path / "cut.npz")


FORGED: list[tuple[dict[str, Any], str]] = [
    ({"shape": np.asarray([1, 3, 6])}, "array shape: form 1"),
    ({"shape": np.asarray([2, 3, 6, 1])}, "array shape: form 1"),
    ({"shape": np.asarray([1, 4, 6, 1])}, "array ids"),
    ({"shape": np.asarray([1, 3, 5, 1])}, "not one of 0 to 4"),
    ({"shape": np.asarray([1, 3, 6, 0])}, "make no sense"),
    ({"ids": np.zeros((5, 3, 2), np.uint16)}, "named twice"),
    ({"ids": np.zeros((5, 3, 2), np.float32)}, "array ids: whole numbers"),
    ({"requests": np.zeros(4, np.uint32)}, "array requests"),
    ({"probabilities": np.zeros((5, 3, 7), np.float16)}, "array probabilities"),
    ({"embeddings": np.full((5, 4), np.nan, np.float16)}, "array embeddings: finite"),
    ({"ids": None}, "the array ids is missing"),
    ({"tokens": np.asarray([None] * 5, object)}, "no whole archive"),
]


@pytest.mark.parametrize(("change", "said"), FORGED)
def test_a_recorded_trace_that_is_forged_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    write(tmp_path / "made.npz", recorded())
    with np.load(tmp_path / "made.npz") as archive:
        arrays: dict[str, Any] = {**{name: archive[name] for name in archive.files}, **change}
    forged: dict[str, Any] = {name: array for name, array in arrays.items() if array is not None}
    np.savez(tmp_path / "made.npz", **forged)
    with pytest.raises(BadTrace) as refused:
        read(tmp_path / "made.npz")
    assert said in str(refused.value)
