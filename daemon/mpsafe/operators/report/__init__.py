# SPDX-License-Identifier: Apache-2.0
"""One self-contained HTML page of simulated runs: nothing is loaded from anywhere, nothing is typed by hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import jinja2
import numpy as np

from mpsafe.operators.comparison import Fleets
from mpsafe.operators.controllers import CONTROLLERS, STARTS_S, WHOLE
from mpsafe.operators.model import Device, Slo
from mpsafe.operators.report.charts import COLOURS, Chart, Line, chart, windows
from mpsafe.operators.simulator.run import Run

__all__ = ["Setting", "page"]

# Average power as a fraction of the TDP, first and third quartile of the 260 rows of Splitwise's table that have it:
# llama2-70b and bloom-176b on A100, batches of 1 to 16.
POWER_FRACTIONS: Final = (0.438, 0.643)

_NAMES: Final = (*CONTROLLERS, WHOLE.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What was asked for."""

    trace: str
    model: str
    profile: str
    device: Device
    slo: Slo
    seeds: Sequence[int]
    interval_s: float | None = None
    devices: int | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class _Shown:
    run: Run
    charts: list[Chart]


@dataclass(frozen=True, slots=True)
class _Load:
    copies: int
    charts: list[Chart]
    shown: list[_Shown]


def page(setting: Setting, found: Fleets) -> str:
    """The page, whole."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mpsafe.operators.report", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    loads = [
        _load(copies, [run for number, run in found.shown if number == copies], setting.slo)
        for copies in dict.fromkeys(number for number, _ in found.shown)
    ]
    return environment.get_template("page.jinja").render(
        setting=setting, found=found, loads=loads, kinds=CONTROLLERS, starts=STARTS_S, fractions=POWER_FRACTIONS
    )


def _load(copies: int, runs: Sequence[Run], slo: Slo) -> _Load:
    charts: list[Chart] = []
    if len(runs) > 1:
        charts = [
            chart("GPUs that are on", [_line(run, run.series.gpus) for run in runs]),
            chart(
                "time to the first token, ms: 99th percentile of the requests of half a minute",
                [*(_ttft(run, name=_name(run), colour=_colour(run)) for run in runs), _bound(runs[0], slo.ttft_s)],
                logarithmic=True,
            ),
        ]
    return _Load(copies, charts, [_Shown(run, _charts(run, slo)) for run in runs])


def _charts(run: Run, slo: Slo) -> list[Chart]:
    seconds = run.series.seconds
    rate = np.histogram(run.arrivals_s, [*seconds, seconds[-1] + 1.0])[0].astype(np.float64)
    late = windows(run.arrivals_s, 1000 * run.tbt_s)
    return [
        chart("demand: requests a second", [Line("requests/s", seconds, _smooth(rate))]),
        chart(
            "workers that are up, by stage",
            [Line(name, seconds, values) for name, values in run.series.replicas.items() if values.any()],
        ),
        chart(
            "time to the first token, ms: 99th percentile of the requests of half a minute",
            [_ttft(run, name="TTFT"), _bound(run, slo.ttft_s)],
            logarithmic=True,
        ),
        chart(
            "time between tokens, ms: 99th percentile over requests of half a minute, of each one's mean",
            [Line("TBT", *late), _bound(run, slo.tbt_s)],
            logarithmic=True,
        ),
        chart("GPUs that are on", [Line("GPUs", seconds, run.series.gpus)]),
        chart("watts, by the model of idle and peak", [Line("W", seconds, run.series.watts)]),
    ]


def _ttft(run: Run, *, name: str, colour: str = "") -> Line:
    return Line(name, *windows(run.arrivals_s, 1000 * run.ttft_s), colour)


def _bound(run: Run, promised_s: float) -> Line:
    ends = run.series.seconds[[0, -1]]
    return Line("promised", ends, np.full(2, 1000 * promised_s), "#1c2430", dashed=True)


def _line(run: Run, values: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> Line:
    return Line(_name(run), run.series.seconds, values, _colour(run))


def _name(run: Run) -> str:
    return run.outcome.controller


def _colour(run: Run) -> str:
    return COLOURS[_NAMES.index(_name(run)) % len(COLOURS)]


def _smooth(
    values: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]",
) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    """Means of ten seconds."""
    width = min(10, len(values))
    return np.convolve(values, np.full(width, 1 / width), "same")
