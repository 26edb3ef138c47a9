# SPDX-License-Identifier: Apache-2.0
"""Decoding on several stages: groups of sequences live on the workers that hold their caches and go round.

A holder has one group and is taken for as long as that is away, so each second that another stage adds is a cost in
holders; it is added to the cost of that stage's points, as a rent.
"""

import math
from typing import Final

import numpy as np

from mpsafe.operators.model import Floats
from mpsafe.operators.planner.candidate import Candidate, Times
from mpsafe.operators.planner.load import Load
from mpsafe.operators.planner.points import WEIGHTS, Path, solve
from mpsafe.operators.planner.prefill import units
from mpsafe.operators.planner.replicas import Z99
from mpsafe.operators.planner.tables import GROUP_SIZES, Machine, Tables, at, at_context, working_bytes

__all__ = ["least", "ways"]

_STEADY_SCV: Final = 0.1  # of the seconds of a group's visits: groups are nearly equal
_SIZES, _HOLDERS, _ROWS = 2, 2, 2  # how many group sizes, options for holders and rows of WEIGHTS are tried
_ROOM: Final = 0.9  # the part of the promise that a round without waiting may take


class _Round:
    """A table at a load's context."""

    def __init__(self, table: Tables, machine: Machine, load: Load, tbt_s: float) -> None:
        stages = table.stages
        self.seconds = at_context(table, load.context)
        self.holder = next(row for row, stage in enumerate(stages) if stage.kv_bytes_per_token)
        self.others = np.array([row for row in range(len(stages)) if row != self.holder])
        working = np.array([working_bytes(stage, machine.spec, float(GROUP_SIZES[-1])) for stage in stages])
        self.memory = table.memory + working[:, np.newaxis] / table.gpus / machine.memory_bytes
        held = stages[self.holder].kv_bytes_per_token * load.context
        self.cached = held / machine.memory_bytes / table.gpus
        self.hops = np.array([stage.hops * table.hop_s for stage in stages])
        self.handed = np.array([stage.out_bytes_per_token for stage in stages]) / machine.link_bytes_per_s
        fastest = np.where((self.memory <= 1)[:, :, np.newaxis], self.seconds, np.inf).min(axis=1).sum(axis=0)
        self.fastest = fastest + self.hops.sum() + self.handed.sum() * GROUP_SIZES
        self.sizes = [k for k in range(len(GROUP_SIZES)) if self.fastest[k] <= _ROOM * tbt_s][-_SIZES:] or [0]


def least(table: Tables, machine: Machine, load: Load, tbt_s: float) -> Floats:
    """By row of WEIGHTS, GPUs that no way goes below: what the work alone needs, in the largest groups."""
    one = _Round(table, machine, load, tbt_s)
    k = one.sizes[-1]
    unit = units(table, one.memory)
    needed = (unit * one.seconds[:, :, k]).min(axis=2)
    holder = unit[:, one.holder].min(axis=1) * one.fastest[k]
    rounds = load.tokens_per_s / GROUP_SIZES[k]
    return np.asarray(rounds * (needed[:, one.others].sum(axis=1) + holder), np.float64)


def ways(table: Tables, machine: Machine, load: Load, tbt_s: float) -> list[Candidate]:
    found, one = list[Candidate](), _Round(table, machine, load, tbt_s)
    for k in one.sizes:
        size = float(GROUP_SIZES[k])
        there = load.tokens_per_s * float(one.fastest[k])
        # Fewer sequences than a group has room for are one group; many spread by the square root of their number.
        most = math.ceil(there + Z99 * math.sqrt(there)) if there <= size else size * (1 + Z99 / math.sqrt(there))
        most = max(1.0, most)
        seconds = one.seconds[:, :, k]
        later = at(one.seconds, GROUP_SIZES, most)
        rounds = load.tokens_per_s / min(size, max(1.0, there))
        hand_over = one.hops + one.handed * size
        taken = one.memory[one.holder] + most * one.cached
        rent = np.maximum(table.shares, np.minimum(taken, 2.0)) * table.gpus * seconds[one.holder]
        rent = np.where(taken <= 1, rent, np.inf)
        path = Path(
            service=seconds[one.others],
            scv=np.full((len(one.others), len(table.options)), _STEADY_SCV),
            longer=np.maximum(0.0, later - seconds)[one.others],
            hand_over=np.repeat(hand_over[one.others, np.newaxis], len(table.options), axis=1),
            memory=one.memory[one.others],
            bandwidth=table.bandwidth[one.others],
            gpus=table.gpus,
            shares=table.shares,
            rate_per_s=rounds,
            first_scv=1.0,
            later_scv=1.0,
        )
        for j in (int(j) for j in np.argsort(rent, kind="stable")[:_HOLDERS] if np.isfinite(rent[j])):
            own = float(seconds[one.holder, j] + hand_over[one.holder])
            more = max(0.0, float(later[one.holder, j] - seconds[one.holder, j]))
            worker = np.array([table.shares[j], taken[j], table.bandwidth[one.holder, j]]) * table.gpus[j]
            rents = rounds * (WEIGHTS[: _ROWS if table.divisible else 1] @ worker)
            solved = solve(path, tbt_s - own - more, rents)
            for index in range(len(rents)):
                mean = float(solved.mean[index]) + own
                late = float(solved.late[index]) + own + more
                holders = max(1.0, math.ceil(rounds * mean - 1e-9))
                option = np.insert(solved.option[index], one.holder, j)
                rows = np.arange(len(option))
                memory = one.memory[rows, option]
                memory[one.holder] = taken[j]
                workers = np.insert(solved.workers[index], one.holder, holders)
                found.append(
                    Candidate(
                        table=table,
                        option=option,
                        workers=workers,
                        memory=memory,
                        busy=np.minimum(rounds * seconds[rows, option], workers),
                        volume=solved.volume[index] + holders * worker,
                        batch=math.ceil(most),
                        tokens=0,
                        ttft=None,
                        tbt=Times(mean, late),
                        kept=bool(solved.kept[index]) and late <= tbt_s + 1e-9,
                        slow=int(one.others[int(np.argmax(solved.stage_mean[index]))]),
                    )
                )
    return found
