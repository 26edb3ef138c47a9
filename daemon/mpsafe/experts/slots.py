# SPDX-License-Identifier: Apache-2.0
"""Room for experts on the device: slots in blocks, so that memory can be given back while serving.

An `Allocate` makes a block of so many bytes; MemoryError where the device has no more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from mpsafe.experts.host import Layout

__all__ = ["GRANULE_BYTES", "Allocate", "Block", "SlotPool", "of_torch"]

# What the driver gives at least (cuMemGetAllocationGranularity).
GRANULE_BYTES: Final = 2 << 20
GRANULES_MORE: Final = 32
WASTE: Final = 0.05


@dataclass(frozen=True, slots=True)
class Block:
    """Device memory as bytes, and how it is given back once nobody uses the tensor."""

    memory: Tensor
    close: Callable[[], None]


Allocate = Callable[[int], Block]


def of_torch(device: Any) -> Allocate:
    """Blocks from torch's own allocator."""
    where = torch.device(device)

    def allocate(nbytes: int) -> Block:
        give_back = torch.cuda.empty_cache if where.type == "cuda" else _nothing
        try:
            return Block(torch.empty((nbytes,), dtype=torch.uint8, device=where), give_back)
        except RuntimeError as error:
            raise MemoryError(str(error)) from error

    return allocate


class SlotPool:
    """`count` slots of one record each, numbered through; a block of them is given back as a whole.

    A block is so many times `granule_bytes` that at most a twentieth of it is in no slot, if 32 times are enough.
    """

    def __init__(self, layout: Layout, count: int, allocate: Allocate, *, granule_bytes: int = GRANULE_BYTES) -> None:
        least = -(-layout.nbytes // granule_bytes)
        sizes = [granule_bytes * many for many in range(least, least + GRANULES_MORE)]
        self.block_bytes = next((one for one in sizes if one % layout.nbytes <= WASTE * one), sizes[-1])
        self.per_block = self.block_bytes // layout.nbytes
        self.count = 0
        self._layout = layout
        self._allocate = allocate
        self._blocks: list[Block] = []
        self._tensors: dict[int, dict[str, Tensor]] = {}
        self.resize(count)

    @property
    def nbytes(self) -> int:
        """Of device memory that is held."""
        return len(self._blocks) * self.block_bytes

    def bytes_for(self, count: int) -> int:
        """Device memory that so many slots take, in whole blocks."""
        return -(-count // self.per_block) * self.block_bytes

    def slots_in(self, nbytes: int) -> int:
        """How many slots so much device memory has room for, in whole blocks."""
        return nbytes // self.block_bytes * self.per_block

    def resize(self, count: int) -> None:
        """Slots from `count` on are gone, their memory free where no block of others needs it.

        MemoryError where the device has no more; there are as many as before then.
        """
        wanted = -(-count // self.per_block)
        self._tensors.clear()
        more: list[Block] = []
        try:
            while len(self._blocks) + len(more) < wanted:
                more.append(self._allocate(self.block_bytes))
        except MemoryError:
            while more:
                more.pop().close()
            raise
        while len(self._blocks) > wanted:
            self._blocks.pop().close()
        self._blocks += more
        self.count = count

    def close(self) -> None:
        """Gives all back."""
        self.resize(0)

    def record(self, slot: int) -> Tensor:
        """The bytes of a slot, [bytes]."""
        start = slot % self.per_block * self._layout.nbytes
        return self._blocks[slot // self.per_block].memory[start : start + self._layout.nbytes]

    def tensors(self, slot: int) -> dict[str, Tensor]:
        """The tensors of the expert in a slot, by parameter name."""
        if (known := self._tensors.get(slot)) is None:
            record = self.record(slot)
            known = self._tensors[slot] = {part.name: part.of(record) for part in self._layout.parts}
        return known


def _nothing() -> None:
    """The tensor's own end frees it."""
