# SPDX-License-Identifier: Apache-2.0
"""Who decides what runs. All share forecast, planner, profiles, promise, hysteresis and step cap; they differ in the
granularity, in how often they decide, and in how long a worker needs until it is up.

Up at once, where the demand is more than what the present plan is for. Down only to fewer GPUs, and only for the most
that was asked in the last half minute: fewer workers have to carry that load, as the queue model has it, before one is
taken away; so two and one do not alternate. A decision starts as many workers as there are, or eight.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from mpsafe.operators.forecast import Forecast
from mpsafe.operators.model import Demand, Granularity, Plan, Stage

__all__ = ["CONTROLLERS", "STARTS_S", "WHOLE", "Controller", "Kind", "Planner", "start_s"]

Planner: TypeAlias = Callable[[Demand], Plan]

HOLD_S: Final = 30.0
STEP_LEAST: Final = 8

# Mean seconds from the decision to a worker that serves, Qwen2-7B on A100: OpScale (arXiv 2608.13499), as its readers
# report it: a full replica 10.68, one operator 0.03, half of them 0.18, all of them 0.33.
STARTS_S: Final = {"replica": 10.68, "one": 0.03, "all": 0.33}


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


def start_s(kind: Kind, stage: Stage, operators: int) -> float:
    """Until a worker of the stage is up; `operators` is how many a model has."""
    if kind.instant:
        return 0.0
    if len(stage.phases) > 1:
        return STARTS_S["replica"]
    share = (len(stage.operators) - 1) / max(1, operators - 1)
    return STARTS_S["one"] + share * (STARTS_S["all"] - STARTS_S["one"])


class Controller:
    """Decides for a fleet; `reaction_s`: from one decision until the next one can have taken effect."""

    def __init__(
        self, kind: Kind, forecast: Forecast, planner: Planner, *, interval_s: float, reaction_s: float
    ) -> None:
        self.kind = kind
        self._forecast = forecast
        self._planner = planner
        self._reaction_s = reaction_s
        self._plans: dict[tuple[float, ...], Plan] = {}
        self._asked: deque[tuple[float, Demand]] = deque()
        self._now_for: Demand | None = None
        self._plan: Plan | None = None

    def decide(self, now_s: float, waiting: int) -> Plan:
        """The plan to follow; `waiting`: requests that wait for their first service."""
        if self.kind.hindsight:
            self._plan = self._plan or self._for(self._forecast.peak())
            return self._plan
        demand = self._forecast.at(now_s, self._reaction_s, self._backlog(waiting))
        self._asked.append((now_s, demand))
        while self._asked[0][0] < now_s - max(HOLD_S, self.kind.interval_s):
            self._asked.popleft()
        if self._plan is None or self._now_for is None or _exceeds(demand, self._now_for):
            return self._take(demand)
        most = max((asked for _, asked in self._asked), key=_load)
        if _load(most) < _load(self._now_for) and self._for(most).gpus < self._plan.gpus:
            return self._take(most)
        return self._plan

    def _backlog(self, waiting: int) -> int:
        """What waits beyond half a second's arrivals is late."""
        expected = 0.5 * self._now_for.rate_per_s if self._now_for is not None else 0.0
        return max(0, waiting - int(expected) - 1)

    def _take(self, demand: Demand) -> Plan:
        self._now_for, self._plan = demand, self._for(demand)
        return self._plan

    def _for(self, demand: Demand) -> Plan:
        key = (
            demand.rate_per_s,
            demand.prompt_mean,
            demand.output_mean,
            demand.prompt_scv,
            demand.output_scv,
            demand.arrival_scv,
            float(id(demand.prompts)),
        )
        if key not in self._plans:
            self._plans[key] = self._planner(demand)
        return self._plans[key]


def _load(demand: Demand) -> float:
    """Tokens a second."""
    return demand.rate_per_s * (demand.prompt_mean + demand.output_mean)


def _exceeds(demand: Demand, other: Demand) -> bool:
    """In prompt tokens, or in tokens of answers."""
    prompts = demand.rate_per_s * demand.prompt_mean > other.rate_per_s * other.prompt_mean * 1.001
    return prompts or demand.rate_per_s * demand.output_mean > other.rate_per_s * other.output_mean * 1.001
