# SPDX-License-Identifier: Apache-2.0
"""How many GPUs equal workers of a few kinds need: best fit, decreasing, by what kinds of GPUs there are.

GPUs that hold the same are one class, so the time grows with the kinds of workers and not with their number. An axis is
a thing that a GPU has once: SMs, memory, memory bus, clients. The memory bus stands for interference: workers whose
kernels together ask for more than it has would slow each other down, so they are not put together.
"""

from typing import Final

import numpy as np
from numba import njit

from mpsafe.operators.model import Floats

__all__ = ["AXES", "Ints", "fill", "needed", "pack", "used"]

Ints = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
AXES: Final = 4
_ORDERS = 5
_CLASSES = 256  # more are never met: each kind adds a few


@njit(cache=True)
def _fit(free: Floats, size: Floats) -> int:
    """How many workers of that size a GPU has room for."""
    most = 1 << 30
    for axis in range(len(size)):
        if size[axis] > 0.0:
            most = min(most, int((free[axis] + 1e-9) / size[axis]))
    return most


@njit(cache=True)
def _first_fit(sizes: Floats, numbers: Ints, order: Ints, holds: Ints, free: Floats, alike: Ints, classes: int) -> int:
    """Puts all workers somewhere, in place; the number of classes. `alike`: how many GPUs are of each class."""
    kinds = len(numbers)
    for place in range(len(order)):
        kind = order[place]
        left = numbers[kind]
        while left > 0:
            best, least, most = -1, np.inf, 0
            for c in range(classes):
                if alike[c] == 0:
                    continue
                many = min(_fit(free[c], sizes[kind]), left)
                if many <= 0:
                    continue
                room = 0.0
                for axis in range(AXES):
                    room += (free[c, axis] - many * sizes[kind, axis]) ** 2
                near = (kind > 0 and holds[c, kind - 1] > 0) or (kind + 1 < kinds and holds[c, kind + 1] > 0)
                room -= 1e-6 if near else 0.0  # a tie: where the stage before or after it is
                if room < least:
                    best, least, most = c, room, many
            if classes + 2 > len(alike):
                return -1
            if best < 0:
                many = min(_fit(np.ones(AXES), sizes[kind]), left)
                if many <= 0:
                    return -1
                gpus = left // many
                holds[classes, :] = 0
                holds[classes, kind] = many
                free[classes, :] = 1.0 - many * sizes[kind]
                alike[classes] = gpus
                classes += 1
            else:
                many = most
                gpus = min(alike[best], left // many)
                after = best
                if gpus < alike[best]:  # only some of the class: they are a class of their own now
                    after = classes
                    classes += 1
                    alike[best] -= gpus
                    alike[after] = gpus
                    holds[after, :] = holds[best, :]
                    free[after, :] = free[best, :]
                holds[after, kind] += many
                free[after, :] -= many * sizes[kind]
            left -= gpus * many
    return classes


@njit(cache=True)
def _orders(sizes: Floats) -> Ints:
    """The kinds by what they take, most first: of SMs, memory, the bus, the largest of them, and all together."""
    kinds = len(sizes)
    orders, keys = np.zeros((_ORDERS, kinds), np.int64), np.zeros((_ORDERS, kinds))
    for kind in range(kinds):
        keys[0, kind], keys[1, kind], keys[2, kind] = -sizes[kind, 0], -sizes[kind, 1], -sizes[kind, 2]
        keys[3, kind], keys[4, kind] = -sizes[kind].max(), -sizes[kind].sum()
    for which in range(_ORDERS):
        orders[which] = np.argsort(keys[which], kind="mergesort")
    return orders


@njit(cache=True)
def _best_fit(
    sizes: Floats, numbers: Ints, orders: Ints, before: Ints, free_before: Floats
) -> tuple[Ints, Ints, int, int]:
    """Of the orders that with the fewest GPUs: what classes hold, how many are of each, classes and GPUs; -1: no room."""
    kinds = len(numbers)
    rows = len(before) + min(_CLASSES, 8 + 6 * kinds)
    best_holds, best_alike = np.zeros((rows, kinds), np.int64), np.zeros(rows, np.int64)
    best_classes, best = -1, -1
    for which in range(len(orders)):
        holds, free, alike = np.zeros((rows, kinds), np.int64), np.ones((rows, AXES)), np.zeros(rows, np.int64)
        holds[: len(before)], alike[: len(before)], free[: len(before)] = before, 1, free_before
        classes = _first_fit(sizes, numbers, orders[which], holds, free, alike, len(before))
        if classes < 0:
            continue
        gpus = 0
        for c in range(classes):
            if holds[c].sum() > 0:
                gpus += alike[c]
        if best < 0 or gpus < best:
            best_holds, best_alike, best_classes, best = holds, alike, classes, gpus
    return best_holds, best_alike, best_classes, best


@njit(cache=True)
def fill(sizes: Floats, numbers: Ints) -> int:
    """GPUs that `pack` fills, from nothing; a huge number where a worker is larger than a GPU."""
    nothing, free = np.zeros((0, len(numbers)), np.int64), np.zeros((0, AXES))
    gpus = _best_fit(sizes, numbers, _orders(sizes), nothing, free)[3]
    return 1 << 30 if gpus < 0 else gpus


def needed(sizes: Floats, numbers: Ints) -> int | None:
    """GPUs that `pack` fills; None where a worker is larger than a GPU."""
    gpus = fill(sizes, numbers)
    return None if gpus >= 1 << 30 else gpus


def pack(sizes: Floats, numbers: Ints, *, held: Ints | None = None) -> Ints | None:
    """By GPU and kind, how many of its workers are there; None where a worker is larger than a GPU. `sizes` by kind and
    axis, in GPUs; `held`: by GPU and kind what is there already, which stays, and its GPUs come first."""
    before = np.zeros((0, len(numbers)), np.int64) if held is None else held
    orders = _orders(sizes) if held is None else _orders(sizes)[3:4]
    holds, alike, classes, gpus = _best_fit(sizes, numbers, orders, before, 1.0 - before @ sizes)
    return None if gpus < 0 else np.repeat(holds[:classes], alike[:classes], axis=0)


def used(gpus: Ints) -> int:
    """GPUs that hold a worker."""
    return int(gpus.any(axis=1).sum())
