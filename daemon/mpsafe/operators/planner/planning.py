# SPDX-License-Identifier: Apache-2.0
"""A plan: the cuts of a granularity, the cheapest ways to run each, and the packing that needs the fewest GPUs.

`operator` chooses among its own cuts and all coarser ones, so it is never worse than they are under this queue model.
"""

import math
from dataclasses import replace
from typing import Final

import numpy as np

from mpsafe.operators.model import Demand, Device, Floats, Granularity, Latency, Placed, Plan, Slo
from mpsafe.operators.packing import Ints, needed
from mpsafe.operators.placement import Kind, place
from mpsafe.operators.planner.candidate import Candidate
from mpsafe.operators.planner.load import checked, load_of
from mpsafe.operators.planner.search import Found, Question, Way, search
from mpsafe.operators.planner.tables import tables
from mpsafe.operators.profiles import Profile
from mpsafe.operators.specs import Spec
from mpsafe.operators.stages import stages
from mpsafe.operators.times import SHARES

__all__ = ["WHOLE", "most", "plan"]

WHOLE: Final = (1.0,)
_NEARNESS: Final = 10  # steps in which times that are within the promise are told apart


def plan(
    spec: Spec,
    profile: Profile,
    demand: Demand,
    slo: Slo,
    *,
    granularity: Granularity,
    devices: int | None = None,
    previous: Plan | None = None,
    shares: tuple[float, ...] | None = None,
    kinds: frozenset[Kind] = frozenset(),
) -> Plan:
    """The fewest GPUs that keep the promise; on at most `devices` of them, where that is too few, what they carry, and
    `binding` says so. `shares` a worker may have of a GPU's SMs: by default those of SHARES for `operator`, and a whole
    GPU else. `kinds`, where there are any, are the only workers that it may have. Raises BadDemand, NotMeasured.
    """
    checked(demand, slo)
    allowed = shares or (SHARES if granularity == "operator" else WHOLE)
    found = _plan(Question(spec, profile, load_of(demand), slo, granularity, allowed, kinds), previous)
    if devices is None or found.gpus <= devices:
        return found
    rate, carried = most(
        spec, profile, demand, slo, granularity=granularity, devices=devices, shares=allowed, kinds=kinds
    )
    if rate > 0:
        return replace(
            carried, binding=f"{devices} devices carry {rate:.3g} of {demand.rate_per_s:.3g} requests a second"
        )
    return replace(found, binding=found.binding or f"{devices} devices are too few: {found.gpus} are needed")


def most(
    spec: Spec,
    profile: Profile,
    demand: Demand,
    slo: Slo,
    *,
    granularity: Granularity,
    devices: int,
    shares: tuple[float, ...] | None = None,
    kinds: frozenset[Kind] = frozenset(),
) -> tuple[float, Plan]:
    """The highest rate (within 1 %) that so many devices carry with the promise kept, and the plan for it; 0 and the
    plan for the least load where they carry none. `demand`'s own rate is where the search starts."""
    checked(demand, slo)
    allowed = shares or (SHARES if granularity == "operator" else WHOLE)

    def of(rate: float) -> Plan:
        load = load_of(replace(demand, rate_per_s=rate))
        return _plan(Question(spec, profile, load, slo, granularity, allowed, kinds), None)

    def carried(one: Plan) -> bool:
        return not one.binding and one.gpus <= devices

    low, high = 0.0, demand.rate_per_s
    best = of(high)
    if carried(best):
        low = high
        while carried(one := of(2 * low)) and low < 1e7:
            best, low = one, 2 * low
        high = 2 * low
    while high - low > 0.01 * high and high > 1e-3:
        middle = 0.5 * (low + high)
        if carried(one := of(middle)):
            low, best = middle, one
        else:
            high = middle
    return (low, best) if low > 0 else (0.0, of(min(demand.rate_per_s, 1e-3)))


