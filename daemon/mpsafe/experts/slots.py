# SPDX-License-Identifier: Apache-2.0
"""Room for experts on the device: slots in blocks, so that memory can be given back while serving."""

from typing import Any, Final

import torch
from torch import Tensor

from mpsafe.experts.host import Layout

__all__ = ["BLOCK_SLOTS", "SlotPool"]

BLOCK_SLOTS: Final = 8


class SlotPool:
    """`count` slots of one record each on a device. Slots are numbered through; a block is given back as a whole."""

    def __init__(self, layout: Layout, count: int, *, device: Any) -> None:
        self._layout = layout
        self._device = torch.device(device)
        self._blocks: list[Tensor] = []
        self.count = 0
        self.resize(count)

    @property
    def nbytes(self) -> int:
        """Of device memory that is held."""
        return sum(block.numel() for block in self._blocks)

    def resize(self, count: int) -> None:
        """Slots from `count` on are gone, their memory free where no block of others needs it."""
        blocks = -(-count // BLOCK_SLOTS)
        del self._blocks[blocks:]
        while len(self._blocks) < blocks:
            self._blocks.append(torch.empty((BLOCK_SLOTS, self._layout.nbytes), dtype=torch.uint8, device=self._device))
        self.count = count
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def record(self, slot: int) -> Tensor:
        """The bytes of a slot, [bytes]."""
        return self._blocks[slot // BLOCK_SLOTS][slot % BLOCK_SLOTS]

    def tensors(self, slot: int) -> dict[str, Tensor]:
        """The tensors of the expert in a slot, by parameter name."""
        record = self.record(slot)
        return {part.name: part.of(record) for part in self._layout.parts}
