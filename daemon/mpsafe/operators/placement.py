# SPDX-License-Identifier: Apache-2.0
"""Which worker is on which GPU. What a plan keeps stays where it is; what is new goes where it fits best.

A worker with all SMs, and each shard of one that spans GPUs, has a GPU to itself; its shards are neighbours inside a
node of NODE_GPUS. A replica's number is its name: it keeps it for as long as it lives, so numbers may have gaps.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np

from mpsafe.operators.model import Device, Floats, Placed, PoolPlan
from mpsafe.operators.packing import Ints, pack, used

__all__ = ["NODE_GPUS", "Kind", "kind", "place", "size"]

Kind: TypeAlias = tuple[str, int, float]
NODE_GPUS: Final = 8
# GPUs that workers left in place may occupy beyond what packing anew needs, as a part: below it nothing is moved.
_TOLERATED: Final = 0.0


def kind(pool: PoolPlan) -> Kind:
    """What a worker cannot change while it lives."""
    return pool.stage, pool.tensor_parallel, pool.share


def size(pool: PoolPlan, bandwidth: float, device: Device) -> Floats:
    """What one shard of the pool's workers takes of a GPU, by axis."""
    return np.array([pool.share, pool.memory_bytes / device.memory_bytes, bandwidth, 1 / device.clients_max])


def place(
    pools: Sequence[PoolPlan], sizes: Floats, *, previous: Mapping[Kind, Sequence[Placed]] | None = None
) -> tuple[tuple[Placed, ...], int] | None:
    """Each shard's GPU and the number of GPUs in use; None where a worker is larger than a GPU. `sizes` by pool and
    axis; `previous`: where workers are now, by their kind."""
    numbers = np.array([pool.replicas * pool.tensor_parallel for pool in pools], np.int64)
    fresh = pack(sizes, numbers)
    if fresh is None:
        return None
    if previous:
        kept = _keep(pools, previous)
        held = _held(len(pools), kept)
        rest = pack(sizes, numbers - held.sum(axis=0), held=held)
        if rest is not None and used(rest) <= used(fresh) * (1 + _TOLERATED):
            return _named(pools, rest, kept), used(rest)
    wide = np.array([pool.tensor_parallel for pool in pools]) @ (fresh > 0).T
    return _named(pools, fresh[np.argsort(-wide, kind="stable")], {}), used(fresh)


def _keep(pools: Sequence[PoolPlan], previous: Mapping[Kind, Sequence[Placed]]) -> dict[int, list[Placed]]:
    """By pool, the workers that stay: where there are too many, those on the GPUs with the most workers."""
    there: defaultdict[int, int] = defaultdict(int)
    for placed in previous.values():
        for one in placed:
            there[one.gpu] += 1
    kept: dict[int, list[Placed]] = {}
    for index, pool in enumerate(pools):
        placed = list(previous.get(kind(pool), ()))
        if len(placed) > pool.replicas * pool.tensor_parallel:
            crowd: defaultdict[int, int] = defaultdict(int)
            for one in placed:
                crowd[one.replica] += there[one.gpu]
            stay = set(sorted(crowd, key=lambda replica: (-crowd[replica], replica))[: pool.replicas])
            placed = [one for one in placed if one.replica in stay]
        kept[index] = placed
    return kept


def _held(kinds: int, kept: Mapping[int, Sequence[Placed]]) -> Ints:
    gpus = 1 + max((one.gpu for placed in kept.values() for one in placed), default=-1)
    held = np.zeros((gpus, kinds), np.int64)
    for index, placed in kept.items():
        np.add.at(held[:, index], np.array([one.gpu for one in placed], np.int64), 1)
    return held


def _named(pools: Sequence[PoolPlan], gpus: Ints, kept: Mapping[int, Sequence[Placed]]) -> tuple[Placed, ...]:
    """The workers by name: those that stay, then new ones on what the packing has beyond them."""
    found: list[Placed] = []
    for index, pool in enumerate(pools):
        stay = kept.get(index, ())
        found += stay
        counts = gpus[:, index].copy()
        np.subtract.at(counts, np.array([one.gpu for one in stay], np.int64), 1)
        places = np.repeat(np.arange(len(gpus)), counts).tolist()
        taken = {one.replica for one in stay}
        names = (
            [name for name in range(pool.replicas + len(taken)) if name not in taken] if taken else range(len(places))
        )
        wide, stage = pool.tensor_parallel, pool.stage
        found += [Placed(stage, names[at // wide], at % wide, gpu) for at, gpu in enumerate(places)]
    return tuple(found)
