# SPDX-License-Identifier: Apache-2.0
"""Replays a trace against a cache of experts and a policy: what would have been there, what not, what moved.

All experts that a layer asks for are needed together and never make room for one another. At most N experts can be
brought in during the time of one layer, before the next layer asks; they are there then. An expert that was brought in
for a layer to come is not made to leave before that layer has passed, unless there is nobody else. These rules are the
same for every policy.
"""

import time
from dataclasses import dataclass
from typing import Final

import numpy as np

from mpsafe.experts.policies.base import Policy, Routed, Shape, Step
from mpsafe.experts.trace import Ids, Trace

__all__ = ["Outcome", "replay", "slots_for"]

NOBODY: Final[Ids] = np.empty(0, np.intp)


@dataclass(frozen=True, slots=True)
class Outcome:
    """`hits` and `misses` of what was asked for; `prefetched` experts, `wasted` of which left, or stayed, unused.

    `seconds`: of the policy itself, `events` layers; `by_request`: hits and uses of each request, in their order.
    """

    hits: int
    misses: int
    prefetched: int
    wasted: int
    seconds: float
    events: int
    by_request: tuple[tuple[int, int], ...]

    @property
    def hit_rate(self) -> float:
        """Of all that was asked for."""
        return self.hits / max(1, self.hits + self.misses)

    @property
    def moved(self) -> int:
        """Experts brought in over the link."""
        return self.misses + self.prefetched


def slots_for(trace: Trace, percent: float) -> int:
    """How many whole experts that share of all has room for."""
    return int(trace.layers * trace.experts * percent / 100 + 1e-9)


def replay(trace: Trace, shape: Shape, policy: Policy, *, prefetch: int) -> Outcome:
    """One pass. `prefetch`: experts that the link can bring in during a layer, before they are asked for."""
    return _Replay(trace, shape, policy, prefetch).run()


class _Replay:
    def __init__(self, trace: Trace, shape: Shape, policy: Policy, prefetch: int) -> None:
        self._trace = trace
        self._shape = shape
        self._policy = policy
        self._prefetch = prefetch
        self._resident = np.zeros(shape.total, bool)
        self._waiting = np.zeros(shape.total, bool)  # brought in, and its layer has not passed
        self._unused = np.zeros(shape.total, bool)  # brought in, and not asked for since
        self._held = 0
        self._hits = self._misses = self._prefetched = self._wasted = 0
        self._seconds = 0.0
        self._by_request: dict[int, tuple[int, int]] = {}

    def run(self) -> Outcome:
        trace = self._trace
        for number in range(len(trace)):
            began = time.perf_counter()
            self._policy.begin(
                Step(
                    int(trace.requests[number]),
                    None if trace.embeddings is None else trace.embeddings[number],
                    None if trace.contexts is None else trace.contexts[number],
                )
            )
            self._bring(NOBODY)
            self._seconds += time.perf_counter() - began
            for layer in range(trace.layers):
                self._layer(number, layer)
        self._wasted += int(self._unused.sum())
        events = len(trace.ids)
        each = tuple(self._by_request.values())
        return Outcome(self._hits, self._misses, self._prefetched, self._wasted, self._seconds, events, each)

    def _layer(self, number: int, layer: int) -> None:
        trace, experts = self._trace, self._shape.experts
        flat = trace.ids[number * trace.layers + layer] + layer * experts
        missing = flat[~self._resident[flat]]
        self._hits += len(flat) - len(missing)
        self._misses += len(missing)
        hits, uses = self._by_request.get(request := int(trace.requests[number]), (0, 0))
        self._by_request[request] = hits + len(flat) - len(missing), uses + len(flat)
        routed = Routed(
            layer,
            flat,
            len(missing),
            None if trace.probabilities is None else trace.probabilities[number, layer],
            None if trace.ahead is None else trace.ahead[number, layer],
        )
        began = time.perf_counter()
        self._policy.routed(routed)
        if len(missing):
            self._make_room(flat, len(missing))
            self._resident[missing] = True
        self._unused[flat] = False
        self._waiting[layer * experts : (layer + 1) * experts] = False
        self._bring(flat)
        self._seconds += time.perf_counter() - began

    def _make_room(self, needed: Ids, count: int) -> None:
        leave = count - (self._shape.slots - self._held)
        self._held += count - max(leave, 0)
        if leave <= 0:
            return
        free = self._resident & ~self._waiting
        free[needed] = False
        victims = self._policy.leaving(free, leave)
        if len(victims) < leave:
            free = self._resident.copy()
            free[needed] = False
            victims = self._policy.leaving(free, leave)
        self._leave(victims)

    def _bring(self, in_use: Ids) -> None:
        """As many of the policy's wishes as the link has time for. Who is computed meanwhile does not leave."""
        if not self._prefetch:
            return
        wishes = self._policy.wishes()
        if not len(wishes.flat):
            return
        absent = ~self._resident[wishes.flat]
        flat, likely = wishes.flat[absent][: self._prefetch], wishes.likely[absent][: self._prefetch]
        if not len(flat):
            return
        may_leave = self._resident & ~self._waiting
        may_leave[in_use] = False
        free = self._shape.slots - self._held
        leaving = self._policy.leaving(may_leave, len(flat))
        brought: list[int] = []
        for wish, chance in zip(flat.tolist(), likely.tolist(), strict=True):
            if free:
                free -= 1
                self._held += 1
            elif len(leaving) and self._policy.worth(wish, chance, int(leaving[0])):
                self._leave(leaving[:1])
                leaving = leaving[1:]
            else:
                continue
            brought.append(wish)
        if brought:
            came = np.asarray(brought)
            self._resident[came] = self._waiting[came] = self._unused[came] = True
            self._prefetched += len(came)
            self._policy.brought(came)

    def _leave(self, victims: Ids) -> None:
        self._resident[victims] = self._waiting[victims] = False
        self._wasted += int(self._unused[victims].sum())
        self._unused[victims] = False
