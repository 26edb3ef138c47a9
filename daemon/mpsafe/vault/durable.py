# SPDX-License-Identifier: Apache-2.0
"""Durable memory: what changes is published in the region itself, by generations, without a call.

A durable region begins with two slots of SLOT_BYTES, A and B; what comes behind them is the data, which the owner
writes as it likes. A slot holds a generation:

    magic "MPSAFEGN", u32 version, u32 payload bytes, u64 epoch, u64 generation, u32 CRC-32, u32 zero; payload

little-endian; the CRC-32 is that of the header with zero in its place, and the payload. A generation is written into
the slot of the one before the last, once all that it tells of is in memory. What counts is the valid slot with the
greatest (epoch, generation): a slot that was being written when its writer died fails its CRC, and the other one
counts. So whatever the newest generation tells of must not be overwritten before the next one is published.
"""

import contextlib
import struct
import zlib
from dataclasses import dataclass
from typing import Final, Self

from mpsafe import cuda
from mpsafe.vault.region import Region, Vault

__all__ = ["PAYLOAD_MAX", "SLOT_BYTES", "Durable", "Generation"]

MAGIC: Final = b"MPSAFEGN"
VERSION: Final = 1
HEADER: Final = struct.Struct("<8sIIQQII")
SLOT_BYTES: Final = 64 << 10
SLOTS: Final = 2
PAYLOAD_MAX: Final = SLOT_BYTES - HEADER.size


@dataclass(frozen=True, slots=True, order=True)
class Generation:
    """One published state: whose epoch, the how manieth of it, and what the owner said of the data."""

    epoch: int
    number: int
    payload: bytes


class Durable:
    """A durable region and its generations; closed with its region."""

    def __init__(self, region: Region, epoch: int) -> None:
        self.region = region
        self.data = cuda.Span(region.context, region.address + SLOTS * SLOT_BYTES, region.nbytes - SLOTS * SLOT_BYTES)
        self._epoch = epoch
        self._newest = self.committed()

    @classmethod
    def create(cls, vault: Vault, name: str, nbytes: int, *, layout: bytes = b"") -> Self:
        """A new one with room for `nbytes` of data; this process holds the tenant's epoch."""
        with contextlib.ExitStack() as undo:
            region = undo.enter_context(vault.create(name, "durable", SLOTS * SLOT_BYTES + nbytes, layout=layout))
            # New memory is whatever was there before.
            region.write(bytes(SLOTS * SLOT_BYTES))
            made = cls(region, region.info.epoch)
            undo.pop_all()
            return made

    @classmethod
    def open(cls, vault: Vault, name: str, *, write: bool = False) -> Self:
        """The newest of that name. To write, this process holds the epoch, and the region is granted. NotGranted."""
        with contextlib.ExitStack() as undo:
            region = undo.enter_context(vault.open(name, write=write))
            opened = cls(region, region.info.epoch)
            undo.pop_all()
            return opened

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmaps the region."""
        self.region.close()

    def committed(self) -> Generation | None:
        """What counts now; None: nothing was ever published, or nothing of it is whole."""
        found = [_decoded(self.region.read(SLOT_BYTES, offset=slot * SLOT_BYTES)) for slot in range(SLOTS)]
        return max((one for one in found if one is not None), default=None)

    def commit(self, payload: bytes, stream: cuda.Stream | None = None) -> Generation:
        """Publishes the next generation, when all that was put into the stream has ended (None: into any).

        Raises BadCudaCall if something of that failed: nothing is published then.
        """
        if not self.region.writable:
            raise ValueError(f"region {self.region.info.name} was opened for reading: open it with write=True")
        if len(payload) > PAYLOAD_MAX:
            raise ValueError(f"a generation's payload has at most {PAYLOAD_MAX} bytes, this one {len(payload)}")
        if stream is None:
            self.region.context.synchronize()
        else:
            stream.synchronize()
        number = self._newest.number + 1 if self._newest is not None else 1
        generation = Generation(self._epoch, number, payload)
        self.region.write(_encoded(generation), offset=number % SLOTS * SLOT_BYTES)
        self._newest = generation
        return generation


def _encoded(generation: Generation) -> bytes:
    head = (MAGIC, VERSION, len(generation.payload), generation.epoch, generation.number)
    crc = zlib.crc32(generation.payload, zlib.crc32(HEADER.pack(*head, 0, 0)))
    return HEADER.pack(*head, crc, 0) + generation.payload


def _decoded(slot: bytes) -> Generation | None:
    magic, version, size, epoch, number, _, _ = HEADER.unpack_from(slot)
    if (magic, version) != (MAGIC, VERSION) or size > PAYLOAD_MAX:
        return None
    generation = Generation(epoch, number, slot[HEADER.size : HEADER.size + size])
    return generation if slot.startswith(_encoded(generation)) else None
