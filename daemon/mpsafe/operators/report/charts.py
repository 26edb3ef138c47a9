# SPDX-License-Identifier: Apache-2.0
"""Lines over time, as coordinates of an inline SVG."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from mpsafe.operators.model import Floats

__all__ = ["COLOURS", "Chart", "Line", "Tick", "chart", "windows"]

_Scale: TypeAlias = Callable[[float], float]

WIDTH: Final = 1080
HEIGHT: Final = 240
LEFT: Final = 64
RIGHT: Final = 24
TOP: Final = 26
BOTTOM: Final = 26
POINTS: Final = 540
COLOURS: Final = (
    "#0a7d4f",
    "#c2410c",
    "#2563a8",
    "#8b5cb8",
    "#a8862b",
    "#c0397b",
    "#4b5563",
    "#0891a3",
    "#7c8a1f",
    "#9f5f45",
    "#5468d4",
    "#2f9e63",
    "#b54a4a",
    "#6d7f8f",
    "#d08a1d",
    "#3f3f9f",
)


@dataclass(frozen=True, slots=True)
class Line:
    """Values by second. NaN: nothing there."""

    name: str
    seconds: Floats
    values: Floats
    colour: str = ""
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Tick:
    place: float
    label: str


@dataclass(frozen=True, slots=True)
class Chart:
    """`paths`: a line's name, colour, whether it is dashed, and its path's commands."""

    title: str
    paths: list[tuple[str, str, bool, str]]
    across: list[Tick]
    up: list[Tick]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def chart(title: str, lines: Sequence[Line], *, logarithmic: bool = False) -> Chart:
    """From 0 up, or from a power of ten where the lines span decades. Of many points in one place the
    highest is shown."""
    end = max((float(line.seconds[-1]) for line in lines if len(line.seconds)), default=1.0) or 1.0
    finite = np.concatenate([line.values[np.isfinite(line.values)] for line in lines] or [np.zeros(1)])
    most = float(finite.max(initial=0.0)) or 1.0
    above = finite[finite > 0]
    least = 10 ** math.floor(math.log10(float(above.min(initial=most)))) if logarithmic else 0.0
    if logarithmic and most <= least:
        most = 10 * least

    def x(second: float) -> float:
        return round(LEFT + second / end * (WIDTH - RIGHT - LEFT), 1)

    def y(value: float) -> float:
        part = math.log(max(value, least) / least) / math.log(most / least) if logarithmic else value / most
        return round(HEIGHT - BOTTOM - part * (HEIGHT - BOTTOM - TOP), 1)

    paths = [
        (line.name, line.colour or COLOURS[at % len(COLOURS)], line.dashed, _path(line, x, y))
        for at, line in enumerate(lines)
    ]
    step = _step(end / 60, 8)
    across = [Tick(x(60 * minute), f"{minute:g} min") for minute in np.arange(0, end / 60 + 1e-9, step)]
    if logarithmic:
        powers = range(round(math.log10(least)), math.floor(math.log10(most)) + 1)
        factors = (1, 2, 5) if len(powers) < 3 else (1,)
        marks = [factor * 10.0**power for power in powers for factor in factors if factor * 10.0**power <= most]
        up = [Tick(y(value), f"{value:g}") for value in marks]
    else:
        up = [Tick(y(value), f"{value:g}") for value in np.arange(0, most * 1.0001, _step(most, 5))]
    return Chart(title, paths, across, up)


def windows(arrivals_s: Floats, values: Floats, *, width_s: float = 30.0, share: float = 0.99) -> tuple[Floats, Floats]:
    """A quantile over the requests that came in each window, at its middle; NaN where none came."""
    bins = (arrivals_s // width_s).astype(np.int64)
    found = np.full(int(bins[-1]) + 1, np.nan)
    edges = np.searchsorted(bins, np.arange(len(found) + 1))
    for at, (begin, end) in enumerate(itertools.pairwise(edges)):
        if end > begin:
            found[at] = np.sort(values[begin:end])[math.ceil(share * (end - begin)) - 1]
    return (np.arange(len(found), dtype=np.float64) + 0.5) * width_s, found


def _step(span: float, most: int) -> float:
    """A round distance of at most so many ticks."""
    raw = span / most
    power = 10.0 ** math.floor(math.log10(raw))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)


def _path(line: Line, x: _Scale, y: _Scale) -> str:
    group = max(1, math.ceil(len(line.seconds) / POINTS))
    commands: list[str] = []
    pen = "M"
    for begin in range(0, len(line.seconds), group):
        values = line.values[begin : begin + group]
        values = values[np.isfinite(values)]
        if len(values) == 0:
            pen = "M"
            continue
        commands.append(f"{pen}{x(float(line.seconds[begin]))} {y(float(values.max()))}")
        pen = "L"
    return "".join(commands)