def _plan(question: Question, previous: Plan | None) -> Plan:
    device = question.profile.device
    before = _before(previous)
    taken: dict[int, tuple[Candidate, Floats, Ints]] = {}  # a part is in many ways; each is kept, so its id is its own

    def gpus_of(way: Way) -> int | None:
        taken.update({id(part): (part, *_taken(question, part)) for part in way if id(part) not in taken})
        parts = [taken[id(part)] for part in way]
        return needed(np.concatenate([part[1] for part in parts]), np.concatenate([part[2] for part in parts]))

    found = search(question, gpus_of)
    if not found.ways:
        return _too_large(question)

    def order(packed: tuple[Way, int]) -> tuple[int, int, float, int]:
        """Kinds of workers that would have to be started, then how near the promise is, watts, and kinds."""
        way, gpus = packed
        kinds = [kind for part in way for kind in part.kinds]
        near = max(
            times.p99_s / promise
            for part in way
            for times, promise in ((part.ttft, question.slo.ttft_s), (part.tbt, question.slo.tbt_s))
            if times is not None
        )
        new = sum(kind not in before for kind in kinds)
        return new, round(_NEARNESS * near), round(_watts(device, way, gpus)), len(kinds)

    fewest = min(gpus for _, gpus in found.ways)
    way, _ = min((packed for packed in found.ways if packed[1] == fewest), key=order)
    pools = tuple(pool for part in way for pool in part.pools(device.memory_bytes))
    placed = place(pools, np.concatenate([_taken(question, part)[0] for part in way]), previous=before)
    assert placed is not None, "what was packed can be placed"
    ttft = next(part.ttft for part in way if part.ttft)
    tbt = next(part.tbt for part in way if part.tbt)
    return Plan(
        granularity=question.granularity,
        pools=pools,
        placement=placed[0],
        gpus=placed[1],
        latency=Latency(ttft.mean_s, ttft.p99_s, tbt.mean_s, tbt.p99_s),
        watts=_watts(device, way, placed[1]),
        bound_gpus=found.bound,
        binding=_binding(question, found, way),
    )


def _taken(question: Question, part: Candidate) -> tuple[Floats, Ints]:
    """By pool: what a shard takes by axis, and how many shards there are."""
    clients = np.full((len(part.option), 1), 1 / question.profile.device.clients_max)
    shards = part.workers * part.table.gpus[part.option]
    return np.concatenate([part.sizes, clients], axis=1), shards.astype(np.int64)


def _watts(device: Device, way: Way, gpus: int) -> float:
    """A model: idle power of each GPU that is on, and the rest by how much of its SMs or its memory bus works."""
    working = min(float(gpus), sum(part.working() for part in way))
    return device.idle_w * gpus + (device.peak_w - device.idle_w) * working


def _binding(question: Question, found: Found, way: Way) -> str:
    slo, words = question.slo, list[str]()
    for part in way:
        stage = part.table.stages[part.slow].name
        if part.ttft is not None and part.ttft.p99_s > slo.ttft_s * (1 + 1e-6):
            words.append(f"{stage}: ttft_ms {slo.ttft_s * 1e3:g} cannot be kept, {part.ttft.p99_s * 1e3:.0f} can")
        if part.tbt is not None and part.tbt.p99_s > slo.tbt_s * (1 + 1e-6):
            words.append(f"{stage}: tbt_ms {slo.tbt_s * 1e3:g} cannot be kept, {part.tbt.p99_s * 1e3:.0f} can")
    return "" if found.kept else "; ".join(words)


def _too_large(question: Question) -> Plan:
    """The weights of some stage do not fit."""
    spec, memory = question.spec, question.profile.device.memory_bytes
    binding = "model: no room for one sequence beside the weights"
    for stage in stages(spec, question.granularity):
        table = tables(question.profile, spec, (stage,), question.shares)
        if not table.possible:
            widest = max(spec.parallelisms())
            need = stage.weight_bytes / widest / 1e9
            binding = f"{stage.name}: needs {need:.0f} GB on each of {widest} GPUs, which have {memory / 1e9:.0f}"
    return Plan(
        granularity=question.granularity,
        pools=(),
        placement=(),
        gpus=0,
        latency=Latency(math.inf, math.inf, math.inf, math.inf),
        watts=0.0,
        bound_gpus=math.inf,
        binding=binding,
    )


def _before(previous: Plan | None) -> dict[Kind, list[Placed]]:
    if previous is None:
        return {}
    kinds = {pool.stage: (pool.stage, pool.tensor_parallel, pool.share) for pool in previous.pools}
    found: dict[Kind, list[Placed]] = {kind: [] for kind in kinds.values()}
    for one in previous.placement:
        found[kinds[one.stage]].append(one)
    return found
