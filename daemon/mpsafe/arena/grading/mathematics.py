# SPDX-License-Identifier: Apache-2.0
r"""The grader of mathematical answers. Behaviour of llm_evaluation/metrics.py, `math_metric` and `math_equal`
(4714a9a; from SkyThought), up to the symbolic step.

There the published code hands a model's text to sympy's parser, which executes Python. Here a text is turned from
LaTeX into a formula of numbers, one-letter names and known functions, and what is no such formula is not equal: no text
of a model is executed.

Oddities kept: only what stands behind the last `=` counts; 0.5 equals 50 and 0.5 % (a factor of 100 either way).
"""

import importlib
import math
import re
from typing import Any, Final

from mpsafe.arena.grading.extraction import math_answer

__all__ = ["equal", "mathematics"]

LENGTH_MAX: Final = 200
_FUNCTIONS: Final = ("sqrt", "pi", "sin", "cos", "tan", "log", "ln", "exp")
_FORMULA: Final = re.compile(r"[0-9a-zA-Z+\-*/().,! ]+")
_NAMES: Final = re.compile(r"[a-zA-Z]+")
_POWER: Final = re.compile(r"\*\*\s*\(?\s*-?(\d+)")
_LATEX: Final = (
    (re.compile(r"\\(?:left|right|displaystyle|,|;|!|quad|mathrm|text|\$)|\$|\\ "), ""),
    (re.compile(r"\\[dt]frac"), r"\\frac"),
    (re.compile(r"\\frac\s*(\d)\s*(\d)"), r"((\1)/(\2))"),
    (re.compile(r"\\frac\{([^{}]*)\}\{([^{}]*)\}"), r"((\1)/(\2))"),
    (re.compile(r"\\sqrt\{([^{}]*)\}"), r"sqrt(\1)"),
    (re.compile(r"\\sqrt\s*(\d)"), r"sqrt(\1)"),
    (re.compile(r"\\(?:cdot|times)"), "*"),
    (re.compile(r"\\(pi|sin|cos|tan|log|ln|exp)"), r"\1"),
    (re.compile(r"\^\{([^{}]*)\}"), r"**(\1)"),
    (re.compile(r"\^"), "**"),
)


def mathematics(answer: str, truth: str) -> tuple[float, str]:
    """`math_metric`: equal as texts, as numbers, or as formulas."""
    extracted = math_answer(answer)
    if "=" in extracted:
        extracted = extracted.rsplit("=", 1)[1].strip()
    return float(equal(extracted, truth)), extracted


def equal(made: str, wanted: str) -> bool:
    """Whether two answers mean the same."""
    if made.strip().lower() == wanted.strip().lower():
        return True
    if wanted in ("A", "B", "C", "D", "E") and _letter(made) == wanted:
        return True
    left, right = _number(made), _number(wanted)
    if left is not None and right is not None:
        return any(math.isclose(one, left, rel_tol=1e-4) for one in (right / 100, right, right * 100))
    if not made:
        return False
    made, wanted = made.strip(), wanted.strip()
    if _bare(made, wanted):
        return True
    bracketed = re.compile(r"[(\[].+[)\]]")
    if bracketed.match(made) and bracketed.match(wanted) and _all_equal(made[1:-1].split(","), wanted[1:-1].split(",")):
        return True
    rows, wanted_rows = _matrix(made), _matrix(wanted)
    if (
        rows
        and len(rows) == len(wanted_rows)
        and all(_all_equal(one.split("&"), other.split("&")) for one, other in zip(rows, wanted_rows, strict=True))
    ):
        return True
    for one, other in ((made, wanted), (wanted, made)):
        if one.count("=") == 1 and len(one.split("=")[0].strip()) <= 2 and "=" not in other:
            return equal(one.split("=")[1], other) or _symbolic(made, wanted)
    if made.count("=") == 1 and wanted.count("=") == 1:
        sides = [f"({one.split('=')[0]}) - ({one.split('=')[1]})" for one in (made, wanted)]
        return _symbolic(sides[0], sides[1]) or _symbolic(f"-({sides[0]})", sides[1])
    return _symbolic(made, wanted)


def _letter(text: str) -> str:
    cleaned = text.strip("\n").rstrip(".").rstrip("/").strip(" ").lstrip(":")
    letters = re.findall(r"\b([A-E])\b", cleaned.upper())
    return str(letters[-1]) if letters else cleaned.strip().strip(".").rstrip("./")


def _number(text: str) -> float | None:
    plain = text.replace(",", "")
    try:
        return float(plain)
    except ValueError:
        pass
    if not plain.endswith("%"):
        return None
    try:
        return float(plain[:-1].removesuffix("\\")) / 100
    except ValueError:
        return None


def _bare(made: str, wanted: str) -> bool:
    """Equal but for brackets."""
    if (made[:1] == "[" and made[-1:] == "]" and wanted[:1] != "(") or (
        made[:1] == "(" and made[-1:] == ")" and wanted[:1] != "["
    ):
        made, wanted = made.strip("[]()"), wanted.strip("[]()")
    made, wanted = (re.sub(r"[{}()]", "", one) for one in (made, wanted))
    return made.lower() == wanted.lower()


def _all_equal(made: list[str], wanted: list[str]) -> bool:
    return len(made) == len(wanted) and all(equal(one, other) for one, other in zip(made, wanted, strict=True))


def _matrix(text: str) -> list[str]:
    found = re.fullmatch(r"\\begin\{[pb]matrix\}(.*)\\end\{[pb]matrix\}", text, re.DOTALL)
    return [row.strip() for row in found[1].split("\\\\") if row.strip()] if found else []


def _symbolic(made: str, wanted: str) -> bool:
    left, right = _formula(made), _formula(wanted)
    if left is None or right is None:
        return False
    sympy: Any = importlib.import_module("sympy")
    try:
        if left == right or sympy.simplify(left - right) == 0:
            return True
        return math.isclose(float(sympy.N(right)), float(sympy.N(left)), rel_tol=1e-4)
    except (TypeError, ValueError, ArithmeticError, AttributeError, RecursionError):
        return False


def _formula(text: str) -> Any:
    """A sympy expression, or None. Names are one letter or a known function, exponents have at most three digits."""
    if len(text) > LENGTH_MAX:
        return None
    plain = text.strip().rstrip(".").replace("\\\\", "\\")
    for pattern, replacement in _LATEX:
        before = ""
        while before != plain and "{" in pattern.pattern:
            before, plain = plain, pattern.sub(replacement, plain)
        plain = pattern.sub(replacement, plain)
    known = all(len(name) == 1 or name in _FUNCTIONS for name in _NAMES.findall(plain))
    if not _FORMULA.fullmatch(plain) or not known or any(len(one) > 3 for one in _POWER.findall(plain)):
        return None
    if plain.count("**") > 2 or plain.count("!") > 1:
        return None
    parsing: Any = importlib.import_module("sympy.parsing.sympy_parser")
    sympy: Any = importlib.import_module("sympy")
    names = {
        name: getattr(sympy, name) for name in (*_FUNCTIONS, "Integer", "Float", "Symbol", "Rational", "factorial")
    }
    rules = (*parsing.standard_transformations, parsing.implicit_multiplication)
    try:
        return parsing.parse_expr(plain, global_dict={**names, "__builtins__": {}}, transformations=rules)
    except Exception:  # what sympy's parser raises has no bound
        return None
