# SPDX-License-Identifier: Apache-2.0
"""What `mpsafe experts simulate` answers: each policy on one trace and one cache size."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from mpsafe.errors import BadRequest
from mpsafe.experts.policies import POLICIES, Known, Oracle, Shape
from mpsafe.experts.replay import Outcome, replay, slots_for
from mpsafe.experts.trace import Trace

__all__ = ["NAMES", "PolicyResult", "Simulation", "chosen", "run_policy", "shape_of", "simulate"]

NAMES: Final = tuple(known.name for known in POLICIES)


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """`bytes`: moved over the link, on demand or ahead; without the size of an expert it counts experts.

    `wasted_prefetches`: experts brought in that left, or stayed to the end, without being asked for. `causal`: it
    does not know the future. `applicable`: the trace has what it needs; if not, there are no figures.
    """

    policy: str
    hits: int | None
    misses: int | None
    hit_rate: float | None
    bytes: int | None
    wasted_prefetches: int | None
    causal: bool
    applicable: bool


@dataclass(frozen=True, slots=True)
class Simulation:
    """`experts`: of each layer; `slots`: experts of any layer that the cache has room for."""

    trace: str
    layers: int
    experts: int
    slots: int
    policies: list[PolicyResult]


def chosen(names: str) -> list[Known | Oracle]:
    """The policies of a list like "lru,mpsafe", or all of them."""
    if names == "all":
        return list(POLICIES)
    known = {one.name: one for one in POLICIES}
    wanted = [name.strip() for name in names.split(",")]
    if unknown := [name for name in wanted if name not in known]:
        raise BadRequest("policy", f"all, or some of {', '.join(NAMES)}", repr(unknown[0]))
    return [known[name] for name in wanted]


def shape_of(trace: Trace, percent: float) -> Shape:
    """The cache of that share of all experts. BadRequest where one layer's experts do not fit in it."""
    shape = Shape(trace.layers, trace.experts, trace.widest, slots_for(trace, percent))
    if shape.slots < shape.used:
        needed = f"at least {100 * shape.used / shape.total:.3g} %, since a layer asks for {shape.used} experts at once"
        raise BadRequest("cache", needed, f"{percent:g} %: {shape.slots} of {shape.total}")
    return shape


def simulate(
    trace: Trace, percent: float, policies: Iterable[Known | Oracle], *, prefetch: int, training: list[Trace]
) -> Simulation:
    """Replays the trace once for each policy. `training`: traces of other requests, for those that learn before."""
    shape = shape_of(trace, percent)
    found = [run_policy(known, trace, shape, prefetch=prefetch, training=training) for known in policies]
    results = [_result(known, trace, outcome) for known, outcome in found]
    return Simulation(trace.name, trace.layers, trace.experts, shape.slots, results)


def run_policy(
    known: Known | Oracle, trace: Trace, shape: Shape, *, prefetch: int, training: list[Trace]
) -> tuple[Known | Oracle, Outcome | None]:
    """One policy's outcome; None where the trace lacks what it needs."""
    if known.lacks(trace, trained=bool(training)):
        return known, None
    policy = known.over(shape, trace)
    policy.learn(training)
    return known, replay(trace, shape, policy, prefetch=prefetch)


def _result(known: Known | Oracle, trace: Trace, outcome: Outcome | None) -> PolicyResult:
    if outcome is None:
        return PolicyResult(known.name, None, None, None, None, None, known.causal, False)
    return PolicyResult(
        known.name,
        outcome.hits,
        outcome.misses,
        outcome.hit_rate,
        outcome.moved * trace.expert_bytes,
        outcome.wasted,
        known.causal,
        True,
    )
