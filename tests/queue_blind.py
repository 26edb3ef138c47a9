# SPDX-License-Identifier: Apache-2.0
"""The case of ai-dynamo/dynamo #10528, and a planner of ours that is as blind to queues as the one there: each 180 s as
many workers as the last rate divided by what one worker does in a second, without any room for waiting."""

import math
from dataclasses import replace
from typing import Final

import numpy as np
from typing_extensions import override

from mpsafe.operators import planner
from mpsafe.operators.controllers import Controller, Kind
from mpsafe.operators.forecast import Forecast
from mpsafe.operators.model import Demand, Plan, Slo
from mpsafe.operators.replay import Scenario
from mpsafe.operators.stages import stage
from mpsafe.operators.times import decode_s, linear_s, prefill_s, stage_times
from mpsafe.operators.traces import Trace

__all__ = ["BLIND", "PROMISE", "Blind", "swinging"]

PROMISE: Final = Slo(ttft_s=3.0, tbt_s=0.1)
BLIND: Final = Kind("queue-blind", "pd", 180.0)
PROMPT: Final = 8000
OUTPUT: Final = 1000


def swinging(span_s: float, *, seed: int = 0) -> Trace:
    """From 1 to 24 requests a second and back, in 10 minutes; 8,000 tokens in, 1,000 out. Poisson by thinning."""
    dice = np.random.default_rng(seed)
    times = np.cumsum(dice.exponential(1 / 24, int(24 * span_s)))
    rate = 12.5 - 11.5 * np.cos(2 * np.pi * times / 600)
    times = times[(dice.random(len(times)) < rate / 24) & (times < span_s)]
    times -= times[0]
    return Trace("swinging", times, np.full(len(times), PROMPT), np.full(len(times), OUTPUT))


class Blind(Controller):
    """Prefill and decode workers from throughput alone, for the mean rate since the last decision."""

    def __init__(self, scenario: Scenario, trace: Trace) -> None:
        super().__init__(BLIND, Forecast(trace), scenario)
        self._trace, self._scenario = trace, scenario
        one, other = (
            stage_times(scenario.profile, scenario.spec, stage(scenario.spec, name), 1, 1.0)
            for name in ("prefill", "decode")
        )
        length = np.array([float(PROMPT)])
        self._prompts_per_s = 1 / float((linear_s(one, length) + prefill_s(one, length))[0])
        # As many sequences as the promise allows, their caches half grown.
        context = PROMPT + OUTPUT / 2
        steps = [float(linear_s(other, np.array([float(n)]))[0]) + decode_s(other, n, context) for n in range(1, 257)]
        self._group = int(np.searchsorted(steps, scenario.slo.tbt_s))
        self._tokens_per_s = self._group / steps[self._group - 1]

    @override
    def decide(self, now_s: float, waiting: int) -> Plan:
        begin, end = np.searchsorted(self._trace.arrivals_s, (max(0.0, now_s - 180), max(now_s, 60.0)))
        rate = (end - begin) / min(180.0, max(now_s, 60.0))
        demand = Demand(rate_per_s=1.0, prompt_mean=PROMPT, output_mean=OUTPUT, prompt_scv=0.0, output_scv=0.0)
        plan = planner.plan(
            self._scenario.spec, self._scenario.profile, demand, PROMISE, granularity="pd", devices=None
        )
        counts = {
            "prefill": math.ceil(rate / self._prompts_per_s),
            "decode": math.ceil(rate * OUTPUT / self._tokens_per_s),
        }
        memory = self._scenario.profile.device.memory_bytes
        pools = tuple(
            replace(
                pool,
                replicas=max(1, counts[pool.stage]),
                batch=self._group,
                tokens=PROMPT,
                share=1.0,
                memory_bytes=memory,
            )
            for pool in plan.pools
        )
        return replace(plan, pools=pools, gpus=sum(pool.replicas for pool in pools))
