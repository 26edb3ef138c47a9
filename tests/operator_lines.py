# SPDX-License-Identifier: Apache-2.0
"""Stages, times and simulations made by hand, for which the outcome is known exactly."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from mpsafe.operators.model import Device, Floats, Phase, Stage, StageTimes
from mpsafe.operators.simulator.state import DECODE, HOME, MIXED, PREFILL, STARTING, Ints, State

__all__ = ["DEVICE", "NONE", "queue", "rig", "stage", "times"]

NONE: Final = np.empty(0)
DEVICE: Final = Device(
    name="by hand",
    memory_bytes=1e6,
    flops=1.0,
    memory_bytes_per_s=1.0,
    link_bytes_per_s=1e9,
    idle_w=100.0,
    peak_w=700.0,
    clients_max=48,
)


def stage(name: str, phases: tuple[Phase, ...], *, weight: float = 0.0, cache: float = 0.0, hops: int = 0) -> Stage:
    """Its name is its only operator's."""
    return Stage(
        name=name,
        operators=(name,),
        phases=phases,
        weight_bytes=weight,
        kv_bytes_per_token=cache,
        out_bytes_per_token=0.0,
        hops=hops,
    )


def times(
    name: str = "",
    *,
    linear: tuple[Sequence[float], Sequence[float]] = ((1.0,), (0.0,)),
    prefill: "tuple[Sequence[float] | Floats, Sequence[float] | Floats]" = ((), ()),
    decode: tuple[Sequence[float], Sequence[float], Sequence[Sequence[float]]] = ((), (), ((),)),
    share: float = 1.0,
    hop_s: float = 0.0,
) -> StageTimes:
    """Pairs of places and seconds; `decode` has sequences, contexts, and a table."""
    return StageTimes(
        stage=name,
        tensor_parallel=1,
        share=share,
        linear_tokens=np.asarray(linear[0], np.float64),
        linear_s=np.asarray(linear[1], np.float64),
        prefill_lengths=np.asarray(prefill[0], np.float64),
        prefill_s=np.asarray(prefill[1], np.float64),
        decode_sequences=np.asarray(decode[0], np.float64),
        decode_context=np.asarray(decode[1], np.float64),
        decode_s=np.asarray(decode[2], np.float64).reshape(len(decode[0]), len(decode[1])),
        hop_s=hop_s,
        bandwidth_share=share,
        source="by hand",
    )


def rig(
    arrivals: Floats,
    prompts: Ints,
    outputs: Ints,
    pools: Sequence[tuple[int, int, StageTimes]],
    *,
    prefill: Sequence[int],
    decode: Sequence[int] = (),
    tokens: int = 1,
    batch: int = 64,
    cache: int = 1 << 40,
    hops: int = 1,
) -> State:
    """`pools`: kind, workers, times of each stage; the routes name stages by their place in it."""
    workers = sum(count for _, count, _ in pools)
    visits = max(len(prefill), len(decode), 1)
    state = State(arrivals, prompts, outputs, workers=workers, batch=batch, stages=len(pools), routes=1, visits=visits)
    slot = 0
    for number, (kind, count, each) in enumerate(pools):
        table = state.add_table(each, hops)
        record = state.stages[number]
        record.kind, record.batch, record.tokens, record.count = kind, batch, tokens, count
        for at in range(count):
            worker = state.workers[slot]
            worker.stage, worker.table, worker.weight, worker.cache = number, table, 1.0, cache
            worker.state = STARTING
            state.members[number, at] = slot
            state.start(slot, 0.0)
            slot += 1
    state.prefill_route[0, : len(prefill)] = prefill
    state.decode_route[0, : len(decode)] = decode
    homes = [one for one in decode if pools[one][0] in (HOME, MIXED)]
    route = state.routes[0]
    route.prefills, route.decodes, route.home = len(prefill), len(decode), homes[0] if homes else 0
    assert {kind for kind, _, _ in pools} <= {PREFILL, DECODE, HOME, MIXED}
    return state


def queue(arrivals: Floats, services: Sequence[Floats], workers: Sequence[int]) -> Floats:
    """How long each job waits in a tandem of pools, first come, first served; its services are given."""
    count = len(arrivals)
    jobs = np.arange(1, count + 1)
    pools = [
        (PREFILL, each, times(prefill=(jobs.astype(np.float64), seconds)))
        for each, seconds in zip(workers, services, strict=True)
    ]
    state = rig(arrivals, jobs, np.ones(count, np.int64), pools, prefill=range(len(pools)))
    state.advance(np.inf)
    sojourns = np.asarray(state.requests.end - state.requests.arrival, np.float64)
    # Little's law holds of each run, not only in the mean.
    assert np.isclose(state.core.area, sojourns.sum(), rtol=1e-9)
    return np.asarray(sojourns - np.sum(services, axis=0), np.float64)
