# SPDX-License-Identifier: Apache-2.0
"""Regions of the vault in this process's address space.

A region is made of a few exported allocations, mapped one behind the other. Where it lies is asked for by its
name, so that it lies at the same address in every process; where that is taken it lies elsewhere, and says so.
Nothing of ours stores an address.
"""

import contextlib
import fcntl
import os
import zlib
from collections.abc import Sequence
from typing import Final

from mpsafe import cuda
from mpsafe.client import Client
from mpsafe.errors import ContentsChanged
from mpsafe.model import Region as RegionInfo
from mpsafe.model import RegionKind
from mpsafe.protocol.vault import HANDLES_MAX
from mpsafe.vault.checksum import Checksum

__all__ = ["Region", "Vault"]

PIECE_BYTES: Final = 1 << 30
# Far from where libraries and the driver put things; each name has a place of its own of PLACE_BYTES there.
ARENA: Final = 0x6000_0000_0000
PLACE_BYTES: Final = 1 << 36
PLACES: Final = 256
SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class Region(cuda.Reservation):
    """A region, mapped; closing it unmaps it here and changes nothing for anybody else.

    `info` is what the daemon says of it, `layout` what its creator wrote about its contents. `writable`: whether this
    process mapped it so; a write to one that is not is a fault of the writer's. `relocated`: it lies elsewhere than
    in other processes.
    """

    def __init__(self, vault: "Vault", nbytes: int, name: str) -> None:
        hint = ARENA + zlib.crc32(f"{vault.tenant}/{name}".encode()) % PLACES * PLACE_BYTES
        super().__init__(vault.context, nbytes, hint=hint)
        self.vault = vault
        self.info: RegionInfo
        self.layout = b""
        self.writable = False
        self.relocated = self.address != hint
        self._offsets: list[int] = []

    def map_all(self, memories: Sequence[cuda.Memory], *, writable: bool) -> None:
        """Maps its allocations one behind the other."""
        offset = 0
        for memory in memories:
            self.map(memory, offset=offset)
            self._offsets.append(offset)
            offset += memory.nbytes
        self._allow(writable=writable)

    def commit(self) -> RegionInfo:
        """Ends the writing of an immutable region, also by this process: it is only read from here on.

        Where the daemon could not be asked, it may be done again.
        """
        if self.info.kind != "immutable":
            raise ValueError(f"region {self.info.name} is {self.info.kind}: what changes is committed by Durable")
        self.context.synchronize()
        self._allow(writable=False)
        self.info = self.vault.client.commit_region(self.info.id, self.vault.digest(self))
        return self.info

    def _allow(self, *, writable: bool) -> None:
        for offset in self._offsets:
            self.set_access("readwrite" if writable else "read", offset=offset)
        self.writable = writable


class Vault:
    """The vault as one tenant's process sees it. The process has attached for `tenant` by this client's socket.

    Closing it closes no region.
    """

    def __init__(self, client: Client, context: cuda.Context, tenant: str) -> None:
        self.client = client
        self.context = context
        self.tenant = tenant
        self.checksum = Checksum(context)

    def close(self) -> None:
        """Gives back what checks regions."""
        self.checksum.close()

    def claim(self) -> int:
        """Makes this process the one that writes the tenant's durable regions; returns the epoch. EpochHeld."""
        return self.client.claim(self.tenant)

    def regions(self) -> list[RegionInfo]:
        """The tenant's regions, oldest first."""
        return [region for region in self.client.vault().regions if region.tenant == self.tenant]

    def release(self, region: Region | RegionInfo) -> None:
        """The vault lets go of a region; where it is mapped it stays."""
        info = region.info if isinstance(region, Region) else region
        self.client.release_region(info.id)

    def create(self, name: str, kind: RegionKind, nbytes: int, *, layout: bytes = b"") -> Region:
        """New memory, at least `nbytes` of it, mapped for writing and held by the vault.

        Raises BadCudaCall 2 where the device has not that much left, and what Vault.Create refuses.
        """
        driver, device = self.context.driver, self.context.device
        sizes = _pieces(nbytes, cuda.granularity(driver, device))
        with contextlib.ExitStack() as passing, contextlib.ExitStack() as undo:
            region = undo.enter_context(Region(self, sum(sizes), name))
            memories = [passing.enter_context(cuda.Memory.create(driver, device, size)) for size in sizes]
            region.map_all(memories, writable=True)
            handles = [_closed_with(passing, memory.export()) for memory in memories]
            described = _closed_with(passing, _sealed(layout)) if layout else None
            region.info = self.client.create_region(self.tenant, name, kind, device.uuid, sizes, handles, described)
            region.layout = layout
            undo.pop_all()
            return region

    def open(self, name: str, *, tenant: str | None = None, write: bool = False, verify: bool = True) -> Region:
        """The newest region of that name, mapped; for writing only if it is durable and ours to write.

        `tenant`: another one's, which lets this one read. ContentsChanged if `verify` finds an immutable one damaged.
        """
        driver = self.context.driver
        opened = self.client.open_region(tenant=tenant or self.tenant, name=name, write=write)
        with opened, contextlib.ExitStack() as passing, contextlib.ExitStack() as undo:
            info = opened.region
            memories = [
                passing.enter_context(cuda.Memory.import_fd(driver, handle, size))
                for handle, size in zip(opened.handles, info.sizes, strict=True)
            ]
            region = undo.enter_context(Region(self, info.nbytes, name))
            region.map_all(memories, writable=write)
            region.info, region.layout = info, opened.read_layout()
            if verify and info.digest and (digest := self.digest(region)) != info.digest:
                raise ContentsChanged(info.id, info.digest, digest)
            undo.pop_all()
            return region

    def digest(self, region: Region) -> str:
        """Of all that is in a region now, as Commit takes it."""
        return f"sum64:{self.checksum.of(region):016x}"


def _pieces(nbytes: int, granule: int) -> list[int]:
    """Sizes of as few allocations as are not too large, multiples of the granule."""
    if nbytes <= 0:
        raise ValueError(f"a region has more than {nbytes} bytes")
    granules = -(-nbytes // granule)
    each = max(PIECE_BYTES // granule, -(-granules // HANDLES_MAX))
    return [min(each, granules - first) * granule for first in range(0, granules, each)]


def _closed_with(stack: contextlib.ExitStack, fd: int) -> int:
    stack.callback(os.close, fd)
    return fd


def _sealed(data: bytes) -> int:
    """A memfd of this, which nobody can change."""
    fd = os.memfd_create("mpsafe-layout", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.write(fd, data)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd
