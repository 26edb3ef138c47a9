# SPDX-License-Identifier: Apache-2.0
"""One way to run a phase, or the whole model, before it is placed."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mpsafe.operators.model import Floats, PoolPlan
from mpsafe.operators.packing import Ints
from mpsafe.operators.placement import Kind
from mpsafe.operators.planner.tables import Tables

__all__ = ["Candidate", "Times", "frontier"]


@dataclass(frozen=True, slots=True)
class Times:
    """Mean and 99th percentile, in seconds."""

    mean_s: float
    p99_s: float


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Candidate:
    """By stage of `table`: the option, the workers, what a shard takes of a GPU's memory, and how many workers are
    busy. `volume`: GPUs by axis (SMs, memory, bus). `kept`: the promise is kept; else this is the nearest way, and
    `slow` the stage that takes most of the time."""

    table: Tables
    option: Ints
    workers: Floats
    memory: Floats
    busy: Floats
    volume: Floats
    batch: int
    tokens: int
    ttft: Times | None
    tbt: Times | None
    kept: bool
    slow: int

    @property
    def late_s(self) -> float:
        """The 99th percentile of what this was chosen for."""
        return max((times.p99_s for times in (self.ttft, self.tbt) if times is not None), default=0.0)

    @property
    def sizes(self) -> Floats:
        """By stage and axis, what one shard takes."""
        rows = np.arange(len(self.option))
        return np.stack([self.table.shares[self.option], self.memory, self.table.bandwidth[rows, self.option]], axis=1)

    @property
    def kinds(self) -> list[Kind]:
        """Of workers, by stage."""
        options = [self.table.options[int(option)] for option in self.option]
        stages = [stage.name for stage in self.table.stages]
        return [(name, option.tensor_parallel, option.share) for name, option in zip(stages, options, strict=True)]

    def pools(self, memory_bytes: float) -> tuple[PoolPlan, ...]:
        found = list[PoolPlan]()
        for row, stage in enumerate(self.table.stages):
            option = self.table.options[int(self.option[row])]
            found.append(
                PoolPlan(
                    stage=stage.name,
                    replicas=int(self.workers[row]),
                    batch=self.batch,
                    tokens=self.tokens,
                    tensor_parallel=option.tensor_parallel,
                    share=option.share,
                    memory_bytes=float(self.memory[row]) * memory_bytes,
                )
            )
        return tuple(found)

    def working(self) -> float:
        """GPUs' worth of work: by the SMs or by the memory bus, whichever is more."""
        rows = np.arange(len(self.option))
        each = np.maximum(self.table.shares[self.option], self.table.bandwidth[rows, self.option])
        return float((self.busy * each * self.table.gpus[self.option]).sum())


def frontier(found: Iterable[Candidate]) -> list[Candidate]:
    """Of the ways that keep the promise, those that no other undercuts on all axes with pieces as small, for small
    pieces pack better; the nearest way, where none keeps it."""
    ways = list(found)
    kept = [way for way in ways if way.kept]
    if not kept:
        return sorted(ways, key=lambda way: way.late_s)[:1]
    kept.sort(key=lambda way: (float(way.volume.sum()), len(way.option)))
    volumes = np.array([[*way.volume, way.table.shares[way.option].max()] for way in kept])
    beaten = np.all(volumes[:, np.newaxis] <= volumes[np.newaxis] + 1e-12, axis=2)
    return [way for index, way in enumerate(kept) if not beaten[:index, index].any()]
