# SPDX-License-Identifier: Apache-2.0
"""Which grader each dataset has. Source: config/eval_config/zero-shot/*.json and evaluate_models.py,
`determine_dataset_from_global_index` (4714a9a): the dataset is the id before its first underscore.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from mpsafe.arena.grading import texts
from mpsafe.arena.grading.mathematics import mathematics
from mpsafe.errors import BadRequest

__all__ = ["CODE", "Grade", "dataset_of", "grade", "metric_of"]

CODE: Final = "code_accuracy"
METEOR: Final = "meteor_score"

Grader = Callable[[str, str], tuple[float, str]]

GRADERS: Final[dict[str, Grader]] = {
    "chess_accuracy": texts.chess,
    "exact_match": texts.exact,
    "math_metric": mathematics,
    "mcq_accuracy": texts.choice,
    METEOR: texts.meteor,
    "superglue_clozetest": texts.cloze,
    "superglue_exact_match": texts.superglue,
}

_CHOICES: Final = (
    "MMLUPro OpenTDB PubMedQA ArcMMLU GeoBench MedMCQA Ethics MusicTheoryBench MMLU MathQA SocialiQA "
    "SuperGLUE-CausalReasoning"
).split()
FAMILIES: Final[dict[str, str]] = {
    **dict.fromkeys(_CHOICES, "mcq_accuracy"),
    **dict.fromkeys(("QANTA", "GeoGraphyData"), "exact_match"),
    **dict.fromkeys(("AsDiv", "FinQA", "MATH", "AIME", "GSM8K"), "math_metric"),
    **dict.fromkeys(
        [f"SuperGLUE-{name}" for name in ("Wic", "QA", "Entailment", "RC", "Wsc")], "superglue_exact_match"
    ),
    "ChessInstruct": "chess_accuracy",
    "LiveCodeBench": CODE,
    "NarrativeQA": METEOR,
    "SuperGLUE-ClozeTest": "superglue_clozetest",
}


@dataclass(frozen=True, slots=True)
class Grade:
    """`score`: at most 1; None where the row was not graded, and `why` says why. `extracted`: what was compared."""

    score: float | None
    extracted: str
    metric: str
    why: str = ""


def dataset_of(query: str) -> str:
    """The dataset of a global index."""
    return query.partition("_")[0]


def metric_of(query: str) -> str:
    """The metric's published name. BadRequest for a dataset that RouterArena does not have."""
    dataset = dataset_of(query)
    if dataset.startswith("WMT19-"):
        return METEOR
    if dataset not in FAMILIES:
        raise BadRequest("query", f"an id that begins with one of {', '.join(FAMILIES)} or WMT19-", repr(query))
    return FAMILIES[dataset]


def grade(metric: str, answer: str, truth: str) -> Grade:
    """One answer by one metric; code is for `sandbox.py`."""
    score, extracted = GRADERS[metric](answer, truth)
    return Grade(score, extracted, metric)
