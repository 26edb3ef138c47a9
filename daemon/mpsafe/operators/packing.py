# SPDX-License-Identifier: Apache-2.0
"""How many GPUs equal workers of a few kinds need: best fit, decreasing, by what kinds of GPUs there are.

GPUs that hold the same are one class, so the time grows with the kinds of workers and not with their number. An axis is
a thing that a GPU has once: SMs, memory, memory bus, clients. The memory bus stands for interference: workers whose
kernels together ask for more than it has would slow each other down, so they are not put together.
"""

import math
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from numba import njit

from mpsafe.operators.model import Floats

__all__ = ["AXES", "Ints", "fill", "needed", "pack", "used"]

Ints: TypeAlias = npt.NDArray[np.int64]
AXES: Final = 4
_ORDERS = 5
_CLASSES = 12  # for each kind: more are not met, it divides what it is put on


@njit(cache=True)
def ascending(keys: Floats, order: Ints) -> None:
    """Makes `order` the places of the keys, the least first; equal ones stay. Few keys: an insertion sort. (NumPy's own
    sorts are compiled in seconds, which each start of a fresh installation would pay for.)"""
    for place in range(len(keys)):
        at = place
        while at > 0 and keys[order[at - 1]] > keys[place]:
            order[at] = order[at - 1]
            at -= 1
        order[at] = place


@njit(cache=True)
def _fit(free: Floats, sizes: Floats, gpu: int, kind: int) -> int:
    """How many workers of a kind a GPU has room for."""
    most = 1 << 30
    for axis in range(AXES):
        if sizes[kind, axis] > 0.0:
            most = min(most, int((free[gpu, axis] + 1e-9) / sizes[kind, axis]))
    return most


@njit(cache=True)
def _best_class(
    sizes: Floats, holds: Ints, free: Floats, alike: Ints, classes: int, kind: int, left: int
) -> tuple[int, int]:
    """Where up to `left` workers of a kind leave the least room, and how many go there; -1: nowhere."""
    kinds = len(sizes)
    best, least, most = -1, np.inf, 0
    for c in range(classes):
        many = min(_fit(free, sizes, c, kind), left)
        if alike[c] == 0 or many <= 0:
            continue
        room = 0.0
        for axis in range(AXES):
            room += (free[c, axis] - many * sizes[kind, axis]) ** 2
        if (kind > 0 and holds[c, kind - 1] > 0) or (kind + 1 < kinds and holds[c, kind + 1] > 0):
            room -= 1e-6  # a tie: where the stage before or after it is
        if room < least:
            best, least, most = c, room, many
    return best, most


@njit(cache=True)
def _first_fit(sizes: Floats, numbers: Ints, order: Ints, holds: Ints, free: Floats, alike: Ints, classes: int) -> int:
    """Puts all workers somewhere, in place; the number of classes, or -1. `alike`: how many GPUs are of each class;
    rows beyond `classes` are empty and free."""
    kinds, fresh = len(numbers), len(alike) - 1  # the last row stays an empty GPU
    for place in range(kinds):
        kind = order[place]
        left = int(numbers[kind])
        while left > 0:
            best, many = _best_class(sizes, holds, free, alike, classes, kind, left)
            new = best < 0
            if new:
                best, many = fresh, min(_fit(free, sizes, fresh, kind), left)
            if many <= 0 or classes >= fresh:
                return -1
            gpus = left // many
            after = best
            if new or gpus < alike[best]:  # only some of the class: they are a class of their own now
                if not new:
                    alike[best] -= gpus
                after = classes
                classes += 1
                alike[after] = gpus
                for other in range(kinds):
                    holds[after, other] = holds[best, other]
                for axis in range(AXES):
                    free[after, axis] = free[best, axis]
            else:
                gpus = alike[best]
            holds[after, kind] += many
            for axis in range(AXES):
                free[after, axis] -= many * sizes[kind, axis]
            left -= gpus * many
    return classes


@njit(cache=True)
def _best_fit(sizes: Floats, numbers: Ints, before: Ints, orders: int, enough: int) -> tuple[Ints, Ints, int, int]:
    """Of the orders (by SMs, memory, bus, all together, the largest of them) that with the fewest GPUs: what classes
    hold, how many GPUs are of each, classes and GPUs; -1: no room. The first with no more than `enough` will do."""
    kinds = len(numbers)
    rows = len(before) + _CLASSES + _CLASSES * kinds
    best_holds, best_alike = np.zeros((rows, kinds), np.int64), np.zeros(rows, np.int64)
    best_classes, best = -1, -1
    keys, order = np.zeros(kinds), np.zeros(kinds, np.int64)
    for which in range(_ORDERS - orders, _ORDERS):
        for kind in range(kinds):
            one, two, three = sizes[kind, 0], sizes[kind, 1], sizes[kind, 2]
            key = (one, two, three, one + two + three, max(one, two, three))[which]
            keys[kind] = -key
        ascending(keys, order)
        holds, free, alike = np.zeros((rows, kinds), np.int64), np.ones((rows, AXES)), np.zeros(rows, np.int64)
        for gpu in range(len(before)):
            alike[gpu] = 1
            for kind in range(kinds):
                holds[gpu, kind] = before[gpu, kind]
                for axis in range(AXES):
                    free[gpu, axis] -= before[gpu, kind] * sizes[kind, axis]
        classes = _first_fit(sizes, numbers, order, holds, free, alike, len(before))
        if classes < 0:
            continue
        gpus = 0
        for c in range(classes):
            for kind in range(kinds):
                if holds[c, kind] > 0:
                    gpus += alike[c]
                    break
        if best < 0 or gpus < best:
            best_holds, best_alike, best_classes, best = holds, alike, classes, gpus
            if best <= enough:
                break
    return best_holds, best_alike, best_classes, best


@njit(cache=True)
def fill(sizes: Floats, numbers: Ints, enough: int) -> int:
    """GPUs that `pack` fills, from nothing; a huge number where a worker is larger than a GPU. Fewer than `enough` are
    not looked for."""
    gpus = _best_fit(sizes, numbers, np.zeros((0, len(numbers)), np.int64), _ORDERS, enough)[3]
    return 1 << 30 if gpus < 0 else gpus


def needed(sizes: Floats, numbers: Ints) -> int | None:
    """GPUs that `pack` fills; None where a worker is larger than a GPU."""
    gpus = fill(sizes, numbers, math.ceil(float((numbers @ sizes).max()) - 1e-6))
    return None if gpus >= 1 << 30 else gpus


def pack(sizes: Floats, numbers: Ints, *, held: Ints | None = None) -> Ints | None:
    """By GPU and kind, how many of its workers are there; None where a worker is larger than a GPU. `sizes` by kind and
    axis, in GPUs; `held`: by GPU and kind what is there already, which stays, and its GPUs come first."""
    before = np.zeros((0, len(numbers)), np.int64) if held is None else held
    holds, alike, classes, gpus = _best_fit(sizes, numbers, before, _ORDERS if held is None else 1, 0)
    return None if gpus < 0 else np.repeat(holds[:classes], alike[:classes], axis=0)


def used(gpus: Ints) -> int:
    """GPUs that hold a worker."""
    return int(gpus.any(axis=1).sum())
