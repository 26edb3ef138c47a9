# SPDX-License-Identifier: Apache-2.0
r"""What of an answer is graded. Behaviour of llm_evaluation/enhanced_extractor.py (4714a9a), its oddities included:

* `\text{` is deleted before the box is looked for, so a box ends at the first brace: `\boxed{\text{A} x}` gives `A`;
* without a box, case does not matter behind `answer:`, so "answer: the" gives `T`;
* the last capital that stands alone wins, and "I" is one; so free text often shrinks to one letter.
"""

import re
from typing import Final

__all__ = ["boxed", "chess_move", "math_answer", "plain_move"]

_BOX: Final = re.compile(r"\\boxed\{([^}]+)\}")
_LETTERS: Final = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"answer\s*:\s*([A-Z])",
        r"(?:option|choice|select)[:\s]*([A-Z])",
        r"(?:answer|choice)\s*[:\-]\s*([A-Z])",
    )
)
_CAPITAL: Final = re.compile(r"\b([A-Z])\b")
_PHRASES: Final = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"answer\s*[:\-]\s*([^\n]+)",
        r"(?:result|solution)\s*[:\-]\s*([^\n]+)",
        r"(?:answer|result)\s+is\s+([^\n]+)",
    )
)
_MARKED: Final = tuple(re.compile(pattern) for pattern in (r"[\"']([^\"']+)[\"']", r"\(([^)]+)\)", r"\[([^\]]+)\]"))
_COLON: Final = re.compile(r"(?:answer|result|solution)[:\s]+([^\n]+)", re.IGNORECASE)
_NUMBER: Final = re.compile(r"\b(\d+(?:\.\d+)?)\b")
_MOVE: Final = re.compile(r"\b([a-h][1-8][a-h][1-8])\b", re.IGNORECASE)
_TOLD_MOVE: Final = re.compile(r"(?:move|play)[:\s]*([a-h][1-8][a-h][1-8])", re.IGNORECASE)
_WRAPPING: Final = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"^(?:the\s+)?(?:answer|result|solution)\s*[:\-]\s*",
        r"^(?:option|choice)\s*[:\-]\s*",
        r"^(?:letter|choice)\s*[:\-]\s*",
        r"\s*[:\-]\s*(?:is\s+)?the\s+(?:answer|result|solution)\.?$",
        r"\s*[:\-]\s*(?:is\s+)?correct\.?$",
        r"^[:\-\s]+",
        r"[:\-\s]+$",
        r"\.$",
        r"^[\"']|[\"']$",
        r"^(?:the\s+)?(?:final\s+)?answer\s+is\s+",
        r"^(?:the\s+)?result\s+is\s+",
    )
)


def boxed(answer: str, *, cloze: bool = False) -> str:
    """The first box, else a letter, a phrase or a marked part, else all of it.

    `cloze`: without a box the first character.
    """
    text = answer.strip()
    if not text:
        return ""
    if "\\boxed{" in text and (found := _BOX.search(text.replace("\\text{", ""))) and (box := found[1].strip()):
        return box
    if cloze:
        return text[0].upper()
    for pattern in _LETTERS:
        if found := pattern.search(text):
            return found[1].upper()
    if letters := _CAPITAL.findall(text):
        return str(letters[-1])
    if phrase := _phrase(text):
        return phrase
    for pattern in _MARKED:
        if (parts := pattern.findall(text)) and (part := str(parts[-1]).strip()):
            return part
        if parts:
            break
    if told := _COLON.findall(text):
        return _cleaned(str(told[-1])) or text
    return text


def math_answer(answer: str) -> str:
    """The first box with its braces balanced, else what a phrase tells, else the last number, else all of it."""
    text = answer.strip()
    if (start := text.find("\\boxed{")) >= 0:
        opening = start + len("\\boxed")
        depth = 0
        for place in range(opening, len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if depth == 0:
                if box := text[opening + 1 : place].strip():
                    return box
                break
    if phrase := _phrase(text):
        return phrase
    numbers = _NUMBER.findall(text)
    return str(numbers[-1]) if numbers else text


def chess_move(answer: str) -> str:
    """The box, else the last move in coordinates, else what `boxed` makes of it; without separators, in lower case."""
    text = answer.strip()
    if "\\boxed{" in text and (found := _BOX.search(text.replace("\\text{", ""))) and found[1].strip():
        return plain_move(found[1])
    for pattern in (_MOVE, _TOLD_MOVE):
        if moves := pattern.findall(text):
            return plain_move(str(moves[-1]))
    letters = _CAPITAL.findall(text)
    return plain_move(str(letters[-1]) if letters else text)


def plain_move(move: str) -> str:
    """Lower case, only letters and digits."""
    return re.sub(r"[^a-z0-9]", "", move.lower())


def _phrase(text: str) -> str:
    for pattern in _PHRASES:
        if (found := pattern.search(text)) and (cleaned := _cleaned(found[1])):
            return cleaned
    return ""


def _cleaned(phrase: str) -> str:
    text = phrase.strip()
    for pattern in _WRAPPING:
        text = pattern.sub("", text)
    return " ".join(text.split())
