# SPDX-License-Identifier: Apache-2.0
"""This test will grade recorded answers, and compare with the grades that RouterArena gave them."""

import shutil

import pytest

from arena_data import ARENA, MODELS
from mpsafe.arena.files import read_cached
from mpsafe.arena.grading import extraction, sandbox, texts
from mpsafe.arena.grading.families import CODE, grade, metric_of
from mpsafe.arena.grading.mathematics import equal
from mpsafe.arena.grading.pool import Task, grade_all
from mpsafe.arena.regrade import regrade
from mpsafe.errors import BadRequest, NoSandbox
from requires import requires


@pytest.mark.parametrize("model", MODELS)
def test_each_stored_grade_is_reproduced(model: str) -> None:
    rows = [row for row in read_cached(ARENA / f"{model}.jsonl") if metric_of(row.query) != CODE]
    wrong: list[tuple[str, float | None, float]] = []
    for row in rows:
        told = row.evaluation
        assert told is not None
        assert metric_of(row.query) == told["metric"]
        found = grade(told["metric"], row.answer, str(told["ground_truth"]))
        if found.score is None or abs(found.score - told["score"]) > 1e-12:
            wrong.append((row.query, found.score, told["score"]))
    assert wrong == []
    assert len(rows) > 100


@pytest.mark.parametrize(
    ("answer", "extracted"),
    [
        (r"so \boxed{ C }, not \boxed{D}", "C"),
        (r"\boxed{\text{A} or B}", "A"),
        ("I think answer: the first", "T"),
        ("select b", "B"),
        ("Because I said so, it is Q here", "Q"),
        ("the result is 'forty two' (maybe)", "forty two' (maybe)"),
        ("it is (perhaps) this", "perhaps"),
        ("plain words", "plain words"),
        ("   ", ""),
    ],
)
def test_what_is_extracted(answer: str, extracted: str) -> None:
    assert extraction.boxed(answer) == extracted


@pytest.mark.parametrize(
    ("answer", "extracted"),
    [(r"\boxed{\frac{1}{2}} x", r"\frac{1}{2}"), ("The answer is 42.", "42"), ("3 and then 4.5", "4.5")],
)
def test_what_is_extracted_of_mathematics(answer: str, extracted: str) -> None:
    assert extraction.math_answer(answer) == extracted


@pytest.mark.parametrize(
    ("made", "wanted", "same"),
    [
        ("0.5", "50", True),
        ("50%", "0.5", True),
        ("1,000", "1000.05", True),
        (r"\frac{1}{2}", r"\dfrac{2}{4}", True),
        ("(1, 2)", "[1,2]", True),
        ("x + 1", "1 + x", True),
        (r"2\sqrt{2}", r"\sqrt{8}", True),
        ("x = 3", "3", True),
        ("7", "8", False),
        ("x + 1", "x - 1", False),
        (r"\begin{pmatrix}1 & 2\\3 & 4\end{pmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", True),
        ("__import__('os').system('touch broken')", "2", False),
    ],
)
def test_equal_mathematics(made: str, wanted: str, same: bool) -> None:
    assert equal(made, wanted) is same


def test_superglue_has_two_alphabets() -> None:
    assert texts.superglue(r"\boxed{A}", "0.0")[0] == 1
    assert texts.superglue(r"\boxed{A}", "Yes")[0] == 1
    assert texts.superglue(r"\boxed{B}", "Yes")[0] == 0


def test_meteor_can_be_negative() -> None:
    assert texts.meteor(r"\boxed{a x a x a}", "a y a")[0] < 0


def test_unknown_dataset_is_refused() -> None:
    with pytest.raises(BadRequest, match="MyOwn_1"):
        metric_of("MyOwn_1")


def test_a_row_that_takes_too_long_is_ended() -> None:
    endless = "*".join(f"(x+{number})**99" for number in range(9, 19))[:190].rsplit("*(", 1)[0]
    slow = Task("math_metric", rf"\boxed{{({endless})}}", "sin(x)*cos(x)")
    quick = Task("math_metric", r"\boxed{3}", "3")
    found = grade_all([slow, quick, Task(CODE, "", "")], seconds=0.2, workers=1)
    assert (found[0].score, found[1].score, found[2].score) == (0.0, 1.0, None)


def test_code_is_not_executed_unless_asked() -> None:
    rows = [row for row in read_cached(ARENA / f"{MODELS[0]}.jsonl") if metric_of(row.query) == CODE]
    assert rows
    assert {one.score for one in regrade(rows, seconds=1, workers=1)} == {None}


SQUARE = "```python\ndef square(n):\n    return n * n\n```"
ECHO = "```python\nprint(input()[::-1])\n```"


@requires("bwrap")
@pytest.mark.parametrize(
    ("answer", "test", "score"),
    [
        (SQUARE, {"input": "7", "output": "49", "testtype": "functional"}, 1),
        (SQUARE, {"input": "7", "output": "50", "testtype": "functional"}, 0),
        (ECHO, {"input": "abc\n", "output": "cba", "testtype": "stdin"}, 1),
        ("no code", {"input": "", "output": "", "testtype": "stdin"}, 0),
        (
            "```python\nimport socket\nsocket.create_connection(('127.0.0.1', 9), 1)\n```",
            {"input": "", "output": "", "testtype": "stdin"},
            0,
        ),
        ("```python\nopen('/usr/evil', 'w')\n```", {"input": "", "output": "", "testtype": "stdin"}, 0),
        ("```python\nimport os\nprint(os.getuid())\n```", {"input": "", "output": "65534", "testtype": "stdin"}, 1),
        ("```python\nx = bytearray(1 << 33)\n```", {"input": "", "output": "", "testtype": "stdin"}, 0),
    ],
)
def test_code_in_the_sandbox(answer: str, test: dict[str, str], score: float) -> None:
    assert sandbox.execute(answer, [test]).score == score


def test_no_sandbox_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert shutil.which("bwrap") is None
    with pytest.raises(NoSandbox, match="bwrap is not installed"):
        sandbox.execute(SQUARE, [{"input": "7", "output": "49"}])
