# SPDX-License-Identifier: Apache-2.0
"""Graders of choices, names, moves and texts. Behaviour of llm_evaluation/metrics.py (4714a9a).

Oddities kept: a box with more than the letter is wrong; for truths 0 and 1 SuperGLUE's A is 0 and B is 1, for
Yes and No its A is Yes; a cloze truth is a word and so never equals a letter; the METEOR is home-made, and negative
where matched words repeat often in broken runs.
"""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from mpsafe.arena.grading.extraction import boxed, chess_move, plain_move

__all__ = ["chess", "choice", "cloze", "exact", "meteor", "superglue"]

LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ZERO_ONE: Final = {"A": "0.0", "0": "0.0", "FALSE": "0.0", "B": "1.0", "1": "1.0", "TRUE": "1.0"}
_YES_NO: Final = {"A": "Yes", "X": "Yes", "1": "Yes", "TRUE": "Yes", "B": "No", "Y": "No", "0": "No", "FALSE": "No"}
_CHINESE: Final = re.compile(r"[\u4e00-\u9fff]")


def choice(answer: str, truth: str) -> tuple[float, str]:
    """`mcq_accuracy`: the extracted text is the truth's letter; the truth is a letter or an index, 1.0 means B."""
    extracted = boxed(answer)
    letter = _letter(truth)
    return float(letter is not None and extracted == letter), extracted


def cloze(answer: str, truth: str) -> tuple[float, str]:
    """`superglue_clozetest`: as a choice; a truth that is neither letter nor index is compared as it is."""
    extracted = boxed(answer, cloze=True)
    index = _index(truth)
    outside = index is not None and index not in range(len(LETTERS))
    expected = truth if outside else _letter(truth) or truth
    return float(extracted == expected), extracted


def exact(answer: str, truth: str) -> tuple[float, str]:
    """`exact_match`: equal but for underscores, case and white space."""
    extracted = _name(boxed(answer))
    return float(extracted == _name(truth)), extracted


def superglue(answer: str, truth: str) -> tuple[float, str]:
    """`superglue_exact_match`: the extracted letter in the truth's own words, then exact."""
    extracted = boxed(answer)
    words: dict[str, str] = {}
    if truth in ("0.0", "1.0", "0", "1"):
        words = _ZERO_ONE
    elif truth in ("Yes", "No", "yes", "no", "YES", "NO"):
        words = _YES_NO
    return float(bool(answer and truth) and words.get(extracted.upper(), extracted) == truth), extracted


def chess(answer: str, truth: str) -> tuple[float, str]:
    """`chess_accuracy`: the same move in coordinates; numbers 0 to 25 are letters on both sides."""
    extracted = _move(chess_move(answer))
    return float(extracted == _move(truth)), extracted


def meteor(answer: str, truth: str) -> tuple[float, str]:
    """`meteor_score`: F1 of words, less a penalty for broken runs. No stems, no synonyms: not NLTK's METEOR.

    Any Chinese character makes a text one of characters instead of words. m: distinct matched words; k: the smaller
    of both texts' numbers of matched runs; the penalty is 0 where k is m, else 0.5 (k / m)^2.
    """
    extracted = boxed(answer)
    made, wanted = _words(extracted), _words(truth)
    matches = sum((Counter(made) & Counter(wanted)).values())
    if not matches:
        return 0.0, extracted
    precision, recall = matches / len(made), matches / len(wanted)
    matched = set(made) & set(wanted)
    runs = min(_runs(made, matched), _runs(wanted, matched))
    penalty = 0.0 if runs == len(matched) else 0.5 * (runs / len(matched)) ** 2
    return 2 * precision * recall / (precision + recall) * (1 - penalty), extracted


def _letter(truth: str) -> str | None:
    if len(truth) == 1 and truth.upper() in LETTERS and truth.isascii():
        return truth.upper()
    index = _index(truth)
    return LETTERS[index] if index is not None and 0 <= index < len(LETTERS) else None


def _index(truth: str) -> int | None:
    try:
        return int(float(truth))
    except (ValueError, OverflowError):
        return None


def _name(text: str) -> str:
    return " ".join(text.replace("_", " ").lower().split())


def _move(text: str) -> str:
    move = text.strip().lower()
    if move.isdigit():
        return LETTERS[int(move)].lower() if int(move) < len(LETTERS) else move
    return plain_move(move)


def _words(text: str) -> list[str]:
    plain = re.sub(r"[^\w\s]", " ", text.lower())
    if _CHINESE.search(plain):
        return [character for character in plain if character.strip()]
    return plain.split()


def _runs(words: Sequence[str], matched: set[str]) -> int:
    inside = [False, *(word in matched for word in words)]
    return sum(now and not before for before, now in pairwise(inside))
