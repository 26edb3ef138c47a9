# SPDX-License-Identifier: Apache-2.0
"""Who holds which device memory. No I/O.

A device is charged once for an allocation, however many processes hold it and however often, and
has the bytes back when the last of them has let go.
"""

from collections.abc import Sequence
from typing import Final

from mpsafe.soft.parts import CudaError

__all__ = ["Ledger"]

INVALID_VALUE: Final = 1
OUT_OF_MEMORY: Final = 2


class Ledger:
    """The holds of all processes, by their numbers. `totals` are the devices' sizes in bytes."""

    def __init__(self, totals: Sequence[int]) -> None:
        self._free = list(totals)
        self._totals = tuple(totals)
        self._sizes: dict[tuple[int, int], int] = {}
        self._holds: dict[tuple[int, int], dict[int, int]] = {}

    def hold(self, holder: int, device: int, allocation: int, size_bytes: int) -> None:
        """One more hold. CUDA_ERROR_OUT_OF_MEMORY if it is the first and the device has not enough."""
        key = (device, allocation)
        if key not in self._sizes:
            if not 0 < size_bytes <= self._free[device]:
                raise CudaError(OUT_OF_MEMORY)
            self._free[device] -= size_bytes
            self._sizes[key] = size_bytes
            self._holds[key] = {}
        holds = self._holds[key]
        holds[holder] = holds.get(holder, 0) + 1

    def let_go(self, holder: int, device: int, allocation: int) -> None:
        """One hold less. CUDA_ERROR_INVALID_VALUE if there is none."""
        key = (device, allocation)
        holds = self._holds.get(key, {})
        if holder not in holds:
            raise CudaError(INVALID_VALUE)
        holds[holder] -= 1
        if not holds[holder]:
            self._drop(holder, key)

    def leave(self, holder: int) -> None:
        """A process is gone, and with it all that it held."""
        for key in [key for key, holds in self._holds.items() if holder in holds]:
            self._drop(holder, key)

    def used_bytes(self, device: int) -> int:
        """What all processes together hold on a device."""
        return self._totals[device] - self._free[device]

    def held_bytes(self, holder: int, device: int) -> int:
        """What one process holds on a device, shared allocations in full."""
        return sum(self._sizes[key] for key, holds in self._holds.items() if key[0] == device and holder in holds)

    def _drop(self, holder: int, key: tuple[int, int]) -> None:
        del self._holds[key][holder]
        if not self._holds[key]:
            del self._holds[key]
            self._free[key[0]] += self._sizes.pop(key)
