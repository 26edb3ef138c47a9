# SPDX-License-Identifier: Apache-2.0
"""Which cuts are looked at, and in which order: coarse ones first, finer ones only where they could save a GPU."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias

import numpy as np

from mpsafe.operators.model import Floats, Granularity, Slo, Stage
from mpsafe.operators.placement import Kind
from mpsafe.operators.planner import loops, prefill, rounds
from mpsafe.operators.planner.candidate import Candidate, frontier
from mpsafe.operators.planner.load import Load
from mpsafe.operators.planner.points import WEIGHTS
from mpsafe.operators.planner.squeeze import LARGEST, MOST_STAGES, Beside, squeeze
from mpsafe.operators.planner.tables import Machine, Tables, tables
from mpsafe.operators.profiles import Profile
from mpsafe.operators.specs import Spec
from mpsafe.operators.stages import Groups, cut, groups, stages

__all__ = ["Found", "Question", "Way", "decoding", "prefilling", "search"]

Way: TypeAlias = tuple[Candidate, ...]
_PACKED: Final = 12  # pairs of ways that are packed at a time, the least voluminous first
_RELAXED: Final = 1.5  # steps in which a promise that cannot be kept is relaxed until it can
_STEPS: Final = 30
_LESS: Final = 0.9  # what a finer cut has to bring the work down to, to be worth its time


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What a plan is asked. `kinds`: the only workers that it may have; none: any."""

    spec: Spec
    profile: Profile
    load: Load
    slo: Slo
    granularity: Granularity
    shares: tuple[float, ...]
    kinds: frozenset[Kind] = frozenset()

    @property
    def machine(self) -> Machine:
        return Machine(self.spec, self.profile.device.memory_bytes, self.profile.device.link_bytes_per_s)

    def table(self, cut_into: tuple[Stage, ...]) -> Tables:
        return tables(self.profile, self.spec, cut_into, self.shares, self.kinds)


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """The ways that were packed, with their GPUs; that the promise is kept; GPUs that no way of this granularity goes
    below."""

    ways: list[tuple[Way, int]]
    kept: bool
    bound: float


@lru_cache(maxsize=64)
def _cuts(spec: Spec, granularity: Granularity) -> tuple[Groups, ...]:
    """Ways to group the operators of a phase, coarse to fine."""
    whole, halves = groups(spec, "pd"), groups(spec, "attn-ffn")
    if granularity == "pd":
        return (whole,)
    if granularity == "attn-ffn":
        return (halves,)
    apart = (("attention",), tuple(name for name in whole[0] if name != "attention"))
    return whole, halves, apart, groups(spec, "operator")


@lru_cache(maxsize=512)
def _phase(spec: Spec, grouping: Groups, phase: str) -> tuple[Stage, ...]:
    return tuple(stage for stage in cut(spec, grouping, grouping) if phase in stage.phases)


class _Best:
    """The packed ways so far."""

    def __init__(self, gpus_of: Callable[[Way], int | None]) -> None:
        self.ways: list[tuple[Way, int]] = []
        self.gpus: float = math.inf
        self._gpus_of = gpus_of

    def consider(self, ways: list[Way]) -> None:
        """Packs the least voluminous ways, as long as they could be better."""
        if not ways:
            return
        volumes = np.array([sum(part.volume for part in way) for way in ways])
        least = volumes.max(axis=1)
        for index in np.lexsort((volumes.sum(axis=1), least))[:_PACKED]:
            if math.ceil(least[index] - 1e-6) > self.gpus:
                break
            way = ways[int(index)]
            gpus = self._gpus_of(way)
            if gpus is not None:
                self.ways.append((way, gpus))
                self.gpus = min(self.gpus, gpus)


def search(question: Question, gpus_of: Callable[[Way], int | None]) -> Found:
    """`gpus_of` packs a way and says how many GPUs it needs."""
    best = _Best(gpus_of)
    bound, alone = math.inf, list[Way]()
    if question.granularity in ("model", "operator"):
        table = question.table(stages(question.spec, "model"))
        slo = question.slo
        found, least = (
            loops.monolith(table, question.machine, question.load, slo.ttft_s, slo.tbt_s)
            if table.possible
            else ([], np.full(len(WEIGHTS), np.inf))
        )
        alone, bound = [(one,) for one in found], float(least.max())
        if not found and question.granularity == "model":
            return _nearest_monolith(question, table, best)
    best.consider(alone)
    if question.granularity == "model":
        return Found(best.ways, True, bound)
    pairs = _pairs(question, best, bound)
    return _unkept(question, pairs, best) if not best.ways else Found(best.ways, True, min(bound, pairs.bound))


@dataclass(slots=True, eq=False)
class _Pairs:
    first: list[Candidate]
    second: list[Candidate]
    bound: float


