# SPDX-License-Identifier: Apache-2.0
"""The sources of RouterArena, and the Dewey class that each of them mostly falls into.

The published files carry the class of a query only in the full data set, which is not ours to ship; so the class here
is that of the source, by our own reading of it, and sources of many classes are called mixed. The list: the ids of the
published sub_10, and arXiv 2510.00202.
"""

from dataclasses import dataclass
from typing import Final

from mpsafe.arena.grading.families import dataset_of

__all__ = ["CLASSES", "SOURCES", "Source", "class_of"]

CLASSES: Final = (
    "computer science",
    "philosophy",
    "social science",
    "language",
    "science",
    "technology",
    "arts",
    "literature",
    "history",
)
MIXED: Final = "mixed"


@dataclass(frozen=True, slots=True)
class Source:
    """`name`: as ids begin; `dewey`: one of CLASSES or mixed; `bring`: what a user must fetch, under its own terms."""

    name: str
    dewey: str
    bring: str


SOURCES: Final = (
    Source("AIME", "science", "AIME problems with answers"),
    Source("ArcMMLU", "computer science", "ArcMMLU, library and information science"),
    Source("AsDiv", "science", "ASDiv, arithmetic in words"),
    Source("ChessInstruct", "arts", "ChessInstruct"),
    Source("Ethics", "philosophy", "ETHICS, commonsense to virtue"),
    Source("FinQA", "social science", "FinQA, with tables"),
    Source("GSM8K", "science", "GSM8K"),
    Source("GeoBench", "history", "GeoBench, geography"),
    Source("GeoGraphyData", "history", "a table of places"),
    Source("LiveCodeBench", "computer science", "LiveCodeBench, with its private tests"),
    Source("MATH", "science", "MATH"),
    Source("MMLU", "philosophy", "MMLU, the subjects of philosophy"),
    Source("MMLUPro", MIXED, "MMLU-Pro, with its categories"),
    Source("MathQA", "science", "MathQA"),
    Source("MedMCQA", "technology", "MedMCQA"),
    Source("MusicTheoryBench", "arts", "MusicTheoryBench"),
    Source("NarrativeQA", "literature", "NarrativeQA, with its summaries"),
    Source("OpenTDB", MIXED, "Open Trivia Database, by category"),
    Source("PubMedQA", "technology", "PubMedQA"),
    Source("QANTA", "literature", "QANTA, with its categories"),
    Source("SocialiQA", "social science", "Social IQa"),
    Source("SuperGLUE", "language", "SuperGLUE, seven of its tasks"),
    Source("WMT19", "language", "WMT19, eight pairs of languages"),
)
_BY_NAME: Final = {source.name: source for source in SOURCES}


def class_of(query: str) -> str:
    """The class of a query's source; a query of another suite is mixed."""
    dataset = dataset_of(query)
    source = _BY_NAME.get(dataset) or _BY_NAME.get(dataset.partition("-")[0])
    return source.dewey if source else MIXED
