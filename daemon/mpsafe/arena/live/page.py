# SPDX-License-Identifier: Apache-2.0
"""A live run as one page that needs no network: the verdict, the figures, and both twins' timelines side by side."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from mpsafe.arena.live.faults import Happened
from mpsafe.arena.live.figures import LiveFigures
from mpsafe.arena.live.host import OUTSIDE
from mpsafe.arena.live.plan import KINDS
from mpsafe.arena.live.record import LiveRun, Scored
from mpsafe.arena.live.runner import Trace

__all__ = ["LINES", "chart", "page"]

WIDTH: Final = 1080
LEFT: Final = 80
TOP: Final = 34
ROW: Final = 34


@dataclass(frozen=True, slots=True)
class Line:
    """What a line of the table shows."""

    figure: Callable[[LiveFigures], float | None]
    name: str
    form: str
    about: str

    def cell(self, one: LiveFigures) -> str:
        """As text; what could not be measured is a dash."""
        value = self.figure(one)
        return "-" if value is None else self.form.format(value)


LINES: Final = (
    Line(lambda one: one.availability, "availability, %", "{:.1f}", "queries that were answered right within 1.5 s"),
    Line(
        lambda one: one.misroutes,
        "misroutes",
        "{}",
        "queries that went to a model that was down while another one was not",
    ),
    Line(
        lambda one: one.avoid_s,
        "time to avoid, s",
        "{:.2f}",
        "the longest that a model that was down was still picked, now and then or always",
    ),
    Line(
        lambda one: one.return_s,
        "time to return, s",
        "{:.2f}",
        "the longest that a model that answered again was not picked",
    ),
    Line(lambda one: one.stale, "stale decisions", "{}", "on a reading of the host that was too old to be believed"),
    Line(lambda one: one.middle_ms, "answer p50, ms", "{:.0f}", "of right answers"),
    Line(lambda one: one.slow_ms, "answer p99, ms", "{:.0f}", "of right answers"),
    Line(
        lambda one: one.collateral_ms,
        "collateral p99, ms",
        "{:.0f}",
        "of models that were up while another one was down",
    ),
    Line(
        lambda one: one.collateral_ratio,
        "the same beside no faults",
        "{:.2f}",
        "beside the same span of this router's run without faults",
    ),
    Line(lambda one: one.decision_p50_us, "decision p50, us", "{:.0f}", "the router alone"),
    Line(lambda one: one.decision_p99_us, "decision p99, us", "{:.0f}", "the router alone"),
    Line(lambda one: one.device_s_per_1k, "device s per 1,000", "{:.1f}", "as the models measure it, waiting aside"),
    Line(
        lambda one: one.cost_per_1k,
        "$ per 1,000 (nominal)",
        "{:.4f}",
        "nobody sells these models: 100 dollars for 10^12 multiplications",
    ),
    Line(lambda one: one.arena_score, "arena score", "{:.2f}", "RouterArena's, of availability and that cost"),
    Line(
        lambda one: one.resilience,
        "resilience, %",
        "{:.1f}",
        "the arena score beside that of the same run without faults",
    ),
)


def page(run: LiveRun, scored: Scored) -> str:
    """The page. The same run gives the same bytes."""
    environment = Environment(
        loader=PackageLoader("mpsafe.arena", "live"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    faulted = [trace for trace in run.traces if trace.faulted]
    return environment.get_template("page.jinja").render(
        run=run,
        scored=scored,
        lines=_lines(scored),
        chart=chart(run),
        happened=[_told(trace, one) for trace in faulted for one in trace.happened],
        notes=_notes(run),
    )


def chart(run: LiveRun) -> dict[str, Any]:
    """Both twins' timelines under faults, as timeline.jinja draws them."""
    bottom = TOP + ROW * len(run.prices)
    x = _axis(run.plan.seconds)
    step = max(1, round(run.plan.seconds / 12))
    ticks = [{"x": x(second), "label": second} for second in range(0, int(run.plan.seconds) + 1, step)]
    drawn = [_timeline(trace, list(run.prices), x) for trace in run.traces if trace.faulted]
    size = {"width": WIDTH, "height": bottom + 24, "top": TOP, "bottom": bottom, "left": LEFT}
    return {**size, "ticks": ticks, "timelines": drawn}


def _axis(seconds: float) -> Callable[[float], float]:
    return lambda at_s: round(LEFT + max(0.0, min(seconds, at_s)) / seconds * (WIDTH - LEFT - 10), 1)


def _lines(scored: Scored) -> list[dict[str, Any]]:
    return [
        {"name": line.name, "about": line.about, "cells": [line.cell(one) for one in scored.figures]} for line in LINES
    ]


def _timeline(trace: Trace, models: list[str], x: Callable[[float], float]) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for number, model in enumerate(models):
        downs: list[dict[str, Any]] = []
        for down in trace.downs:
            if down.model == model:
                to_s = trace.seconds if down.to_s is None else down.to_s
                text = f"{down.from_s:.2f} to {to_s:.2f} s" + ("" if down.to_s is not None else ", and on")
                width = max(2.0, round(x(to_s) - x(down.from_s), 1))
                downs.append({"x": x(down.from_s), "width": width, "kind": down.kind, "text": text})
        dots = [
            {
                "x": x(one.at_s),
                "right": one.status == "right",
                "stale": one.stale,
                "text": f"query {one.query} at {one.at_s:.2f} s: {one.status} after {1000 * one.took_s:.0f} ms",
            }
            for one in trace.decisions
            if one.picked == model
        ]
        rows.append({"model": model, "y": TOP + ROW * number, "downs": downs, "dots": dots})
    marks = [
        {
            "x": x(one.began_s),
            "label": _label(one),
            "width": round(x(one.ended_s) - x(one.began_s), 1) if one.fault.duration_s else 0,
        }
        for one in trace.happened
    ]
    title = "The state-aware router" if trace.aware else "Its health-blind twin"
    return {"title": title, "rows": rows, "marks": marks}


def _label(one: Happened) -> str:
    words = f"{one.fault.kind.replace('_', ' ')} {one.fault.target}".rstrip()
    return f"({words}: not done)" if one.problem else words


def _told(trace: Trace, one: Happened) -> dict[str, str]:
    return {
        "run": "state-aware" if trace.aware else "health-blind",
        "fault": f"{_label(one)}: {KINDS[one.fault.kind]}",
        "began": f"{one.began_s:.2f} s",
        "ended": f"{one.ended_s:.2f} s" if one.fault.duration_s else "",
        "problem": one.problem,
    }


def _notes(run: LiveRun) -> list[str]:
    return [
        "The models are real decoders with random weights, each a process and a tenant of its own: what they say makes "
        "no sense, and is right if it is what the same model says undisturbed, to the byte. Accuracy is availability.",
        f"{', '.join(OUTSIDE)}: no client of the MPS server, so that what ends that leaves somebody to route to.",
        "The state-aware router takes what its base picks, unless mpsafed's status page says that it does not answer "
        "(health, residency), or its own requests wait there or have just failed: then the least busy of the others. "
        "Its twin is the base alone. Neither asks a second time.",
        f"Router {run.router}; each run begins it anew, on the same host, with the same queries at the same times.",
    ]