def _pairs(question: Question, best: _Best, alone: float) -> _Pairs:
    """Prefill and decode on their own, coarse cuts first; adds to `best`."""
    cuts = _cuts(question.spec, question.granularity)
    first, before = _prefill(question, cuts[0])
    second, after = _decode(question, cuts[0])
    found = _Pairs(frontier(first), frontier(second), 0.0)
    # The work alone, cut as finely as it can be, needs no more than in any coarser cut.
    floor_first, floor_second = before, after
    if len(cuts) > 1:
        floor_first = np.minimum(before, _prefill_least(question, cuts[-1]))
        floor_second = np.minimum(after, _decode_least(question, cuts[-1]))
    for place in range(len(cuts)):
        # A finer cut is solved where its work alone needs less than the coarser ones have been found to need.
        if place and np.any(_prefill_least(question, cuts[place]) < _LESS * before):
            more, least = _prefill(question, cuts[place])
            found.first, before = frontier([*found.first, *more]), np.minimum(before, least)
        if place and np.any(_decode_least(question, cuts[place]) < _LESS * after):
            more, least = _decode(question, cuts[place])
            found.second, after = frontier([*found.second, *more]), np.minimum(after, least)
        if all(one.kept for one in (*found.first, *found.second)):
            best.consider([(one, other) for one in found.first for other in found.second])
        if _gpus(min(float((floor_first + floor_second).max()), alone)) >= best.gpus:
            break
    found.bound = float((floor_first + floor_second).max())
    if len(cuts) > 1:
        _squeezed(question, best, min(found.bound, alone))
    return found


def _gpus(bound: float) -> float:
    """Whole GPUs, with some room for rounding."""
    return math.ceil(bound - 1e-6) if math.isfinite(bound) else math.inf


def prefilling(question: Question) -> Iterator[Tables]:
    """The tables of all cuts of the prompts' phase whose weights fit."""
    for grouping in _cuts(question.spec, question.granularity):
        table = question.table(_phase(question.spec, grouping, "prefill"))
        if table.possible:
            yield table


def decoding(question: Question) -> Tables:
    """The table of decoders with all operators."""
    return question.table(_phase(question.spec, groups(question.spec, "pd"), "decode"))


def _squeezed(question: Question, best: _Best, bound: float) -> None:
    """One GPU less, as often as that can be."""
    table, clients = decoding(question), question.profile.device.clients_max
    if not table.possible:
        return
    found, _ = loops.decode(table, question.machine, question.load, question.slo.tbt_s)
    decoders = [way for way in found if way.kept]
    if not decoders:
        return
    beside = Beside(decoders, clients)
    while _gpus(bound) < best.gpus <= LARGEST:
        way = None
        for stages_table in prefilling(question):
            if len(stages_table.stages) <= MOST_STAGES:
                for one in prefill.batchings(stages_table, question.machine, question.load):
                    budget = question.slo.ttft_s - one.fill_s
                    way = way or squeeze(stages_table, one, budget, beside, int(best.gpus) - 1)
        if way is None:
            return
        best.consider([way])


def _prefill_least(question: Question, grouping: Groups) -> Floats:
    table = question.table(_phase(question.spec, grouping, "prefill"))
    return prefill.least(table, question.load) if table.possible else np.full(len(WEIGHTS), np.inf)


def _decode_least(question: Question, grouping: Groups) -> Floats:
    table = question.table(_phase(question.spec, grouping, "decode"))
    if not table.possible:
        return np.full(len(WEIGHTS), np.inf)
    return rounds.least(table, question.machine, question.load, question.slo.tbt_s)


def _prefill(question: Question, grouping: Groups) -> tuple[list[Candidate], Floats]:
    table = question.table(_phase(question.spec, grouping, "prefill"))
    if not table.possible:
        return [], np.full(len(WEIGHTS), np.inf)
    return prefill.ways(table, question.machine, question.load, question.slo.ttft_s)


def _decode(question: Question, grouping: Groups) -> tuple[list[Candidate], Floats]:
    table = question.table(_phase(question.spec, grouping, "decode"))
    if not table.possible:
        return [], np.full(len(WEIGHTS), np.inf)
    if len(table.stages) == 1:
        return loops.decode(table, question.machine, question.load, question.slo.tbt_s)
    return rounds.ways(table, question.machine, question.load, question.slo.tbt_s), _decode_least(question, grouping)


def _unkept(question: Question, pairs: _Pairs, best: _Best) -> Found:
    """Nothing keeps the promise: the ways that come nearest."""
    ways: list[Way] = [(one, other) for one in pairs.first for other in pairs.second]
    ways.sort(key=lambda way: sum(part.late_s for part in way))
    if not ways and question.granularity == "operator":
        table = question.table(stages(question.spec, "model"))
        return _nearest_monolith(question, table, best)
    best.consider(ways[:1])
    return Found(best.ways, False, 0.0)


def _nearest_monolith(question: Question, table: Tables, best: _Best) -> Found:
    """Replicas of the model under a relaxed promise: of the one that fails, or of both."""
    slo = question.slo
    if table.possible:
        for ttft, tbt in ((True, False), (False, True), (True, True)):
            for step in range(1, _STEPS):
                factor = _RELAXED**step
                found, _ = loops.monolith(
                    table,
                    question.machine,
                    question.load,
                    slo.ttft_s * (factor if ttft else 1),
                    slo.tbt_s * (factor if tbt else 1),
                )
                if found:
                    best.consider([(one,) for one in frontier(found)])
                    return Found(best.ways, False, 0.0)
    return Found([], False, math.inf)
