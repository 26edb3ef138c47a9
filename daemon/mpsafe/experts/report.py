# SPDX-License-Identifier: Apache-2.0
"""A comparison of policies as one self-contained page: a picture and a table for each size of the cache."""

import html
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from mpsafe.experts.comparison import Arm, Comparison, Interval

__all__ = ["page", "verdict"]

WIDTH: Final = 900
BAR: Final = 18
NAME_WIDTH: Final = 150
COLOURS: Final = {"ours": "#0a7d4f", "ablation": "#7fbfa4", "baseline": "#5b7aa8", "bound": "#b9b3a4"}
WORDS: Final = {"ours": "ours", "ablation": "ours in part", "baseline": "baselines", "bound": "know the future"}
STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2em auto; padding: 0 1em; color: #1c2430; }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em } .note { color: #66707d }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 13px }
td { white-space: nowrap }
th, td { text-align: right; padding: 3px 8px; border-bottom: 1px solid #e3e6ea } th { font-weight: 600 }
th:first-child, td:first-child { text-align: left } tr.ours { background: #e8f5ef; font-weight: 600 }
tr.bound { color: #8a8577 } svg { width: 100%; height: auto }
svg text { font: 12px system-ui, sans-serif; fill: #1c2430 }
"""
HEADINGS: Final = (
    "policy",
    "hit rate",
    "bytes / LRU's",
    "precision",
    "wasted MB",
    "stall ms/token",
    "LRU to oracle closed",
    "us a layer",
    "mpsafe leads by [95 %]",
)


def verdict(found: Comparison) -> list[str]:
    """What the comparison says, in sentences."""
    ours = found.arm("mpsafe")
    ratio = f"mpsafe hits {ours.hit_rate:.4f} and moves {ours.bytes_ratio:.3f} times what LRU moves"
    lines = [f"{found.percent:g} %: {ratio}"]
    for name, closed, words in (
        (found.best, found.closed, "the best causal baseline, whatever it moves"),
        (found.best_lean, found.closed_lean, "the best that moves at most 1.05 times LRU's"),
    ):
        arm = found.arm(name)
        share = f"{100 * closed.mean:.0f} % [{100 * closed.low:.0f}, {100 * closed.high:.0f}]"
        beats = "it beats" if arm.lead.low > 0 else "it does not surely beat"
        seen = f"{words} ({arm.hit_rate:.4f}, {arm.bytes_ratio:.3f})"
        lines.append(f"{beats} {name}, {seen}, and closes {share} of the way to the joint oracle")
    return lines


def page(found: Sequence[Comparison], *, about: str, link: str) -> str:
    """The page. `about`: the traces; `link`: what the stall is modelled with."""
    when = datetime.now(UTC).isoformat(timespec="seconds")
    cores = len(os.sched_getaffinity(0))
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>mpsafe experts: policies compared</title>",
        f"<style>{STYLE}</style><h1>Which experts to keep, and which to bring ahead</h1>",
        f"<p class=note>{html.escape(about)}. Stall modelled with {html.escape(link)}: no measurement of a GPU. "
        f"{platform.machine()}, {cores} cores, Python {platform.python_version()}, {when}.</p>",
    ]
    for one in found:
        parts += [
            f"<h2>Room for {one.percent:g} % of the experts ({one.slots}), {one.prefetch} brought ahead a layer</h2>",
            *(f"<p>{html.escape(line[0].upper() + line[1:])}.</p>" for line in verdict(one)),
            _bars(one),
            _table(one),
        ]
    parts.append(
        "<p class=note>All policies meet the same requests, slots, link and rules of protection. Precision: of what "
        "was brought ahead, how much was used. Intervals: paired, bootstrapped over requests.</p></html>"
    )
    return "\n".join(parts) + "\n"


def _bars(found: Comparison) -> str:
    """Hit rates as bars, with a mark for what each moves beside LRU."""
    arms = sorted(found.arms, key=lambda arm: -arm.hit_rate)
    room = WIDTH - NAME_WIDTH - 60
    most = max(2.0, *(arm.bytes_ratio for arm in arms))
    height = len(arms) * (BAR + 4) + 40
    parts = [f"<svg viewBox='0 0 {WIDTH} {height}' role=img aria-label='hit rate and bytes of each policy'>"]
    for row, arm in enumerate(arms):
        y = 24 + row * (BAR + 4)
        at = NAME_WIDTH + room * arm.bytes_ratio / most
        parts += [
            f"<text x={NAME_WIDTH - 6} y={y + 13} text-anchor=end>{html.escape(arm.policy)}</text>",
            f"<rect x={NAME_WIDTH} y={y} width={room * arm.hit_rate:.1f} height={BAR} fill='{COLOURS[arm.role]}'>"
            f"<title>{html.escape(arm.about)}</title></rect>",
            f"<text x={NAME_WIDTH + room + 6} y={y + 13}>{arm.hit_rate:.3f}</text>",
            f"<path d='M{at:.1f} {y - 1}v{BAR + 2}' stroke='#c0392b' stroke-width=2 />",
        ]
    x = NAME_WIDTH
    for role, colour in COLOURS.items():
        parts.append(f"<rect x={x} y=4 width=10 height=10 fill='{colour}'/><text x={x + 14} y=13>{WORDS[role]}</text>")
        x += 120
    one = NAME_WIDTH + room / most
    parts += [
        f"<path d='M{x} 3v12' stroke='#c0392b' stroke-width=2 /><text x={x + 8} y=13>bytes moved, LRU = 1</text>",
        f"<path d='M{one:.1f} 20V{height - 14}' stroke='#c0392b' stroke-dasharray='2 4' opacity=.6 />",
        f"<text x={one:.1f} y={height - 2} text-anchor=middle>LRU's bytes</text></svg>",
    ]
    return "\n".join(parts)


def _table(found: Comparison) -> str:
    rows = [f"<tr class={arm.role}>{_cells(arm)}</tr>" for arm in sorted(found.arms, key=lambda arm: -arm.hit_rate)]
    heads = "".join(f"<th>{heading}</th>" for heading in HEADINGS)
    return f"<table><tr>{heads}</tr>{''.join(rows)}</table>"


def _cells(arm: Arm) -> str:
    cells = (
        html.escape(arm.policy),
        f"{arm.hit_rate:.4f}",
        f"{arm.bytes_ratio:.3f}",
        "" if arm.precision is None else f"{arm.precision:.3f}",
        f"{arm.wasted_bytes / 1e6:.1f}",
        f"{arm.stall_ms:.3f}",
        f"{100 * arm.closed:.0f} %",
        f"{arm.layer_us:.0f}",
        "" if arm.role == "ours" else _signed(arm.lead),
    )
    return "".join(f"<td>{cell}</td>" for cell in cells)


def _signed(interval: Interval) -> str:
    return f"{interval.mean:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"
