# SPDX-License-Identifier: Apache-2.0
"""A board as JSON, as Markdown in RouterArena's columns, and as one page that needs no network."""

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import msgspec
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from mpsafe.arena.board.inputs import load
from mpsafe.arena.board.rows import Board, build
from mpsafe.arena.domains import CLASSES
from mpsafe.arena.live.page import chart

__all__ = ["FILES", "drift", "members", "render", "update"]

FILES: Final = ("board.json", "board.md", "board.html")
WIDTH: Final = 760
HEIGHT: Final = 330
EDGE: Final = 48


def update(board: Path) -> Board:
    """Builds a board anew from its inputs, and writes its three files."""
    found = build(board, load(board))
    for name, text in render(found).items():
        (board / name).write_text(text, encoding="utf-8")
    return found


def drift(board: Path) -> list[str]:
    """What is wrong with the three files: missing, or other than what the inputs give. Empty where all is well."""
    wrong: list[str] = []
    for name, text in render(build(board, load(board))).items():
        path = board / name
        if not path.exists():
            wrong.append(f"{name} is missing")
        elif path.read_bytes() != text.encode():
            wrong.append(f"{name} is not what the inputs give")
    return wrong


def render(found: Board) -> dict[str, str]:
    """The texts of the three files by name. The same board gives the same bytes."""
    told = msgspec.json.format(msgspec.json.encode({"shape": "mpsafe.board/1", **members(found)}), indent=2)
    return {"board.json": told.decode() + "\n", "board.md": _markdown(found), "board.html": _html(found)}


def members(found: Board) -> dict[str, Any]:
    """A board as JSON has it: the decisions of live runs stay in the inputs."""
    told = asdict(replace(found, live=[]))
    live = [{"name": one.name, "device": one.device, "seed": one.seed, "figures": one.figures, "verdict": one.verdict}
            for one in found.live]  # fmt: skip
    return {**told, "live": live}


def _markdown(found: Board) -> str:
    names = [
        *("Rank", "Router", "Affiliation", "Acc-Cost Arena", "95 %", "Accuracy", "Cost/1K Queries"),
        *("Optimal Selection", "Optimal Cost", "Optimal Accuracy", "Latency", "Decision p50, ms", "Robustness"),
    ]
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    for row in found.rows:
        marks = "" if row.comparable else " (not comparable)"
        cells = [
            *(str(row.group) if row.group else "-", f"{row.name}{marks}".replace("|", "\\|"), row.affiliation or "-"),
            *(f"{row.arena_score:.2f}", "-" if row.low is None else f"{row.low:.2f} to {row.high:.2f}"),
            *(f"{row.accuracy:.2f}", f"${row.cost_per_1k:.4f}"),
            *map(_dash, (row.opt_sel, row.opt_cost, row.opt_acc, row.latency_score)),
            *("-" if row.decision_p50_ms is None else f"{row.decision_p50_ms:.3f}", _dash(row.robustness)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    about = f"Rules {found.rules}, beta {found.beta:g}, prices {found.prices or '-'}, suite {found.suite or '-'}"
    lines += [
        "",
        f"{about}, {found.draws} draws, seed {found.seed}. Rank: group of routers that cannot be told apart.",
        "",
    ]
    live = [f"* Live, {one.name}: {one.verdict.sentence} {one.device}." for one in found.live if one.verdict]
    return "\n".join([*lines, *(f"* {note}" for note in found.notes), *live, ""])


def _dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _html(found: Board) -> str:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("mpsafe.arena", part) for part in ("board", "live")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    levels = sorted({level for row in found.rows for of in row.cells.values() for level in of}, key=_order)
    domains = sorted({domain for row in found.rows for domain in row.cells}, key=_class_order)
    return environment.get_template("page.jinja").render(
        board=found, points=_points(found), ticks=_ticks(found), width=WIDTH, height=HEIGHT, edge=EDGE,
        levels=levels, domains=domains, data=[asdict(row) for row in found.rows],
        live=[(one, chart(one.run)) for one in found.live],
    )  # fmt: skip


def _order(level: str) -> int:
    return ("easy", "medium", "hard", "all").index(level)


def _class_order(domain: str) -> int:
    return CLASSES.index(domain) if domain in CLASSES else len(CLASSES)


def _bounds(found: Board) -> tuple[float, float, float]:
    costs = [math.log10(row.cost_per_1k) for row in found.rows if row.cost_per_1k > 0] or [0.0]
    return min(costs) - 0.1, max(costs) + 0.1, max((row.accuracy for row in found.rows), default=100.0) + 4


def _points(found: Board) -> list[dict[str, object]]:
    low, high, top = _bounds(found)
    bottom = max(0.0, min((row.accuracy for row in found.rows), default=0.0) - 4)
    points: list[dict[str, object]] = []
    for row in found.rows:
        if row.cost_per_1k <= 0:
            continue
        x = EDGE + (math.log10(row.cost_per_1k) - low) / (high - low) * (WIDTH - 2 * EDGE)
        y = HEIGHT - EDGE - (row.accuracy - bottom) / (top - bottom) * (HEIGHT - 2 * EDGE)
        points.append({"x": round(x, 1), "y": round(y, 1), "row": row})
    return points


def _ticks(found: Board) -> list[dict[str, object]]:
    low, high, _ = _bounds(found)
    steps = range(math.ceil(low), math.floor(high) + 1)
    return [
        {"x": round(EDGE + (one - low) / (high - low) * (WIDTH - 2 * EDGE), 1), "label": f"${10.0**one:g}"}
        for one in steps
    ]
