# SPDX-License-Identifier: Apache-2.0
"""What a policy is told, and what it is asked.

An expert is one number here: layer * experts + id. A policy is told of each step and of each layer's routing as soon
as the router has spoken; then it is asked who may leave, and what it wishes to have before it is needed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mpsafe.experts.trace import Floats, Ids, Trace

__all__ = [
    "NOTHING",
    "Evictor",
    "Flags",
    "Pair",
    "Policy",
    "Predictor",
    "Routed",
    "Scores",
    "Shape",
    "Step",
    "Wishes",
    "least",
    "steps",
]

Scores = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a model and its cache: `slots` experts of any layer have room at once. `used`: experts a token and layer."""

    layers: int
    experts: int
    used: int
    slots: int

    @property
    def total(self) -> int:
        """All experts."""
        return self.layers * self.experts


@dataclass(frozen=True, slots=True)
class Step:
    """One token of one request begins. The vectors are [H], None where nobody recorded them.

    `context`: the last hidden state of the token before, zeros where there is none.
    """

    request: int
    embedding: Floats | None = None
    context: Floats | None = None


@dataclass(frozen=True, slots=True)
class Routed:
    """The router of a layer has spoken: `flat` are the experts it asked for, [K], `missing` of which are not there.

    `probabilities` [E]: its whole softmax; `ahead` [D, E]: what the routers of the next D layers make of its input.
    """

    layer: int
    flat: Ids
    missing: int = 0
    probabilities: Floats | None = None
    ahead: Floats | None = None


@dataclass(frozen=True, slots=True)
class Wishes:
    """What to bring in before it is asked for, the most urgent first: experts and how likely each will be used."""

    flat: Ids
    likely: Scores


def steps(trace: Trace) -> Iterator[tuple[Step, Iterator[Routed]]]:
    """The tokens of a trace in order, and for each its layers, with all that was recorded."""
    for number in range(len(trace)):
        step = Step(
            int(trace.requests[number]),
            None if trace.embeddings is None else trace.embeddings[number],
            None if trace.contexts is None else trace.contexts[number],
        )
        yield step, (_routed(trace, number, layer) for layer in range(trace.layers))


def _routed(trace: Trace, number: int, layer: int) -> Routed:
    return Routed(
        layer,
        trace.ids[number * trace.layers + layer] + layer * trace.experts,
        0,
        None if trace.probabilities is None else trace.probabilities[number, layer],
        None if trace.ahead is None else trace.ahead[number, layer],
    )


NOTHING = Wishes(np.empty(0, np.intp), np.empty(0))


class Evictor(Protocol):
    """Says who leaves."""

    def begin(self, step: Step) -> None: ...
    def routed(self, routed: Routed) -> None: ...
    def brought(self, flat: Ids) -> None:
        """These were brought in before they were asked for."""
        ...

    def keep(self, candidates: Ids) -> Scores:
        """What each candidate is worth; the lowest leaves first."""
        ...


class Predictor(Protocol):
    """Says what will be asked for."""

    def learn(self, traces: list[Trace]) -> None:
        """From traces of other requests, before the first step."""
        ...

    def begin(self, step: Step) -> None: ...
    def routed(self, routed: Routed) -> None: ...
    def wishes(self) -> Wishes:
        """After `begin` or `routed`; an expert that is there already may be among them."""
        ...


class Policy(Evictor, Predictor, Protocol):
    """Both."""

    def leaving(self, may_leave: Flags, count: int) -> Ids:
        """The `count` that are worth least of those that may leave [L * E], the least first; fewer where fewer may."""
        ...

    def worth(self, wish: int, likely: float, victim: int) -> bool:
        """Whether `wish`, which is used with this likelihood, should come in and the victim leave."""
        ...


@dataclass(frozen=True, slots=True)
class Pair:
    """An evictor and a predictor, each on its own. `worthwhile`: see `Policy.worth`; by default always."""

    evictor: Evictor
    predictor: Predictor | None = None
    worthwhile: Callable[[int, float, int], bool] | None = None

    def learn(self, traces: list[Trace]) -> None:
        if self.predictor is not None:
            self.predictor.learn(traces)

    def begin(self, step: Step) -> None:
        self.evictor.begin(step)
        if self.predictor is not None:
            self.predictor.begin(step)

    def routed(self, routed: Routed) -> None:
        self.evictor.routed(routed)
        if self.predictor is not None:
            self.predictor.routed(routed)

    def brought(self, flat: Ids) -> None:
        self.evictor.brought(flat)

    def keep(self, candidates: Ids) -> Scores:
        return self.evictor.keep(candidates)

    def leaving(self, may_leave: Flags, count: int) -> Ids:
        return least(self.evictor, may_leave, count)

    def wishes(self) -> Wishes:
        return self.predictor.wishes() if self.predictor is not None else NOTHING

    def worth(self, wish: int, likely: float, victim: int) -> bool:
        return self.worthwhile is None or self.worthwhile(wish, likely, victim)


def least(evictor: Evictor, may_leave: Flags, count: int) -> Ids:
    """The `count` that it would keep least; of equals the first."""
    candidates = np.flatnonzero(may_leave)
    if not len(candidates):
        return candidates
    scores = evictor.keep(candidates)
    if count == 1:
        return candidates[[int(scores.argmin())]]
    return candidates[np.argsort(scores, kind="stable")[:count]]
