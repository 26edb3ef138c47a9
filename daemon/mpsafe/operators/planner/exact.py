# SPDX-License-Identifier: Apache-2.0
"""The exact joint optimum of small plans: options, workers and placement in one mixed-integer program (HiGHS).

For each way to cut and batch the prompts, with decoders on one stage: binary which point each stage takes, integer how
many of its workers are on each GPU. The 99th percentile is a mean and a norm, so what it allows is convex: it is cut
from outside, a tangent each time that an answer exceeds it, until none does. Nothing here is fast.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from mpsafe.operators.model import Floats
from mpsafe.operators.packing import AXES
from mpsafe.operators.planner.candidate import Candidate
from mpsafe.operators.planner.points import STEPS, Path, points
from mpsafe.operators.queueing import path_p99_s

__all__ = ["Answer", "fewest"]

_CUTS = 60


@dataclass(frozen=True, slots=True)
class Answer:
    """`gpus`: the fewest, or None where there is no way on as many as were allowed; `proven`: within the time. `pools`:
    option and workers of each prefill stage, then of the decoders."""

    gpus: int | None
    proven: bool
    pools: tuple[tuple[int, int], ...] = ()


class _Program:
    """Rows and columns of a program, collected."""

    def __init__(self) -> None:
        self.columns = 0
        self.upper = list[float]()
        self.cost = list[float]()
        self.rows = list[tuple[dict[int, float], float, float]]()

    def column(self, upper: float, cost: float = 0.0) -> int:
        self.columns += 1
        self.upper.append(upper)
        self.cost.append(cost)
        return self.columns - 1

    def row(self, terms: dict[int, float], low: float, high: float) -> None:
        self.rows.append((terms, low, high))

    def solve(self, time_s: float) -> tuple[Floats | None, bool]:
        """The columns' values, or None; and whether that is proven."""
        entries = [(number, column, value) for number, row in enumerate(self.rows) for column, value in row[0].items()]
        at, columns, values = zip(*entries, strict=True)
        matrix = csr_array((values, (at, columns)), shape=(len(self.rows), self.columns))
        found = milp(
            np.array(self.cost),
            integrality=np.ones(self.columns),
            bounds=Bounds(0, np.array(self.upper)),
            constraints=LinearConstraint(matrix, [low for _, low, _ in self.rows], [high for *_, high in self.rows]),
            options={"time_limit": time_s, "mip_rel_gap": 0.0},
        )
        return (None if found.x is None else np.asarray(found.x)), found.status in (0, 2)


def fewest(path: Path, budget_s: float, decoders: list[Candidate], clients: int, *, gpus: int, time_s: float) -> Answer:
    """On at most `gpus` GPUs: a path through prefill stages within its budget, and one of the ways to decode on one
    stage. `clients` is how many workers a GPU may have."""
    program = _Program()
    on = [program.column(1, 1.0) for _ in range(gpus)]
    for one, other in pairwise(on):
        program.row({one: 1.0, other: -1.0}, 0, math.inf)  # GPUs are alike: the first are used
    loads: list[list[dict[int, float]]] = [[{gpu: -1.0} for _ in range(AXES)] for gpu in on]

    def workers(size: Floats, numbers: dict[int, float]) -> None:
        """Workers of a size, on any GPUs, as many as the chosen point says."""
        most = int(max(numbers.values()))
        fit = min([most, *[int((1 + 1e-9) / value) for value in size if value > 0]])
        places = [program.column(fit) for _ in on]
        for gpu, place in enumerate(places):
            for axis in range(AXES):
                loads[gpu][axis][place] = float(size[axis])
        program.row(dict.fromkeys(places, 1.0) | {point: -count for point, count in numbers.items()}, 0, 0)

    count, mean, waits = points(path)
    columns: list[dict[int, int]] = []
    for i in range(len(path.service)):
        taken = dict[int, int]()
        for j in np.flatnonzero(path.memory[i] <= 1):
            size = np.array([path.shares[j], path.memory[i, j], path.bandwidth[i, j], 1 / clients])
            these = range(int(j) * len(STEPS), (int(j) + 1) * len(STEPS))
            used = {program.column(1): point for point in these if count[i, point] * path.gpus[j] <= gpus * clients}
            if used:
                taken |= used
                workers(size, {column: float(count[i, point] * path.gpus[j]) for column, point in used.items()})
        if not taken:
            return Answer(None, True)
        program.row(dict.fromkeys(taken, 1.0), 1, 1)
        columns.append(taken)
    ways = dict[int, Candidate]()
    for way in decoders:
        size = np.append(way.sizes[0], 1 / clients)
        number = float(way.workers[0] * way.table.gpus[way.option[0]])
        if number <= gpus * clients:
            column = program.column(1)
            ways[column] = way
            workers(size, {column: number})
    if not ways:
        return Answer(None, True)
    program.row(dict.fromkeys(ways, 1.0), 1, 1)
    for axes in loads:
        for terms in axes:
            program.row(terms, -math.inf, 0)
    return _cut(program, path, columns, ways, (count, mean, waits), budget_s, on, time_s)


def _cut(
    program: _Program,
    path: Path,
    columns: list[dict[int, int]],
    ways: dict[int, Candidate],
    found_points: tuple[Floats, Floats, Floats],
    budget_s: float,
    on: list[int],
    time_s: float,
) -> Answer:
    """Solves until the answer is within the budget."""
    longer, (count, mean, waits) = np.repeat(path.longer, len(STEPS), axis=1), found_points
    program.row(
        {c: float(mean[i, p]) for i, taken in enumerate(columns) for c, p in taken.items()}, -math.inf, budget_s
    )
    for _ in range(_CUTS):
        found, proven = program.solve(time_s)
        if found is None:
            return Answer(None, proven)
        chosen = [next(p for c, p in taken.items() if found[c] > 0.5) for taken in columns]
        rows = np.arange(len(chosen))
        more, late = float(longer[rows, chosen].sum()), waits[rows, chosen]
        if path_p99_s(float(mean[rows, chosen].sum()), more, float((late**2).sum())) <= budget_s + 1e-9:
            pools = [(int(p) // len(STEPS), int(count[i, p])) for i, p in enumerate(chosen)]
            pools += [(int(way.option[0]), int(way.workers[0])) for c, way in ways.items() if found[c] > 0.5]
            return Answer(round(sum(float(found[column]) for column in on)), proven, tuple(pools))
        root = math.sqrt(more * more + float((late**2).sum()))
        program.row(
            {
                c: float(mean[i, p] + more / root * longer[i, p] + late[i] / root * waits[i, p])
                for i, taken in enumerate(columns)
                for c, p in taken.items()
            },
            -math.inf,
            budget_s,
        )
    return Answer(None, False)
