# SPDX-License-Identifier: Apache-2.0
"""All experts of a model in host memory: one sealed memfd for each layer, mapped for reading.

An expert is one record, all its tensors one behind the other, so that it moves in one copy. A memfd that is sealed can
be mapped by other processes of the same model and changed by nobody: N processes, one copy. Its name is its content's
SHA-256.
"""

import fcntl
import hashlib
import math
import mmap
import os
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import torch
from torch import Tensor, dtype

from mpsafe.errors import ShardDamaged
from mpsafe.experts.layers import MoeLayer

__all__ = ["SEALS", "HostExperts", "Part", "Shard", "layout_of", "pack"]

ALIGNMENT: Final = 64
SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor of an expert's record. `shape`: without the axis of experts; `start` and `nbytes` in bytes."""

    name: str
    shape: tuple[int, ...]
    dtype: dtype
    start: int
    nbytes: int

    def of(self, record: Tensor) -> Tensor:
        """The tensor, in a record [bytes]."""
        return record[self.start : self.start + self.nbytes].view(self.dtype).view(self.shape)


@dataclass(frozen=True, slots=True)
class Layout:
    """How an expert's tensors lie in its record of `nbytes`."""

    parts: tuple[Part, ...]
    nbytes: int


def layout_of(layer: MoeLayer) -> Layout:
    """Tensors in the module's own order, each aligned to 64 bytes."""
    parts: list[Part] = []
    end = 0
    for name in layer.tensors:
        tensor = layer.experts.get_parameter(name)
        shape = tuple(tensor.shape[1:])
        size = math.prod(shape) * tensor.element_size()
        parts.append(Part(name, shape, tensor.dtype, end, size))
        end += -(-size // ALIGNMENT) * ALIGNMENT
    return Layout(tuple(parts), end)


@dataclass(frozen=True, slots=True)
class Shard:
    """A layer's experts: a sealed memfd of `nbytes`, and the hash of what is in it; "" where nobody is to check it."""

    fd: int
    nbytes: int
    sha256: str


def pack(layer: MoeLayer, layout: Layout, *, hashed: bool = True) -> Shard:
    """A layer's experts, record by record, in a new sealed memfd that the caller owns. To hash it takes a while."""
    nbytes = layout.nbytes * layer.count
    fd = os.memfd_create(f"mpsafe-experts-{layer.name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, nbytes)
        with mmap.mmap(fd, nbytes) as memory:
            whole = torch.frombuffer(memory, dtype=torch.uint8)
            for part in layout.parts:
                tensor = layer.experts.get_parameter(part.name).detach().cpu()
                for number in range(layer.count):
                    part.of(whole[number * layout.nbytes :][: layout.nbytes]).copy_(tensor[number])
            digest = hashlib.sha256(memory).hexdigest() if hashed else ""
            del whole
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(fd)
        raise
    return Shard(fd, nbytes, digest)


class HostExperts:
    """The shards of all layers, mapped for reading. It owns their descriptors."""

    def __init__(self, shards: list[Shard], layout: Layout, *, count: int) -> None:
        self.layout = layout
        self.shards = shards
        self._count = count
        self._maps: list[mmap.mmap] = []
        self._records: list[tuple[Tensor, ...]] = []
        for shard in shards:
            memory = mmap.mmap(shard.fd, shard.nbytes, mmap.MAP_SHARED, mmap.PROT_READ)
            self._maps.append(memory)
            self._records.append(_readable(memory).view(count, layout.nbytes).unbind(0))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def nbytes(self) -> int:
        """Of all experts."""
        return sum(shard.nbytes for shard in self.shards)

    def record(self, layer: int, expert: int) -> Tensor:
        """An expert's record, [bytes], in host memory. Nobody may write to it."""
        return self._records[layer][expert]

    def maps(self) -> list[tuple[int, int]]:
        """Address and bytes of each shard's map, for who registers it with a driver."""
        return [
            (records[0].data_ptr(), shard.nbytes) for records, shard in zip(self._records, self.shards, strict=True)
        ]

    def check(self) -> None:
        """ShardDamaged where a layer's content is not what its hash says."""
        for layer, (shard, memory) in enumerate(zip(self.shards, self._maps, strict=True)):
            got = hashlib.sha256(memory).hexdigest()
            if got != shard.sha256:
                raise ShardDamaged(layer, shard.sha256, got)

    def close(self) -> None:
        """Unmaps all; tensors of records must be gone."""
        self._records.clear()
        for memory in self._maps:
            memory.close()
        self._maps.clear()
        for shard in self.shards:
            os.close(shard.fd)
        self.shards = []


def _readable(memory: mmap.mmap) -> Tensor:
    """The map as bytes. torch warns of buffers that cannot be written to; nobody here does."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.frombuffer(memory, dtype=torch.uint8)
