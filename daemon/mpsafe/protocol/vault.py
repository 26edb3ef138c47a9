# SPDX-License-Identifier: Apache-2.0
"""io.mpsafe.Vault: GPU memory that no client owns.

A client makes memory (cuMemCreate), exports it and gives the descriptors away; the daemon holds them and
never maps them. A descriptor that is given out is full power over its memory: who asked for reading and
writes breaks its own tenant only. A region has at most HANDLES_MAX handles; with its layout that is as many
descriptors as one message carries.
"""

from dataclasses import dataclass
from typing import Final, Protocol, TypedDict

from asyncvarlink import FileDescriptor, VarlinkInterface, varlinkmethod

from mpsafe.errors import (
    BadHandle,
    BadRequest,
    EpochHeld,
    NotGranted,
    NotPermitted,
    QuotaExceeded,
    UnknownRegion,
    UnknownTenant,
    VaultClosed,
)
from mpsafe.model import Region, RegionKind
from mpsafe.protocol.replies import declared

__all__ = ["HANDLES_MAX", "LAYOUT_BYTES_MAX", "NAME", "Collected", "Opened", "Vault", "VaultInterface", "VaultState"]

NAME: Final = "io.mpsafe.Vault"
HANDLES_MAX: Final = 63
LAYOUT_BYTES_MAX: Final = 64 << 20


class Opened(TypedDict):
    """A region, its handles in order, and its layout (a sealed memfd) where it has one."""

    region: Region
    handles: list[FileDescriptor]
    layout: FileDescriptor | None


@dataclass(frozen=True, slots=True)
class Collected:
    """A region that nobody can use any more, and why."""

    region: Region
    why: str


@dataclass(frozen=True, slots=True)
class VaultState:
    """`holder`: what holds the descriptors: systemd, keeper or nothing. `closed`: empty, or why nothing is taken in."""

    regions: list[Region]
    holder: str
    closed: str


class Vault(Protocol):
    """What the daemon implements."""

    async def create(
        self,
        tenant: str,
        name: str,
        kind: RegionKind,
        device: str,
        sizes: list[int],
        handles: list[FileDescriptor],
        layout: FileDescriptor | None,
    ) -> Region: ...
    def commit(self, region: int, digest: str) -> Region: ...
    def open(self, region: int | None, tenant: str | None, name: str | None, *, write: bool) -> Opened: ...
    def overview(self) -> VaultState: ...
    def release(self, region: int) -> None: ...
    def claim(self, tenant: str) -> int: ...
    def collect(self, *, dry_run: bool) -> list[Collected]: ...
    def drain(self) -> int: ...


class VaultInterface(VarlinkInterface, name=NAME):
    """GPU memory that no client owns."""

    errors = declared(
        NAME,
        NotPermitted,
        UnknownTenant,
        UnknownRegion,
        QuotaExceeded,
        BadHandle,
        EpochHeld,
        NotGranted,
        VaultClosed,
        BadRequest,
    )

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    @varlinkmethod(return_parameter="region")
    async def Create(
        self,
        *,
        tenant: str,
        name: str,
        kind: RegionKind,
        device: str,
        sizes: list[int],
        handles: list[FileDescriptor],
        layout: FileDescriptor | None = None,
    ) -> Region:
        """Holds memory on the device of that UUID; `sizes` are the bytes of each handle.

        Wants a process of the tenant's, for durable memory the one that holds its epoch. `layout` is a memfd,
        sealed against any change, of at most LAYOUT_BYTES_MAX bytes, which only clients read.
        """
        return await self._vault.create(tenant, name, kind, device, sizes, handles, layout)

    @varlinkmethod(return_parameter="region")
    def Commit(self, *, region: int, digest: str) -> Region:
        """Ends the writing of an immutable region, by its creator, which has unmapped what it wrote by."""
        return self._vault.commit(region, digest)

    @varlinkmethod
    def Open(
        self,
        *,
        region: int | None = None,
        tenant: str | None = None,
        name: str | None = None,
        write: bool | None = None,
    ) -> Opened:
        """The handles of a region, by its id or as the newest of its tenant with that name.

        An immutable region has to be committed. With `write` a durable one of the epoch that the peer holds.
        """
        return self._vault.open(region, tenant, name, write=bool(write))

    @varlinkmethod(return_parameter="vault")
    def List(self) -> VaultState:
        """The regions that the peer may see."""
        return self._vault.overview()

    @varlinkmethod
    def Release(self, *, region: int) -> None:
        """Lets go of a region; who has it mapped keeps that. Its memory is free when nobody has."""
        self._vault.release(region)

    @varlinkmethod(return_parameter="epoch")
    def Claim(self, *, tenant: str) -> int:
        """Makes the peer's process the holder of the tenant's epoch, the next one unless it holds it already."""
        return self._vault.claim(tenant)

    @varlinkmethod(return_parameter="collected")
    def Collect(self, *, dry_run: bool | None = None) -> list[Collected]:
        """Lets go of regions that nobody can use any more; with `dry_run` only names them. Wants the role admin."""
        return self._vault.collect(dry_run=bool(dry_run))

    @varlinkmethod(return_parameter="released")
    def Drain(self) -> int:
        """Lets go of everything and takes nothing in until the daemon is restarted. Wants the role admin."""
        return self._vault.drain()
