# SPDX-License-Identifier: Apache-2.0
"""Workers that keep whole sequences to themselves: decoders with all operators, and replicas of the model."""

import numpy as np

from mpsafe.operators.model import Floats
from mpsafe.operators.planner.candidate import Candidate, Times
from mpsafe.operators.planner.load import Load
from mpsafe.operators.planner.points import WEIGHTS
from mpsafe.operators.planner.replicas import BUDGETS, decoders, replicas
from mpsafe.operators.planner.tables import GROUP_SIZES, Machine, Tables, at, at_context, working_bytes
from mpsafe.operators.times import CONTEXT, LENGTHS, TOKENS

__all__ = ["decode", "monolith"]

_NEAR = 1.25  # how far above the least that can be a promise is set that could not be kept


def _bounds(found: list[Candidate]) -> Floats:
    if not found or not found[0].kept:
        return np.zeros(len(WEIGHTS))
    return np.asarray(np.min([WEIGHTS @ way.volume for way in found], axis=0), np.float64)


def decode(table: Tables, machine: Machine, load: Load, tbt_s: float) -> tuple[list[Candidate], Floats]:
    """Ways to decode on one stage, and by row of WEIGHTS a number of GPUs that none of them goes below."""
    stage, iteration = table.stages[0], at_context(table, load.context)[0]
    memory = (
        table.memory[0] + working_bytes(stage, machine.spec, float(GROUP_SIZES[-1])) / table.gpus / machine.memory_bytes
    )
    cached = stage.kv_bytes_per_token * load.context / machine.memory_bytes / table.gpus
    room = np.where(memory <= 1, np.floor((1 - np.minimum(memory, 1)) / cached), 0.0)
    found, kept = decoders(iteration, GROUP_SIZES, load.tokens_per_s, room, tbt_s), True
    if not np.any(np.isfinite(found[:, 0])):
        fastest = float(np.where(room >= 1, iteration[:, 0], np.inf).min())
        kept, found = False, decoders(iteration, GROUP_SIZES, load.tokens_per_s, room, _NEAR * fastest)
    ways = list[Candidate]()
    for j in np.flatnonzero(np.isfinite(found[:, 0])):
        count, group, most, mean, late = found[j]
        taken = memory[j] + most * cached[j]
        worker = np.array([table.shares[j], taken, table.bandwidth[0, j]]) * table.gpus[j]
        ways.append(
            Candidate(
                table=table,
                option=np.array([j]),
                workers=np.array([count]),
                memory=np.array([taken]),
                busy=np.array([count * min(1.0, load.tokens_per_s * mean / count / max(1.0, group))]),
                volume=count * worker,
                batch=int(most),
                tokens=0,
                ttft=None,
                tbt=Times(float(mean), float(late)),
                kept=kept,
                slow=0,
            )
        )
    return ways, _bounds(ways)


def monolith(
    table: Tables, machine: Machine, load: Load, ttft_s: float, tbt_s: float
) -> tuple[list[Candidate], Floats]:
    """Ways to replicate the model, as `decode`; none where no number of replicas keeps both promises."""
    stage = table.stages[0]
    memory = (
        table.memory[0] + working_bytes(stage, machine.spec, float(BUDGETS[-1])) / table.gpus / machine.memory_bytes
    )
    cached = stage.kv_bytes_per_token * load.context / machine.memory_bytes / table.gpus
    room = np.where(memory <= 1, np.floor((1 - np.minimum(memory, 1)) / cached), 0.0)
    attention = at(table.decode[0], CONTEXT, load.context)
    scv = load.arrival_scv + float(load.lengths.var()) / load.prompt**2
    demand = (load.rate_per_s, max(0.0, load.output - 1.0), scv, load.long)
    found = replicas(
        demand, load.lengths, ttft_s, tbt_s, room, BUDGETS, TOKENS, table.linear[0], LENGTHS, table.prefill[0],
        GROUP_SIZES, attention,
    )  # fmt: skip
    ways = list[Candidate]()
    for j in range(len(table.options)):
        count, tokens, most, ttft, ttft_p99, tbt, tbt_p99, busy = found[j]
        if not np.isfinite(count):
            continue
        taken = memory[j] + most * cached[j]
        worker = np.array([table.shares[j], taken, table.bandwidth[0, j]]) * table.gpus[j]
        ways.append(
            Candidate(
                table=table,
                option=np.array([j]),
                workers=np.array([count]),
                memory=np.array([taken]),
                busy=np.array([busy * count]),
                volume=count * worker,
                batch=int(most),
                tokens=int(tokens),
                ttft=Times(float(ttft), float(ttft_p99)),
                tbt=Times(float(tbt), float(tbt_p99)),
                kept=True,
                slow=0,
            )
        )
    return ways, _bounds(ways) if ways else np.full(len(WEIGHTS), np.inf)
