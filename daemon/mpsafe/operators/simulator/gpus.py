# SPDX-License-Identifier: Apache-2.0
"""What is on which GPU, and for how long each one was on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from mpsafe.operators.model import Device, Floats

__all__ = ["Gpus", "Need", "on_s"]

_ROUNDING: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Need:
    """Of a worker on each of its GPUs: shares of the SMs and of the memory bus, bytes."""

    share: float
    bandwidth: float
    memory_bytes: float


class Gpus:
    """Best fit, as workers come and go: the fullest GPU that has room; one that is off only where none has."""

    def __init__(self, device: Device, most: int) -> None:
        self._room = np.array([1.0, 1.0, device.memory_bytes, device.clients_max])
        self._used = np.zeros((most, 4))

    def free_bytes(self, gpu: int) -> float:
        """Of its memory."""
        return float(self._room[2] - self._used[gpu, 2])

    @property
    def on(self) -> int:
        """How many have a worker."""
        return int((self._used[:, 3] > 0).sum())

    def share(self, gpu: int) -> float:
        """Of its SMs, how much is promised."""
        return float(self._used[gpu, 0])

    def place(self, need: Need, gpus: int, *, without: int = -1) -> tuple[int, ...]:
        """Where a worker goes that spans so many GPUs, not on `without`; empty: nowhere."""
        wanted = np.array([need.share, need.bandwidth, need.memory_bytes, 1.0])
        fits = np.all(self._used + wanted <= self._room * (1 + _ROUNDING), axis=1)
        if without >= 0:
            fits &= (self._used[:, 3] > 0) & (np.arange(len(self._used)) != without)
        found = np.flatnonzero(fits)
        if len(found) < gpus:
            return ()
        fullest = np.argsort(-self._used[found, 0], kind="stable")[:gpus]
        return tuple(int(gpu) for gpu in found[fullest])

    def take(self, gpus: Iterable[int], need: Need) -> None:
        for gpu in gpus:
            self._used[gpu] += (need.share, need.bandwidth, need.memory_bytes, 1.0)

    def give(self, gpus: Iterable[int], need: Need) -> None:
        for gpu in gpus:
            self._used[gpu] -= (need.share, need.bandwidth, need.memory_bytes, 1.0)
            if self._used[gpu, 3] < 0.5:
                self._used[gpu] = 0.0

    def emptiest(self) -> int:
        """Of those that are on, the one with the least of its SMs promised."""
        shares = np.where(self._used[:, 3] > 0, self._used[:, 0], np.inf)
        return int(shares.argmin())


def on_s(lives: Sequence[tuple[int, float, float]], until_s: float) -> Floats:
    """For how long each GPU had a worker, from (GPU, begin, end) of each worker."""
    found = np.zeros(1 + max((gpu for gpu, _, _ in lives), default=0))
    reached = np.zeros_like(found)
    for gpu, begin, end in sorted(lives, key=lambda life: life[1]):
        since, until = max(begin, reached[gpu]), min(end, until_s)
        if until > since:
            found[gpu] += until - since
            reached[gpu] = until
    return found
