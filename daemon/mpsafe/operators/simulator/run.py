# SPDX-License-Identifier: Apache-2.0
"""A run: a trace, a controller, a promise, and the figures that come out."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from mpsafe.operators.controllers import STEP_LEAST, Controller
from mpsafe.operators.model import Device, Floats, Slo, Stage
from mpsafe.operators.simulator.fleet import Fleet, Life, Times
from mpsafe.operators.simulator.gpus import on_s
from mpsafe.operators.simulator.state import State
from mpsafe.operators.traces import Trace

__all__ = ["Outcome", "Percentiles", "Run", "Series", "simulate"]

TICK_S: Final = 1.0
WORKERS: Final = 4096
GPUS: Final = 2048
BATCH: Final = 1024
STAGES: Final = 64
ROUTES: Final = 64


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of times, in milliseconds."""

    mean: float
    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to. `attainment`: of all requests, those whose first token came in the promised time and the mean
    of whose gaps between tokens is within the promised one. `tbt_ms` is of all gaps. `gpu_hours`, `energy_kwh`: over
    the trace's span. `changes`: workers started and stopped. `sim_seconds`: what the run took, by the clock."""

    controller: str
    requests: int
    gpu_hours: float
    energy_kwh: float
    ttft_ms: Percentiles
    tbt_ms: Percentiles
    attainment: float
    max_gpus: int
    changes: int
    sim_seconds: float


@dataclass(frozen=True, slots=True)
class Series:
    """Second by second: GPUs that are on, watts, and workers that are up, by stage."""

    seconds: Floats
    gpus: Floats
    watts: Floats
    replicas: dict[str, Floats]


@dataclass(frozen=True, slots=True)
class Run:
    """An outcome, and what it came from. Times by request, in seconds; `ttft_s` is infinite where none came."""

    outcome: Outcome
    series: Series
    lives: list[Life]
    arrivals_s: Floats
    ttft_s: Floats
    tbt_s: Floats
    kept: "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]"


def simulate(
    trace: Trace,
    controller: Controller,
    slo: Slo,
    device: Device,
    stage: Callable[[str], Stage],
    times: Times,
    start_s: Callable[[Stage], float],
    *,
    devices: int | None = None,
    process_bytes: float = 0.0,
    progress: Callable[[float], None] | None = None,
) -> Run:
    """The trace, served by what the controller decides. Deterministic but for `sim_seconds`."""
    began = time.perf_counter()
    most = devices or GPUS
    state = State(
        trace.arrivals_s,
        trace.prompts,
        trace.outputs,
        workers=min(WORKERS, most * device.clients_max),
        batch=BATCH,
        stages=STAGES,
        routes=ROUTES,
        visits=STAGES,
    )
    fleet = Fleet(state, device, stage, times, start_s, devices=most, process_bytes=process_bytes)
    ticks = max(1, math.ceil(trace.span_s / TICK_S))
    gpus, busy = np.zeros(ticks), np.zeros(ticks + 1)
    replicas: dict[str, Floats] = {}
    decided = 0.0
    plan = controller.decide(0.0, 0)
    fleet.follow(plan, cap=WORKERS, at_once=True)
    fleet.changes = 0
    for tick in range(ticks):
        now = tick * TICK_S
        state.advance(now)
        if now - decided >= controller.kind.interval_s:
            decided = now
            plan = controller.decide(now, fleet.waiting)
        fleet.follow(plan, cap=max(STEP_LEAST, sum(fleet.replicas().values())))
        gpus[tick], busy[tick] = fleet.gpus.on, fleet.busy_s
        for name, number in fleet.replicas().items():
            replicas.setdefault(name, np.zeros(ticks))[tick] = number
        if progress is not None:
            progress((tick + 1) / ticks)
    end_s = ticks * TICK_S
    state.advance(end_s)
    busy[ticks] = spent = fleet.busy_s
    state.advance(math.inf)
    fleet.finish()
    lived = [(gpu, life.begin_s, life.end_s) for life in fleet.lives for gpu in life.gpus]
    on = on_s(lived, end_s)
    watts = device.idle_w * gpus + (device.peak_w - device.idle_w) * np.diff(busy) / TICK_S
    joules = device.idle_w * float(on.sum()) + (device.peak_w - device.idle_w) * spent
    requests = state.requests
    ttft = np.asarray(requests.first - requests.arrival, np.float64)
    decoding = np.isfinite(requests.end) & (requests.output > 1)
    tbt = np.zeros(len(trace))
    tbt[decoding] = (requests.end - requests.first)[decoding] / (requests.output - 1)[decoding]
    kept = np.isfinite(requests.end) & (ttft <= slo.ttft_s) & (tbt <= slo.tbt_s)
    outcome = Outcome(
        controller=controller.kind.name,
        requests=len(trace),
        gpu_hours=float(on.sum()) / 3600,
        energy_kwh=joules / 3.6e6,
        ttft_ms=_percentiles(ttft),
        tbt_ms=Percentiles(1000 * state.gap_mean_s, 1000 * state.gap_s(0.5), 1000 * state.gap_s(0.99)),
        attainment=float(kept.mean()),
        max_gpus=int(gpus.max()),
        changes=fleet.changes,
        sim_seconds=time.perf_counter() - began,
    )
    seconds = TICK_S * np.arange(ticks, dtype=np.float64)
    return Run(outcome, Series(seconds, gpus, watts, replicas), fleet.lives, trace.arrivals_s, ttft, tbt, kept)


def _percentiles(seconds: Floats) -> Percentiles:
    """Of values that may be infinite."""
    places = [math.ceil(share * len(seconds)) - 1 for share in (0.5, 0.99)]
    return Percentiles(*(1000 * float(value) for value in (seconds.mean(), *np.sort(seconds)[places])))
