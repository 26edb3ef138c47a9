# SPDX-License-Identifier: Apache-2.0
"""Prompts pass the stages of a phase one after another: a tandem of pools, in batches of a few prompts."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from mpsafe.operators.model import Floats
from mpsafe.operators.planner.candidate import Candidate, Times
from mpsafe.operators.planner.load import Load
from mpsafe.operators.planner.points import FEW, WEIGHTS, Path, solve
from mpsafe.operators.planner.tables import Machine, Tables, at, working_bytes
from mpsafe.operators.queueing import BUSIEST, batch_fill_s
from mpsafe.operators.times import LENGTHS, TOKENS

__all__ = ["Batching", "batchings", "least", "units", "ways"]

_BATCHES: Final = (1, 2, 4, 8, 16)  # prompts in an iteration
_CHUNK: Final = 16384.0  # the most tokens of an iteration
_WORTH: Final = 0.97  # a larger batch has to bring the time for a prompt down to this part


@dataclass(frozen=True, slots=True, eq=False)
class _Services:
    """Seconds by stage and option: the linear part at any tokens, and the attention of a prompt."""

    table: Tables
    load: Load

    def linear(self, tokens: float) -> Floats:
        return at(self.table.linear, TOKENS, tokens)


@lru_cache(maxsize=64)
def _batches(table: Tables, load: Load) -> tuple[tuple[int, Floats], ...]:
    """Prompts in an iteration and its seconds, as long as more of them are worth it."""
    services, found = _Services(table, load), list[tuple[int, Floats]]()
    mean, fastest = table.prefill @ load.in_lengths.mean(axis=1), math.inf
    for batch in _BATCHES:
        tokens = batch * load.prompt
        if batch == 1:
            service = np.asarray(table.linear @ load.in_tokens.mean(axis=1) + mean)
        else:
            service = services.linear(tokens) + batch * mean
        each = float(np.where(table.memory <= 1, service, np.inf).min(axis=1).sum()) / batch
        if (tokens > _CHUNK and batch > 1) or each > fastest * _WORTH:
            break
        fastest = each
        found.append((batch, service))
    return tuple(found)


def least(table: Tables, load: Load) -> Floats:
    """By row of WEIGHTS, GPUs that no way goes below: what the work alone needs, in the best batches."""
    found = np.full(len(WEIGHTS), np.inf)
    for batch, service in _batches(table, load):
        needed = (_units(table) * service).min(axis=2).sum(axis=1) * (load.rate_per_s / batch / BUSIEST)
        found = np.minimum(found, needed)
    return found


def units(table: Tables, memory: Floats) -> Floats:
    """By row of WEIGHTS, stage and option: weighted GPUs of a worker; infinite where there is no such option."""
    unit = np.stack([np.broadcast_to(table.shares, memory.shape), np.minimum(memory, 2.0), table.bandwidth])
    return np.where(memory <= 1, np.tensordot(WEIGHTS, unit * table.gpus, axes=1), np.inf)


@lru_cache(maxsize=256)
def _units(table: Tables) -> Floats:
    return units(table, table.memory)


@dataclass(frozen=True, slots=True, eq=False)
class Batching:
    """A path for iterations of `batch` prompts and at most `tokens` of their tokens; `fill_s` until a batch is
    complete."""

    path: Path
    batch: int
    tokens: int
    fill_s: float


@lru_cache(maxsize=64)
def batchings(table: Tables, machine: Machine, load: Load) -> tuple[Batching, ...]:
    """The paths through a table's stages, for each batch that is worth it."""
    return tuple(_batchings(table, machine, load))


def _batchings(table: Tables, machine: Machine, load: Load) -> Iterator[Batching]:
    services = _Services(table, load)
    attended, long_attended = table.prefill @ load.in_lengths, at(table.prefill, LENGTHS, load.long)
    single = table.linear @ load.in_tokens + attended
    mean_attended, single_mean = attended.mean(axis=2), single.mean(axis=2)
    single_scv = (single.std(axis=2) / np.maximum(single_mean, 1e-12)) ** 2
    hops = np.array([stage.hops * table.hop_s for stage in table.stages])
    bytes_out = np.array([stage.out_bytes_per_token for stage in table.stages])
    for batch, service in _batches(table, load):
        tokens = batch * load.prompt
        longest = services.linear((batch - 1) * load.prompt + load.long) + long_attended + (batch - 1) * mean_attended
        budget = min(_CHUNK, max(512.0, math.ceil(tokens / 256) * 256))
        widest = max(budget, min(load.long, _CHUNK))
        work = np.array([working_bytes(stage, machine.spec, widest) for stage in table.stages])
        hand_over = hops + bytes_out * tokens / machine.link_bytes_per_s
        scv, arrival_scv = single_scv / batch, load.arrival_scv / batch
        path = Path(
            service=service,
            scv=scv,
            longer=np.maximum(0.0, longest - service),
            hand_over=np.repeat(hand_over[:, np.newaxis], len(table.options), axis=1),
            memory=table.memory + work[:, np.newaxis] / table.gpus / machine.memory_bytes,
            bandwidth=table.bandwidth,
            gpus=table.gpus,
            shares=table.shares,
            rate_per_s=load.rate_per_s / batch,
            first_scv=arrival_scv,
            later_scv=max(0.1, 0.5 * (arrival_scv + float(scv.mean()))),
        )
        yield Batching(path, batch, int(budget), batch_fill_s(float(batch), load.rate_per_s))


def ways(table: Tables, machine: Machine, load: Load, ttft_s: float) -> tuple[list[Candidate], Floats]:
    """Ways to prefill on the stages of a table, and by row of WEIGHTS a number of GPUs that none of them goes below."""
    bounds, found = least(table, load), list[Candidate]()
    weights = 1 if not table.divisible else FEW if len(table.stages) > 1 else len(WEIGHTS)
    solved_bounds, rows = np.full(weights, np.inf), np.arange(len(table.stages))
    for one in batchings(table, machine, load):
        path, fill = one.path, one.fill_s
        solved = solve(path, ttft_s - fill, np.zeros(weights))
        solved_bounds = np.minimum(solved_bounds, solved.bound)
        for index in np.unique(solved.volume.round(9), axis=0, return_index=True)[1]:
            option = solved.option[index]
            found.append(
                Candidate(
                    table=table,
                    option=option,
                    workers=solved.workers[index],
                    memory=path.memory[rows, option],
                    busy=path.rate_per_s * path.service[rows, option],
                    volume=solved.volume[index],
                    batch=one.batch,
                    tokens=one.tokens,
                    ttft=Times(float(solved.mean[index]) + fill, float(solved.late[index]) + fill),
                    tbt=None,
                    kept=bool(solved.kept[index]),
                    slow=int(np.argmax(solved.stage_mean[index])),
                )
            )
    bounds[:weights] = np.maximum(bounds[:weights], solved_bounds)
    return found, bounds
