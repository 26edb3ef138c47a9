# SPDX-License-Identifier: Apache-2.0
"""The last GPU: where the bound leaves room for one less, ways are tried for how they pack and not for what they cost.

Few stages have few options: each combination of them, with as few workers as keep the promise, and each way to decode.
"""

import numpy as np
from numba import njit

from mpsafe.operators.model import Floats
from mpsafe.operators.packing import AXES, Ints, fill
from mpsafe.operators.planner.candidate import Candidate, Times
from mpsafe.operators.planner.points import STEPS, points
from mpsafe.operators.planner.prefill import Batching
from mpsafe.operators.planner.tables import Tables
from mpsafe.operators.queueing import path_p99_s

__all__ = ["LARGEST", "MOST_STAGES", "Beside", "squeeze"]

LARGEST = 24  # GPUs; of more, one is not worth the time
MOST_STAGES = 2
_TRIED = 40  # combinations that are packed


class Beside:
    """Ways to decode on one stage, and what they take."""

    def __init__(self, ways: list[Candidate], clients: int) -> None:
        self.ways = ways
        self.clients = clients
        self.sizes = np.concatenate([np.append(way.sizes[0], 1 / clients)[np.newaxis] for way in ways])
        self.numbers = np.array([int(way.workers[0] * way.table.gpus[way.option[0]]) for way in ways], np.int64)


def squeeze(
    table: Tables, one: Batching, budget_s: float, beside: Beside, gpus: int
) -> tuple[Candidate, Candidate] | None:
    """A way to prefill on one or two stages and a way to decode that together fit into so many GPUs, or None."""
    path = one.path
    workers, mean, waits = points(path)
    stages = len(path.service)
    if stages == 1:  # a second stage that takes nothing
        workers, mean, waits = (np.concatenate([a, np.zeros((1, a.shape[1]))]) for a in (workers, mean, waits))
    sizes = np.stack([np.broadcast_to(path.shares, path.memory.shape), path.memory, path.bandwidth], axis=2)
    sizes = np.concatenate([sizes, np.full((*path.memory.shape, 1), 1 / beside.clients)], axis=2)
    longer = path.longer
    if stages == 1:
        sizes = np.concatenate([sizes, np.zeros((1, *sizes.shape[1:]))])
        longer = np.concatenate([longer, np.zeros((1, longer.shape[1]))])
    found = _squeeze(
        workers, mean, longer, waits, sizes, path.gpus, beside.sizes, beside.numbers, budget_s, gpus, len(STEPS)
    )
    if found[0] < 0:
        return None
    chosen = np.array(found[:stages])
    rows, option = np.arange(stages), chosen // len(STEPS)
    total = float(mean[rows, chosen].sum())
    late = path_p99_s(total, float(path.longer[rows, option].sum()), float((waits[rows, chosen] ** 2).sum()))
    count = workers[rows, chosen]
    prefill = Candidate(
        table=table,
        option=option,
        workers=count,
        memory=path.memory[rows, option],
        busy=path.rate_per_s * path.service[rows, option],
        volume=(sizes[rows, option, :3] * (count * path.gpus[option])[:, np.newaxis]).sum(axis=0),
        batch=one.batch,
        tokens=one.tokens,
        ttft=Times(total + one.fill_s, late + one.fill_s),
        tbt=None,
        kept=True,
        slow=int(np.argmax(mean[rows, chosen])),
    )
    return prefill, beside.ways[found[2]]


@njit(cache=True)
def _squeeze(
    workers: Floats,
    mean: Floats,
    longer: Floats,
    waits: Floats,
    sizes: Floats,
    wide: Floats,
    other: Floats,
    numbers: Ints,
    budget_s: float,
    gpus: int,
    many: int,
) -> tuple[int, int, int]:
    """The points of both stages and the way to decode; -1 where none fits."""
    options = len(wide)
    alone = sizes[1, 0, 3] == 0.0
    tried = 0
    for i in range(options):
        for j in range(1 if alone else options):
            if sizes[0, i, 1] > 1.0 or sizes[1, j, 1] > 1.0:
                continue
            for k in range(many):
                # The fewest workers of the second stage that keep the promise: more only take more.
                a, b = i * many + k, -1
                for m in range(1 if alone else many):
                    b = j * many + m
                    squares = waits[0, a] ** 2 + waits[1, b] ** 2
                    if path_p99_s(mean[0, a] + mean[1, b], longer[0, i] + longer[1, j], squares) <= budget_s:
                        break
                    b = -1
                if b < 0:
                    continue
                first, second = int(workers[0, a] * wide[i]), int(workers[1, b] * wide[j])
                way = _decoder_beside(sizes, i, j, first, second, other, numbers, gpus)
                tried += 1 if way == -2 else 0
                if way >= 0:
                    return a, b, way
                if tried >= _TRIED:
                    return -1, -1, -1
                if alone:
                    break
    return -1, -1, -1


@njit(cache=True)
def _decoder_beside(
    sizes: Floats, i: int, j: int, first: int, second: int, other: Floats, numbers: Ints, gpus: int
) -> int:
    """A way to decode that fits beside so many workers of two stages; -2: none does, -1: none could by its volume."""
    three, count = np.zeros((3, AXES)), np.zeros(3, np.int64)
    count[0], count[1], tried = first, second, False
    for axis in range(AXES):
        three[0, axis], three[1, axis] = sizes[0, i, axis], sizes[1, j, axis]
    for way in range(len(numbers)):
        count[2], fits = numbers[way], True
        for axis in range(AXES):
            three[2, axis] = other[way, axis]
            taken = first * three[0, axis] + second * three[1, axis] + count[2] * three[2, axis]
            fits = fits and taken <= gpus + 1e-9
        if fits:
            tried = True
            if fill(three, count, gpus) <= gpus:
                return way
    return -2 if tried else -1
