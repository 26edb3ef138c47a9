# SPDX-License-Identifier: Apache-2.0
"""Who decides what runs. All share forecast, planner, profiles, promise, hysteresis and step cap; they differ in the
granularity, in how often they decide, and in how long a worker needs until it is up.

A plan needs a number of GPUs, and those are then used whole: what runs is the plan that carries the most on so many. It
is left where the demand exceeds that, at once; or where fewer GPUs carry the most that was asked in the last half
minute, as the queue model has it: fewer workers must be able to take the load of all before one is taken away, so two
and one do not alternate. The kinds of workers stay until others would have saved as much as the change costs. A
decision starts as many workers as there are, or eight.
"""

from collections import deque
from dataclasses import dataclass, replace
from typing import Final, Protocol

from mpsafe.operators.forecast import Forecast
from mpsafe.operators.model import Demand, Granularity, Plan, Stage
from mpsafe.operators.times import SHARES

__all__ = ["CONTROLLERS", "STARTS_S", "STEP_LEAST", "WHOLE", "Controller", "Kind", "Planner", "Scope", "start_s"]

HOLD_S: Final = 30.0
STEP_LEAST: Final = 8
LONGER: Final = 1.1
SPARE: Final = 1.1
LOOK_S: Final = 5.0
CHANGE_S: Final = 15.0

# Mean seconds from the decision to a worker that serves, Qwen2-7B on A100: OpScale (arXiv 2608.13499), as its readers
# report it: a full replica 10.68, one operator 0.03, half of them 0.18, all of them 0.33.
STARTS_S: Final = {"replica": 10.68, "one": 0.03, "all": 0.33}

_CUTS: Final[dict[frozenset[str], Granularity]] = {
    frozenset({"model"}): "model",
    frozenset({"prefill", "decode"}): "pd",
    frozenset({"attn.prefill", "ffn.prefill", "attn.decode", "ffn.decode"}): "attn-ffn",
}


@dataclass(frozen=True, slots=True)
class Kind:
    """A controller. `instant`: workers are up at once, which no real one can do. `whole`: no two workers share a GPU,
    only to tell what sharing brings."""

    name: str
    granularity: Granularity
    interval_s: float
    instant: bool = False
    whole: bool = False
    hindsight: bool = False


CONTROLLERS: Final = {
    kind.name: kind
    for kind in (
        Kind("operator", "operator", 1.0),
        Kind("pd", "pd", 1.0),
        Kind("attn-ffn", "attn-ffn", 1.0),
        Kind("model", "model", 20.0),
        Kind("model-fast", "model", 1.0, instant=True),
        Kind("static", "model", float("inf"), hindsight=True),
    )
}
WHOLE: Final = Kind("operator, whole GPUs", "operator", 1.0, whole=True)


@dataclass(frozen=True, slots=True)
class Scope:
    """What a plan may use: shares of a GPU (None: those usual for the granularity), and the only kinds of workers, by
    stage, parallelism and share (empty: any)."""

    granularity: Granularity
    shares: tuple[float, ...] | None = None
    kinds: frozenset[tuple[str, int, float]] = frozenset()


class Planner(Protocol):
    """The planner for a model, a profile and a promise."""

    def plan(self, demand: Demand, scope: Scope) -> Plan:
        """The fewest GPUs that keep the promise."""
        ...

    def most(self, demand: Demand, scope: Scope, gpus: int) -> tuple[float, Plan]:
        """The highest rate that so many GPUs carry, and the plan for it."""
        ...


def start_s(kind: Kind, stage: Stage, operators: int) -> float:
    """Until a worker of the stage is up; `operators` is how many a model has.

    Where operators are what is started, a worker that has all of them is one such start, not that of an engine.
    """
    if kind.instant:
        return 0.0
    if kind.granularity == "model":
        return STARTS_S["replica"]
    share = (len(stage.operators) - 1) / max(1, operators - 1)
    return STARTS_S["one"] + share * (STARTS_S["all"] - STARTS_S["one"])


