# SPDX-License-Identifier: Apache-2.0
"""The demo's page: one timeline a run, drawn as SVG, and the table. One file, nothing fetched."""

import base64
import html
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from mpsafe.demo.scenario import GUILTY, TENANTS, Note, Run
from mpsafe.demo.takeover import How, Loss
from mpsafe.timeline import picture

__all__ = ["page", "told"]

WIDTH: Final = 1080
LEFT: Final = 90
ROW: Final = 34
BAR: Final = 20
TOP: Final = 26
BEFORE_SECONDS: Final = 1.0

STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1d21; background: #fff; max-width: 1120px; margin: 2rem auto; }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.05rem; margin: 2rem 0 .3rem }
p { max-width: 46rem } .note { color: #555 }
table { border-collapse: collapse; margin: 1rem 0 } th, td { text-align: left; padding: .35rem .9rem .35rem 0 }
th { font-weight: 600; border-bottom: 1px solid #bbb } td { border-bottom: 1px solid #e4e4e4 }
.good { color: #12703a } .bad { color: #b3261e } .lost { color: #8a5300 }
svg text { font: 12px system-ui, sans-serif; fill: #333 } svg .axis { fill: #777; font-size: 11px }
details { margin: .3rem 0 0 } pre { font: 12px/1.45 ui-monospace, monospace; overflow-x: auto; margin: .3rem 0 }
"""


def told(losses: Mapping[How, Loss]) -> list[str]:
    """What became of the decoder's requests, a sentence for each way."""
    lines: list[str] = []
    ways: tuple[tuple[How, str], ...] = (
        ("restart", "a decoder that is restarted"),
        ("standby", "a decoder with a warm standby"),
    )
    for how, words in ways:
        loss = losses[how]
        same = "all that it said is" if loss.said == losses["nothing"].said else "what it said is NOT"
        lines.append(f"{words}: silent for {loss.silence_ms:.0f} ms; {same} what an undisturbed run says")
    return lines


def page(runs: Sequence[Run], losses: Mapping[How, Loss], *, device: str) -> str:
    """The whole page for these runs. `device` says on what they ran."""
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>mpsafe: the same faults twice</title>",
        f"<style>{STYLE}</style><h1>The same faults twice</h1>",
        f"<p class=note>{html.escape(device)}. {platform.machine()}, Linux {platform.release()}, {when}.</p>",
        "<p>Three tenants answer requests on one device through MPS; every answer is checked. Tenant "
        f"<b>{GUILTY}</b> has a bug, which one request hits at 0 s. Each tenant is started again when it ends, "
        f"in every run. <b>{GUILTY}</b> catches its CUDA error and stays, its context open, as servers do that wrap "
        "each request in a try; stock MPS serves nobody again until it has left. In the run where nobody clings it "
        "ends at once, like the others: the best that stock MPS can do.</p>",
        _table(runs),
    ]
    longest = max(run.ended_at - run.fault_at for run in runs)
    for run in runs:
        parts += [f"<h2>{run.case.title}</h2>", _timeline(run, longest), _notes(run)]
    parts += [
        "<h2>mpsafe, SM exception beside a decoder</h2>",
        *(f"<p>{html.escape(line)}.</p>" for line in told(losses)),
    ]
    if (event := losses["standby"].event) is not None:
        # As an image of its own: a style in the page would reach all of it.
        drawn = base64.b64encode(picture("The takeover", event).encode()).decode()
        parts.append(f'<img alt="The takeover" src="data:image/svg+xml;base64,{drawn}">')
    return "\n".join([*parts, "</html>\n"])


def _table(runs: Sequence[Run]) -> str:
    head = "".join(f"<th>{run.case.title}" for run in runs)
    rows = ""
    for tenant in TENANTS:
        cells = ""
        for run in runs:
            outcome = run.outcome(tenant)
            style = "good" if outcome.first_failed_s is None else "bad" if outcome.back_s is None else "lost"
            cells += f"<td class={style}>{outcome.sentence}<br><small>{outcome.failed} requests failed</small>"
        rows += f"<tr><td><b>{tenant}</b>{' (guilty)' if tenant == GUILTY else ''}{cells}"
    return f"<table><tr><th>tenant{head}{rows}</table>"


def _timeline(run: Run, after_s: float) -> str:
    """The run on the axis that all runs share: `after_s` seconds after the fault."""
    begin, end = run.fault_at - BEFORE_SECONDS, run.fault_at + after_s
    scale = (WIDTH - LEFT - 10) / (end - begin)

    def x(when: float) -> float:
        return LEFT + (max(begin, min(end, when)) - begin) * scale

    height = TOP + ROW * (len(TENANTS) + 1) + 24
    drawn = [f'<svg viewBox="0 0 {WIDTH} {height}" width="100%" role="img" aria-label="timeline">']
    bottom = TOP + ROW * (len(TENANTS) + 1) - 8
    for second in range(-int(BEFORE_SECONDS), int(end - run.fault_at) + 1):
        at = x(run.fault_at + second)
        drawn.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{TOP - 6}" y2="{bottom}" stroke="#eee"/>')
        drawn.append(f'<text class=axis x="{at:.1f}" y="{bottom + 16}" text-anchor=middle>{second} s</text>')
    for row, tenant in enumerate(TENANTS):
        y = TOP + row * ROW
        drawn.append(f'<text x="0" y="{y + 15}">{tenant}{" (guilty)" if tenant == GUILTY else ""}</text>')
        for good, first, last in _spans(run, tenant, begin):
            colour = "#2e9e5b" if good else "#d8453b"
            width = max(1.2, x(last) - x(first))
            drawn.append(f'<rect x="{x(first):.1f}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{colour}"/>')
    if run.ended_at < end:
        at, middle = x(run.ended_at), TOP + ROW * len(TENANTS) / 2
        drawn.append(f'<text class=axis x="{at + 12:.1f}" y="{middle:.0f}">everybody answers: the run ends</text>')
    drawn += _marks(run, x, TOP + len(TENANTS) * ROW)
    at = x(run.fault_at)
    drawn.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="12" y2="{bottom}" stroke="#1a1d21" stroke-dasharray="4 3"/>')
    drawn.append(f'<text x="{at + 5:.1f}" y="14">the fault</text></svg>')
    return "\n".join(drawn)


def _spans(run: Run, tenant: str, begin: float) -> Iterable[tuple[bool, float, float]]:
    """Stretches of equal outcome: whether answers were right, from when, to when."""
    current: tuple[bool, float, float] | None = None
    for sample in run.samples[tenant]:
        done = sample.sent + sample.took
        if done < begin:
            continue
        if current is not None and current[0] == sample.good:
            current = (current[0], current[1], done)
            continue
        if current is not None:
            yield current
        current = (sample.good, sample.sent, done)
    if current is not None:
        yield current


def _marks(run: Run, x: Callable[[float], float], y: int) -> list[str]:
    """What mpsafe and the kernel said, as ticks that tell it when they are pointed at."""
    marks = [f'<text x="0" y="{y + 15}">log</text>']
    for note in run.notes:
        if note.when >= run.fault_at - BEFORE_SECONDS:
            colour = {"mpsafe": "#2457c5", "kernel": "#8a2be2"}.get(note.who, "#888")
            marks.append(
                f'<circle cx="{x(note.when):.1f}" cy="{y + 10}" r="4.5" fill="{colour}" fill-opacity=".75">'
                f"<title>{html.escape(_stamped(run, note))}</title></circle>"
            )
    return marks


def _notes(run: Run) -> str:
    lines = "\n".join(html.escape(_stamped(run, note)) for note in run.notes)
    return f"<details><summary>what was said ({len(run.notes)} lines)</summary><pre>{lines}</pre></details>"


def _stamped(run: Run, note: Note) -> str:
    return f"{note.when - run.fault_at:+8.3f} s  {note.who:<10}  {note.text}"
