# SPDX-License-Identifier: Apache-2.0
"""The tables of all options of all stages of a cut, stacked, so that a plan reads them at once."""

from bisect import bisect_right
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import numpy as np

from mpsafe.errors import NotMeasured
from mpsafe.operators.model import Floats, Stage
from mpsafe.operators.placement import Kind
from mpsafe.operators.profiles import Profile
from mpsafe.operators.specs import BYTES, Spec
from mpsafe.operators.times import CONTEXT, LENGTHS, SEQUENCES, TOKENS, stage_times

__all__ = [
    "CLIENT_BYTES",
    "GROUP_SIZES",
    "Machine",
    "Option",
    "Tables",
    "at",
    "at_all",
    "at_context",
    "tables",
    "working_bytes",
]

GROUP_SIZES: Final[Floats] = np.array(
    [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024], np.float64
)
CLIENT_BYTES: Final = 0.5e9  # an assumption: a process's CUDA context and libraries


@dataclass(frozen=True, slots=True)
class Option:
    """What one worker may be."""

    tensor_parallel: int
    share: float


@dataclass(frozen=True, slots=True)
class Machine:
    """What the tables leave out of a model and its GPU."""

    spec: Spec
    memory_bytes: float
    link_bytes_per_s: float


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Tables:
    """Seconds by stage and option, and then by tokens (`linear`), prompt length (`prefill`), group size (`group`, of
    the linear part) or group size and context (`decode`). `memory`: what a worker's weights and process take of one
    GPU's memory, as a part of it; `bandwidth`: of its bus; infinite memory where there is no such option."""

    stages: tuple[Stage, ...]
    options: tuple[Option, ...]
    gpus: Floats
    shares: Floats
    linear: Floats
    prefill: Floats
    group: Floats
    decode: Floats
    memory: Floats
    bandwidth: Floats
    hop_s: float

    @property
    def possible(self) -> bool:
        """Each stage has an option whose weights fit."""
        return bool((self.memory <= 1.0).any(axis=1).all())

    @property
    def divisible(self) -> bool:
        """A worker may have a part of a GPU's SMs: else all weights of WEIGHTS come to the same."""
        return bool(self.shares.min() < 1)


@lru_cache(maxsize=512)
def tables(
    profile: Profile,
    spec: Spec,
    stages: tuple[Stage, ...],
    shares: tuple[float, ...],
    kinds: frozenset[Kind] = frozenset(),
) -> Tables:
    """Of all options, or of `kinds` where there are any. Raises NotMeasured where a stage has no option at all."""
    if kinds:
        found = tables(profile, spec, stages, shares)
        allowed = [
            [(stage.name, option.tensor_parallel, option.share) in kinds for option in found.options]
            for stage in stages
        ]
        return replace(found, memory=np.where(allowed, found.memory, np.inf))
    options = [Option(1, share) for share in shares] + [Option(gpus, 1.0) for gpus in spec.parallelisms() if gpus > 1]
    count, device = len(options), profile.device
    size = (len(stages), count)
    linear = np.zeros((*size, len(TOKENS)))
    prefill, group = np.zeros((*size, len(LENGTHS))), np.zeros((*size, len(GROUP_SIZES)))
    decode = np.zeros((*size, len(GROUP_SIZES), len(CONTEXT)))
    memory, bandwidth = np.full(size, np.inf), np.ones(size)
    refused: NotMeasured | None = None
    for row, stage in enumerate(stages):
        for column, option in enumerate(options):
            try:
                times = stage_times(profile, spec, stage, option.tensor_parallel, option.share)
            except NotMeasured as error:
                refused = error
                continue
            taken = stage.weight_bytes / option.tensor_parallel + CLIENT_BYTES
            memory[row, column] = taken / device.memory_bytes
            bandwidth[row, column] = times.bandwidth_share
            linear[row, column], prefill[row, column] = times.linear_s, times.prefill_s
            group[row, column] = np.interp(GROUP_SIZES, TOKENS, times.linear_s)
            for place in range(len(CONTEXT)):
                decode[row, column, :, place] = np.interp(GROUP_SIZES, SEQUENCES, times.decode_s[:, place])
        if not np.any(np.isfinite(memory[row])) and refused is not None:
            raise refused
    return Tables(
        stages=stages,
        options=tuple(options),
        gpus=np.array([option.tensor_parallel for option in options], np.float64),
        shares=np.array([option.share for option in options]),
        linear=linear,
        prefill=prefill,
        group=group,
        decode=decode,
        memory=memory,
        bandwidth=bandwidth,
        hop_s=profile.hop_s,
    )


def at_all(grid: Floats, points: Floats) -> Floats:
    """Weights with which values at a grid make those at `points`, a matrix; as curves.along."""
    low = np.clip(np.searchsorted(grid, points, "right") - 1, 0, len(grid) - 2)
    part = np.maximum(0.0, (points - grid[low]) / (grid[low + 1] - grid[low]))
    weights = np.zeros((len(grid), len(points)))
    columns = np.arange(len(points))
    weights[low, columns] = 1 - part
    weights[low + 1, columns] += part
    return weights


def at(values: Floats, grid: Floats, point: float) -> Floats:
    """Tables whose last axis is a grid, read at one point."""
    low = min(max(bisect_right(grid, point) - 1, 0), len(grid) - 2)
    part = max(0.0, (point - grid[low]) / (grid[low + 1] - grid[low]))
    return np.asarray(values[..., low] * (1 - part) + values[..., low + 1] * part, np.float64)


def at_context(table: Tables, context: float) -> Floats:
    """Seconds of a group's iteration by stage, option and group size, at a mean context."""
    return table.group + at(table.decode, CONTEXT, context)


def working_bytes(stage: Stage, spec: Spec, tokens: float) -> float:
    """What an iteration of so many tokens needs beside weights and cache: in and out of its widest operator, and the
    caches of the prompts in it where a stage computes those."""
    wide = max(spec.hidden, 2 * spec.inner, (spec.heads + 2 * spec.kv_heads) * spec.head_dim)
    held = stage.kv_bytes_per_token if stage.phases == ("prefill",) else 0.0
    return tokens * (2 * wide * BYTES + 2 * held)
