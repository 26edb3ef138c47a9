# SPDX-License-Identifier: Apache-2.0
"""All policies on the same recorded traces: what each is worth beside ours, with intervals.

Each trace is one sample of requests; the policies meet the same ones, so differences are taken request by request and
their intervals are bootstrapped over requests (10,000 draws, fixed seed).
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from mpsafe.errors import BadRequest
from mpsafe.experts.policies import POLICIES, Known, Oracle, Role
from mpsafe.experts.policies.base import Scores
from mpsafe.experts.replay import Outcome, replay
from mpsafe.experts.simulation import shape_of
from mpsafe.experts.trace import Trace, read

__all__ = ["Arm", "Comparison", "Interval", "compare"]

DRAWS: Final = 10_000
OURS: Final = "mpsafe"
BOUND: Final = "joint-oracle"
# Of what LRU moves.
LEAN: Final = 1.05


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean, and where 95 % of its bootstrapped means lie."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Arm:
    """One policy over all traces. `bytes_ratio`: moved, LRU's is 1. `lead`: our hit rate less this one's, by request.

    `precision`: of what was brought in ahead, how much was used; None where nothing was. `closed`: how much of the way
    from LRU's hit rate to the joint oracle's. `stall_ms`: waited for the link by each token, modelled. `layer_us`: the
    policy's own time for one layer.
    """

    policy: str
    about: str
    role: Role
    hit_rate: float
    bytes_ratio: float
    precision: float | None
    wasted_bytes: int
    stall_ms: float
    closed: float
    layer_us: float
    lead: Interval


@dataclass(frozen=True, slots=True)
class Comparison:
    """One size of the cache. `best`: the best causal baseline, whatever it moves; `best_lean`: the best of those that
    move at most 1.05 times what LRU moves. `closed`, `closed_lean`: how much of the way from there to the joint oracle
    is ours.
    """

    percent: float
    slots: int
    prefetch: int
    requests: int
    tokens: int
    arms: list[Arm]
    best: str
    closed: Interval
    best_lean: str
    closed_lean: Interval

    def arm(self, name: str) -> Arm:
        """The policy of that name."""
        return next(one for one in self.arms if one.policy == name)


@dataclass(frozen=True, slots=True)
class _Task:
    name: str
    percent: float
    prefetch: int
    traces: tuple[Path, ...]
    training: tuple[Path, ...]


def compare(
    traces: Sequence[Path],
    training: Sequence[Path],
    percents: Iterable[float],
    *,
    prefetch: int,
    link_bytes_s: float,
    workers: int,
    done: Callable[[], None] = lambda: None,
) -> list[Comparison]:
    """For each size of the cache. `link_bytes_s`: for the modelled stall; `done` is called 20 times a size.

    BadRequest for traces that were not recorded, since most policies have nothing to say about ids.
    """
    first = read(traces[0])
    if first.probabilities is None:
        raise BadRequest("trace", "one that mpsafe experts record made", first.name)
    tasks = [
        _Task(known.name, percent, prefetch, tuple(traces), tuple(training))
        for percent in percents
        for known in POLICIES
    ]
    found: dict[tuple[float, str], list[Outcome]] = {}
    with ProcessPoolExecutor(workers) as pool:
        running = {pool.submit(_run, task): task for task in tasks}
        for future in as_completed(running):
            task = running[future]
            found[task.percent, task.name] = future.result()
            done()
    tokens = sum(len(read(path)) for path in traces)
    return [
        _comparison(
            first, percent, prefetch, tokens, link_bytes_s, {n: o for (p, n), o in found.items() if p == percent}
        )
        for percent in dict.fromkeys(task.percent for task in tasks)
    ]


def _run(task: _Task) -> list[Outcome]:
    """One policy over all traces: it learns once, and starts each of them as it was then."""
    known = next(one for one in POLICIES if one.name == task.name)
    training = [read(path) for path in task.training]
    outcomes: list[Outcome] = []
    learned = None
    for path in task.traces:
        trace = read(path)
        shape = shape_of(trace, task.percent)
        if known.lacks(trace, trained=bool(training)):
            return []
        if learned is None or known.role == "bound":
            learned = known.over(shape, trace)
            learned.learn(training)
        outcomes.append(replay(trace, shape, copy.deepcopy(learned), prefetch=task.prefetch))
    return outcomes


def _comparison(
    trace: Trace, percent: float, prefetch: int, tokens: int, link_bytes_s: float, found: dict[str, list[Outcome]]
) -> Comparison:
    ran = {name: outcomes for name, outcomes in found.items() if outcomes}
    paired = _Paired(ran)
    transfer_ms = trace.expert_bytes / link_bytes_s * 1e3
    arms = [
        _arm(known, ran, paired, tokens, transfer_ms, trace.expert_bytes) for known in POLICIES if known.name in ran
    ]
    causal = [arm for arm in arms if arm.role == "baseline"]
    best = max(causal, key=lambda arm: arm.hit_rate).policy
    lean = max((arm for arm in causal if arm.bytes_ratio <= LEAN), key=lambda arm: arm.hit_rate).policy
    slots = shape_of(trace, percent).slots
    closed, closed_lean = paired.closed(best), paired.closed(lean)
    return Comparison(percent, slots, prefetch, paired.requests, tokens, arms, best, closed, lean, closed_lean)


def _arm(
    known: Known | Oracle,
    ran: dict[str, list[Outcome]],
    paired: "_Paired",
    tokens: int,
    transfer_ms: float,
    expert_bytes: int,
) -> Arm:
    outcomes = ran[known.name]
    hit_rate, lru, bound = (paired.rate(name) for name in (known.name, "lru", BOUND))
    prefetched, wasted = sum(one.prefetched for one in outcomes), sum(one.wasted for one in outcomes)
    return Arm(
        policy=known.name,
        about=known.about,
        role=known.role,
        hit_rate=hit_rate,
        bytes_ratio=sum(one.moved for one in outcomes) / sum(one.moved for one in ran["lru"]),
        precision=1 - wasted / prefetched if prefetched else None,
        wasted_bytes=wasted * expert_bytes,
        stall_ms=sum(one.misses for one in outcomes) / tokens * transfer_ms,
        closed=(hit_rate - lru) / (bound - lru) if bound > lru else 0.0,
        layer_us=sum(one.seconds for one in outcomes) / sum(one.events for one in outcomes) * 1e6,
        lead=paired.lead(known.name),
    )


class _Paired:
    """Hits of all policies, request by request, [requests], and draws of requests, [DRAWS, requests]."""

    def __init__(self, ran: dict[str, list[Outcome]]) -> None:
        each = {name: [one for outcome in outcomes for one in outcome.by_request] for name, outcomes in ran.items()}
        self.requests = len(each[OURS])
        self._hits = {name: np.asarray([hits for hits, _ in ones], np.float64) for name, ones in each.items()}
        self._uses = np.asarray([uses for _, uses in each[OURS]], np.float64)
        self._draws = np.random.default_rng(0).integers(self.requests, size=(DRAWS, self.requests))

    def rate(self, name: str) -> float:
        """Of all that was asked for."""
        return float(self._hits[name].sum() / self._uses.sum())

    def lead(self, name: str) -> Interval:
        """Our hit rate less this one's."""
        return self._interval(self._hits[OURS] - self._hits[name], self._uses)

    def closed(self, name: str) -> Interval:
        """How much of the way from this one to the joint oracle is ours; the way is drawn anew as well."""
        return self._interval(self._hits[OURS] - self._hits[name], self._hits[BOUND] - self._hits[name])

    def _interval(self, above: Scores, below: Scores) -> Interval:
        low, high = np.percentile(above[self._draws].sum(1) / below[self._draws].sum(1), [2.5, 97.5])
        return Interval(float(above.sum() / below.sum()), float(low), float(high))
