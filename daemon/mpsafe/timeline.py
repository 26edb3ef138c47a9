# SPDX-License-Identifier: Apache-2.0
"""What happened when in a takeover: as lines, and as a picture that needs nothing but itself.

Times are milliseconds from the fault, by the clock of its source; the standby's own times are its word.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

from mpsafe.model import Event, Takeover

__all__ = ["Moment", "moments", "picture"]

NS_PER_MS: Final = 1e6
WIDTH: Final = 720
ROW: Final = 26
LEFT: Final = 250
RIGHT: Final = 90
# How much of what follows the first answer is drawn to scale.
BEYOND: Final = 1.25
WORDS: Final = {
    "signal_ns": "mpsafed has its first signal",
    "decided_ns": "what to do is written down",
    "promoted_ns": "the standby is told",
    "received_ns": "the standby knows",
    "serving_ns": "first correct answer",
    "proven_ns": "the old process is proven stopped",
    "granted_ns": "its durable regions may be written",
}


@dataclass(frozen=True, slots=True)
class Moment:
    """One point of the timeline, in milliseconds after the fault."""

    name: str
    words: str
    after_ms: float


def moments(event: Event, takeover: Takeover) -> list[Moment]:
    """Those that were reached, in the order in which they were."""
    reached = [(name, int(getattr(takeover, name))) for name in WORDS]
    found = [Moment(name, WORDS[name], (ns - event.time_ns) / NS_PER_MS) for name, ns in reached if ns]
    return sorted(found, key=lambda moment: moment.after_ms)


def picture(title: str, event: Event) -> str:
    """A self-contained SVG of an event's takeovers, one block each."""
    blocks: list[str] = []
    top = 34
    for takeover in event.takeovers:
        block, height = _block(moments(event, takeover), _heading(takeover), top)
        blocks.append(block)
        top += height
    style = (
        "text{font:13px sans-serif;fill:#222}.t{font-weight:bold}.n{text-anchor:end}.a{fill:#666}"
        ".b{fill:#9ab}.s{fill:#163}.c{fill:none;stroke:#678;stroke-dasharray:6 4}"
    )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top + 8}" viewBox="0 0 {WIDTH} {top + 8}">'
    )
    body = f'<rect width="100%" height="100%" fill="#fff"/><text class="t" x="12" y="22">{escape(title)}</text>'
    return f"{head}<style>{style}</style>{body}{''.join(blocks)}</svg>\n"


def _heading(takeover: Takeover) -> str:
    old = takeover.victim.pid if takeover.victim is not None else "?"
    new = takeover.standby.pid if takeover.standby is not None else "nobody"
    return f"{takeover.tenant}: process {old} is lost, {new} takes over in epoch {takeover.epoch}"


def _block(found: Sequence[Moment], heading: str, top: int) -> tuple[str, int]:
    """A row for each moment: a bar from the fault to it. What came long after the first answer is cut, and dashed."""
    longest = max((moment.after_ms for moment in found), default=1.0)
    served = next((moment.after_ms for moment in found if moment.name == "serving_ns"), longest)
    end = max(min(longest, served * BEYOND), 1e-3)
    span = WIDTH - LEFT - RIGHT
    parts = [f'<text class="a" x="12" y="{top + 16}">{escape(heading)}</text>']
    y = top + ROW
    for moment in found:
        length = max(2.0, min(1.0, max(0.0, moment.after_ms) / end) * span)
        look = "c" if moment.after_ms > end else "s" if moment.name == "serving_ns" else "b"
        parts.append(f'<text class="n" x="{LEFT - 10}" y="{y + 16}">{escape(moment.words)}</text>')
        parts.append(f'<rect class="{look}" x="{LEFT}" y="{y + 5}" width="{length:.1f}" height="14"/>')
        parts.append(f'<text x="{LEFT + length + 6:.1f}" y="{y + 16}">{moment.after_ms:.2f} ms</text>')
        y += ROW
    return "".join(parts), y - top + 10
