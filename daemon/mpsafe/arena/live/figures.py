# SPDX-License-Identifier: Apache-2.0
"""What a live run is worth: availability, misroutes, how soon a model is avoided and used again, what others lost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from mpsafe.arena.live.faults import Down
from mpsafe.arena.live.runner import TOKENS, Decision, Trace
from mpsafe.arena.scoring import arena_score
from mpsafe.arena.statistics import mcnemar

__all__ = ["LiveFigures", "Verdict", "figures", "verdict"]

SURE: Final = 0.05


@dataclass(frozen=True, slots=True)
class LiveFigures:
    """Of one run. Per cent, milliseconds, dollars (nominal); None where nothing could be measured.

    `availability`: queries that were answered right; `misroutes`: queries that went to a model while it was down and
    another one was not; `avoid_s`: the longest that a model that was down was still picked, `return_s`: the longest
    that one was not picked again once it answered, None where that was never; `stale`: decisions on a reading that was
    too old; `slow_ms`: p99 of right answers, `collateral_ms`: of models that were up while another was down, and
    `collateral_ratio` that beside the same queries of the run without faults; `device_s_per_1k`: seconds that the
    device worked for 1,000 queries, as the models measure it; `resilience`: the arena score beside that of the run
    without faults.
    """

    router: str
    aware: bool
    faulted: bool
    queries: int
    right: int
    availability: float
    misroutes: int
    avoid_s: float | None
    return_s: float | None
    stale: int
    middle_ms: float | None
    slow_ms: float | None
    collateral_ms: float | None
    collateral_ratio: float | None
    decision_p50_us: float
    decision_p99_us: float
    device_s_per_1k: float
    cost_per_1k: float
    arena_score: float
    resilience: float | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Both twins on the same queries under the same faults. `only_aware`, `only_blind`: answered right by that one
    alone; `p`: McNemar's exact test of those. `beats`: the one that looks at the host answered more, and p < 0.05.
    """

    beats: bool
    only_aware: int
    only_blind: int
    p: float
    sentence: str


def figures(trace: Trace, prices: Mapping[str, float], undisturbed: Trace | None = None) -> LiveFigures:
    """The figures of a run. `prices`: dollars a token; `undisturbed`: the same router's run without faults."""
    right = [one for one in trace.decisions if one.status == "right"]
    count = len(trace.decisions)
    cost_per_1k = 1000 * sum(_cost(one, prices) for one in right) / count
    score = arena_score(len(right) / count, cost_per_1k)
    collateral, ratio = _collateral(trace, undisturbed)
    before = figures(undisturbed, prices).arena_score if undisturbed is not None else 0.0
    decisions_us = [one.decision_us for one in trace.decisions]
    return LiveFigures(
        router=trace.router,
        aware=trace.aware,
        faulted=trace.faulted,
        queries=count,
        right=len(right),
        availability=100 * len(right) / count,
        misroutes=sum(_misrouted(one, trace.downs, prices) for one in trace.decisions),
        avoid_s=max((_avoided(trace, down) for down in trace.downs), default=None),
        return_s=_longest([_returned(trace, down) for down in trace.downs if down.to_s is not None]),
        stale=sum(one.stale for one in trace.decisions),
        middle_ms=_percentile(right, 50),
        slow_ms=_percentile(right, 99),
        collateral_ms=collateral,
        collateral_ratio=ratio,
        decision_p50_us=float(np.percentile(decisions_us, 50)),
        decision_p99_us=float(np.percentile(decisions_us, 99)),
        device_s_per_1k=1000 * sum(one.busy_s for one in trace.decisions) / count,
        cost_per_1k=cost_per_1k,
        arena_score=100 * score,
        resilience=100 * 100 * score / before if before else None,
    )


def verdict(aware: Trace, blind: Trace) -> Verdict:
    """Whether the router that looks at the host answered more of the same queries, surely."""
    one, other = (np.asarray([each.status == "right" for each in trace.decisions], float) for trace in (aware, blind))
    only_aware, only_blind, p = mcnemar(one, other)
    more = bool(one.sum() > other.sum())
    beats = more and p < SURE
    shares = f"{100 * one.mean():.1f} % against {100 * other.mean():.1f} % of {len(one)} queries answered right"
    sure = f"{only_aware} by it alone, {only_blind} by the other alone, McNemar p = {p:.2g}"
    what = "beats" if beats else "answered more than, but does not surely beat," if more else "does NOT beat"
    sentence = f"The state-aware router {what} its health-blind twin: {shares} ({sure})."
    return Verdict(beats, only_aware, only_blind, p, sentence)


def _cost(one: Decision, prices: Mapping[str, float]) -> float:
    return (len(one.prompt) + TOKENS) * prices[one.picked]


def _is_down(down: Down, at_s: float) -> bool:
    return down.from_s <= at_s and (down.to_s is None or at_s < down.to_s)


def _misrouted(one: Decision, downs: Sequence[Down], models: Mapping[str, float]) -> bool:
    down = {each.model for each in downs if _is_down(each, one.at_s)}
    return one.picked in down and len(down) < len(models)


def _avoided(trace: Trace, down: Down) -> float:
    """From when it was down until it was picked last before it answered again; 0 where it was never."""
    picks = [one.at_s - down.from_s for one in trace.decisions if one.picked == down.model and _is_down(down, one.at_s)]
    return max(picks, default=0.0)


def _returned(trace: Trace, down: Down) -> float | None:
    """From when it answered again until it was picked; None where it was never, or was down again before."""
    assert down.to_s is not None
    later = [other.from_s for other in trace.downs if other.model == down.model and other.from_s >= down.to_s]
    end_s = min(later, default=trace.seconds)
    picks = [one.at_s for one in trace.decisions if one.picked == down.model and down.to_s <= one.at_s < end_s]
    return min(picks) - down.to_s if picks else None


def _longest(found: Sequence[float | None]) -> float | None:
    known = [one for one in found if one is not None]
    return max(known) if known and len(known) == len(found) else None


def _collateral(trace: Trace, undisturbed: Trace | None) -> tuple[float | None, float | None]:
    """The p99 of what healthy models answered while another was down, and beside the same span without faults."""
    spans = [(down.from_s, down.to_s if down.to_s is not None else trace.seconds) for down in trace.downs]

    def inside(one: Decision) -> bool:
        return one.status == "right" and any(begin <= one.at_s < end for begin, end in spans)

    hit = [one for one in trace.decisions if inside(one) and not any(_touches(down, one) for down in trace.downs)]
    found = _percentile(hit, 99)
    if undisturbed is None or found is None:
        return found, None
    before = _percentile([one for one in undisturbed.decisions if inside(one)], 99)
    return found, found / before if before else None


def _touches(down: Down, one: Decision) -> bool:
    return one.picked == down.model and _is_down(down, one.at_s)


def _percentile(found: Sequence[Decision], percent: float) -> float | None:
    return 1000 * float(np.percentile([one.took_s for one in found], percent)) if found else None