class Controller:
    """Decides for a fleet."""

    def __init__(self, kind: Kind, forecast: Forecast, planner: Planner) -> None:
        self.kind = kind
        self._forecast = forecast
        self._planner = planner
        self._plans: dict[tuple[object, ...], Plan] = {}
        self._asked: deque[tuple[float, Demand]] = deque()
        self._carries: Demand | None = None
        self._plan: Plan | None = None
        self._wasted_s = 0.0
        self._looked_s = 0.0

    def decide(self, now_s: float, waiting: int) -> Plan:
        """The plan to follow; `waiting`: requests that wait for their first service."""
        if self.kind.hindsight:
            self._plan = self._plan or self._for(self._forecast.peak(), Scope(self.kind.granularity))
            return self._plan
        demand = self._forecast.at(now_s, self._reaction_s, self._backlog(waiting))
        self._asked.append((now_s, demand))
        while self._asked[0][0] < now_s - max(HOLD_S, self.kind.interval_s):
            self._asked.popleft()
        if self._plan is None or self._carries is None:
            return self._take(demand, self._best(demand))
        if _exceeds(demand, self._carries):
            like, best = self._like(demand, self._plan), self._best(demand)
            worth = (like.gpus - best.gpus) * HOLD_S > self._change_s(best, self._plan)
            return self._take(demand, best if like.binding or worth else like)
        most = max((asked for _, asked in self._asked), key=_load)
        most = replace(most, rate_per_s=SPARE * most.rate_per_s)
        fewer = self._plan.gpus - 1
        if _load(most) < _load(self._carries) * fewer / (fewer + 1):
            like = self._like(most, self._plan)
            if not like.binding and like.gpus <= fewer:
                return self._take(most, like)
        return self._other(now_s, most, self._plan)

    def _other(self, now_s: float, most: Demand, plan: Plan) -> Plan:
        """Other kinds of workers, once the GPUs that they would have saved so far are what the change costs."""
        if self.kind.granularity != "operator" or now_s - self._looked_s < LOOK_S or plan.gpus == 1:
            return plan
        passed_s, self._looked_s = now_s - self._looked_s, now_s
        best = self._best(most)
        saved = plan.gpus - best.gpus
        self._wasted_s = self._wasted_s + saved * passed_s if saved > 0 and not best.binding else 0.0
        if self._wasted_s <= self._change_s(best, plan):
            return plan
        return self._take(most, best)

    def _change_s(self, plan: Plan, before: Plan) -> float:
        """GPU seconds that both are there: workers of new kinds, while those before them drain."""
        there = _kinds(before)
        new = [pool for pool in plan.pools if (pool.stage, pool.tensor_parallel, pool.share) not in there]
        return CHANGE_S * sum(pool.replicas * pool.tensor_parallel * pool.share for pool in new)

    @property
    def _reaction_s(self) -> float:
        """From a decision until the next one can have taken effect."""
        start = STARTS_S["replica" if self.kind.granularity == "model" else "all"]
        return self.kind.interval_s + (0.0 if self.kind.instant else start)

    def _backlog(self, waiting: int) -> int:
        """What waits beyond half a second's arrivals is late."""
        expected = 0.5 * self._carries.rate_per_s if self._carries is not None else 0.0
        return max(0, waiting - int(expected) - 1)

    def _take(self, demand: Demand, base: Plan) -> Plan:
        """The plan that carries the most on as many GPUs as the demand needs."""
        self._wasted_s = 0.0
        self._carries, self._plan = demand, base
        if not base.binding:
            rate, full = self._planner.most(demand, self._scope(base), base.gpus)
            if rate >= demand.rate_per_s:
                self._carries, self._plan = replace(demand, rate_per_s=rate), full
        return self._plan

    def _scope(self, plan: Plan) -> Scope:
        """Only such workers as the plan has."""
        if self.kind.granularity != "operator":
            return Scope(self.kind.granularity)
        cut = _cut(plan)
        if cut == "model":
            return Scope("model")
        return Scope(cut, tuple(sorted({pool.share for pool in plan.pools})), _kinds(plan))

    def _like(self, demand: Demand, plan: Plan) -> Plan:
        return self._for(demand, self._scope(plan))

    def _best(self, demand: Demand) -> Plan:
        """Replicas of the model, unless something finer needs fewer GPUs."""
        if self.kind.granularity != "operator":
            return self._for(demand, Scope(self.kind.granularity))
        finer = self._for(demand, Scope("operator", (1.0,) if self.kind.whole else SHARES))
        replicas = self._for(demand, Scope("model"))
        as_good = not replicas.binding or bool(finer.binding)  # where nothing keeps the promise, the fewest GPUs
        return replicas if as_good and replicas.gpus <= finer.gpus else finer

    def _for(self, demand: Demand, scope: Scope) -> Plan:
        key = (
            demand.rate_per_s,
            demand.prompt_mean,
            demand.output_mean,
            demand.output_scv,
            demand.arrival_scv,
            id(demand.prompts),
            scope,
        )
        if key not in self._plans:
            self._plans[key] = self._planner.plan(demand, scope)
        return self._plans[key]


def _cut(plan: Plan) -> Granularity:
    return _CUTS.get(frozenset(pool.stage for pool in plan.pools), "operator")


def _kinds(plan: Plan) -> frozenset[tuple[str, int, float]]:
    return frozenset((pool.stage, pool.tensor_parallel, pool.share) for pool in plan.pools)


def _load(demand: Demand) -> float:
    """Tokens a second."""
    return demand.rate_per_s * (demand.prompt_mean + demand.output_mean)


def _exceeds(demand: Demand, other: Demand) -> bool:
    """In prompt tokens, in tokens of answers, or in how long the longest prompts are."""
    prompts = demand.rate_per_s * demand.prompt_mean > other.rate_per_s * other.prompt_mean * 1.001
    outputs = demand.rate_per_s * demand.output_mean > other.rate_per_s * other.output_mean * 1.001
    return prompts or outputs or _longest(demand) > LONGER * _longest(other)


def _longest(demand: Demand) -> float:
    return float(demand.prompts[-max(1, len(demand.prompts) // 100)]) if len(demand.prompts) else demand.prompt_mean
