# SPDX-License-Identifier: Apache-2.0
"""Small planning problems, drawn at random from real tables, and by how much the planner misses their optimum."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from mpsafe.operators.model import Demand, Plan, Slo
from mpsafe.operators.planner import exact, loops, most, plan, prefill
from mpsafe.operators.planner.load import load_of
from mpsafe.operators.planner.search import Question, decoding, prefilling
from mpsafe.operators.profiles import Profile
from mpsafe.operators.specs import Spec
from mpsafe.operators.times import SHARES

__all__ = ["GPUS", "Gap", "Instance", "gap", "instances"]

GPUS = 6


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """A load that needs a handful of GPUs."""

    spec: Spec
    profile: Profile
    demand: Demand
    slo: Slo


@dataclass(frozen=True, slots=True, eq=False)
class Gap:
    """`gpus` of the plan and of the optimum; `proven`: every program was solved to its end."""

    found: Plan
    optimum: int
    proven: bool

    @property
    def percent(self) -> float:
        return 100 * (self.found.gpus / self.optimum - 1)


def instances(specs: list[Spec], profiles: list[Profile], *, seed: int) -> Iterator[Instance]:
    """Without end. The rate is drawn around what one to GPUS GPUs carry; what cannot be kept at all is left out."""
    random = np.random.default_rng(seed)
    while True:
        spec, profile = specs[random.integers(len(specs))], profiles[random.integers(len(profiles))]
        slo = Slo(float(random.choice([0.5, 1.0, 2.0, 4.0])), float(random.choice([0.05, 0.1, 0.2])))
        demand = Demand(
            rate_per_s=1.0,
            prompt_mean=float(random.uniform(128, 4000)),
            output_mean=float(random.uniform(16, 600)),
            prompt_scv=float(random.uniform(0, 1.5)),
        )
        devices = int(random.integers(1, GPUS + 1))
        rate, _ = most(spec, profile, demand, slo, granularity="operator", devices=devices)
        one = Instance(spec, profile, replace(demand, rate_per_s=rate * float(random.uniform(0.7, 1.0))), slo)
        if rate > 0:
            yield one


def gap(one: Instance, *, time_s: float = 60.0) -> Gap:
    """The optimum over replicas of the model, and over all cuts, batches, options, workers and places of prefill with
    all ways to decode on one stage. Where the bound says that there is nothing better, nothing is solved."""
    found = plan(one.spec, one.profile, one.demand, one.slo, granularity="operator")
    question = Question(one.spec, one.profile, load_of(one.demand), one.slo, "operator", SHARES)
    best, proven = found.gpus, True
    table = decoding(question)
    ways, _ = loops.decode(table, question.machine, question.load, one.slo.tbt_s)
    for stages in prefilling(question):
        for batching in prefill.batchings(stages, question.machine, question.load):
            if np.ceil(found.bound_gpus - 1e-6) >= best:
                return Gap(found, best, proven)
            budget = one.slo.ttft_s - batching.fill_s
            clients = one.profile.device.clients_max
            answer = exact.fewest(batching.path, budget, ways, clients, gpus=best - 1, time_s=time_s)
            best, proven = answer.gpus or best, proven and answer.proven
    return Gap(found, best, proven)
