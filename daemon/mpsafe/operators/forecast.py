# SPDX-License-Identifier: Apache-2.0
"""What a controller knows of the load: arrivals, not completions, of the last minutes; and what it makes of them.

The same for all controllers. The rate is the higher one of two windows' means, and with it what it may rise by until a
decision takes effect: as 19 of 20 rises did, over as long a time, in the last five minutes. So who is slow has to have
more in hand where the load is bursty, and hardly more where it is not. A backlog is to be gone within five seconds.
Lengths of prompts are those of the last requests; an answer's length is known half a minute after its request came.
"""

from typing import Final

import numpy as np

from mpsafe.operators.model import Demand, Floats
from mpsafe.operators.traces import Trace

__all__ = ["Forecast"]

LONG_S: Final = 60.0
SHORT_S: Final = 15.0
LENGTHS: Final = 512
KNOWN_S: Final = 30.0
SAMPLE: Final = 128
SAMPLE_S: Final = 60.0
WARM_S: Final = 60.0
RISES_S: Final = 300
RISE: Final = 0.95
CATCH_UP_S: Final = 5.0
STEP: Final = 1.05
SCV_MOST: Final = 16.0


class Forecast:
    """Over a trace that is being replayed. Before the first minute is over, it is taken as known: a system that starts
    has run before."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._samples: dict[int, Floats] = {}
        seconds = np.arange(int(SHORT_S), int(max(WARM_S, float(trace.arrivals_s[-1]))) + 2)
        counts = np.searchsorted(trace.arrivals_s, (seconds, seconds - SHORT_S))
        self._short = (counts[0] - counts[1]) / SHORT_S

    def at(self, now_s: float, horizon_s: float, backlog: int) -> Demand:
        """The demand until `horizon_s` from now; `backlog` requests wait that a promise of that load would not have.

        Rates and lengths are rounded up to steps of 5 %, so that like demands are equal.
        """
        now = max(now_s, WARM_S)
        rate = max(self._rate(now - LONG_S, now), self._rate(now - SHORT_S, now) if now_s > WARM_S else 0.0)
        rate += self._rise(now, horizon_s) + backlog / CATCH_UP_S
        last = max(1, self._count(now))
        known = max(1, min(last, self._count(max(now - KNOWN_S, WARM_S))))
        prompts = self._trace.prompts[max(0, last - LENGTHS) : last]
        outputs = self._trace.outputs[max(0, known - LENGTHS) : known]
        gaps = np.diff(self._trace.arrivals_s[max(0, last - LENGTHS) : last])
        return Demand(
            rate_per_s=_up(max(rate, 1.0 / LONG_S)),
            prompt_mean=_up(float(prompts.mean())),
            output_mean=_up(float(outputs.mean())),
            prompt_scv=_scv(prompts),
            output_scv=_scv(outputs),
            arrival_scv=max(1.0, _scv(gaps)) if len(gaps) > 1 else 1.0,
            prompts=self._sample(now),
        )

    def peak(self) -> Demand:
        """Of the busiest minute of the whole trace, which only hindsight knows."""
        minutes = np.arange(WARM_S, max(WARM_S, float(self._trace.arrivals_s[-1])) + 1.0)
        busiest = max(minutes, key=lambda now: self._rate(now - LONG_S, now))
        return self.at(float(busiest), 0.0, 0)

    def _rise(self, now_s: float, over_s: float) -> float:
        """Of the rate of SHORT_S, within `over_s`, and only what was seen until now."""
        last, lag = int(now_s - SHORT_S) + 1, max(1, round(over_s))
        series = self._short[max(0, last - RISES_S) : last]
        if len(series) <= lag:
            return 0.0
        return float(np.quantile(np.maximum(0.0, series[lag:] - series[:-lag]), RISE))

    def _count(self, until_s: float) -> int:
        return int(np.searchsorted(self._trace.arrivals_s, until_s))

    def _rate(self, begin_s: float, end_s: float) -> float:
        return (self._count(end_s) - self._count(begin_s)) / (end_s - begin_s)

    def _sample(self, now_s: float) -> Floats:
        """The same one for a minute: what is planned for it can be kept."""
        turn = int(now_s // SAMPLE_S)
        if turn not in self._samples:
            last = max(1, self._count(turn * SAMPLE_S))
            lengths = np.sort(self._trace.prompts[max(0, last - LENGTHS) : last])
            places = np.linspace(0, len(lengths) - 1, min(SAMPLE, len(lengths))).round().astype(np.int64)
            self._samples[turn] = lengths[places].astype(np.float64)
        return self._samples[turn]


def _up(value: float) -> float:
    return float(STEP ** np.ceil(np.log(value) / np.log(STEP) - 1e-9))


def _scv(values: "Floats | np.ndarray[tuple[int, ...], np.dtype[np.int64]]") -> float:
    """In steps of a half."""
    mean = float(values.mean())
    return float(min(SCV_MOST, max(0.5, np.round(2 * float(values.var()) / mean**2) / 2))) if mean > 0 else 1.0
