# SPDX-License-Identifier: Apache-2.0
"""Behind io.mpsafe.Vault: who may ask for what. The vault does the rest."""

from collections.abc import Callable
from typing import Final

from asyncvarlink import FileDescriptor

from mpsafe.errors import BadRequest, NotPermitted, UnknownRegion
from mpsafe.model import Identity, Region, RegionKind
from mpsafe.protocol.vault import NAME, Collected, Opened, VaultState
from mpsafed.api.connection import CURRENT
from mpsafed.tenants import Tenants
from mpsafed.vault.vault import Vault

__all__ = ["VaultService"]

TEXT_MAX: Final = 96


class VaultService:
    """A process speaks for the tenant that it attached for. `watch` has the end of a process seen."""

    def __init__(self, vault: Vault, tenants: Tenants, watch: Callable[[Identity], None]) -> None:
        self._vault = vault
        self._tenants = tenants
        self._watch = watch

    async def create(
        self,
        tenant: str,
        name: str,
        kind: RegionKind,
        device: str,
        sizes: list[int],
        handles: list[FileDescriptor],
        layout: FileDescriptor | None,
    ) -> Region:
        """See VaultInterface.Create."""
        process = self._member("Create", tenant)
        uid = CURRENT.get().peer.uid
        self._watch(process)
        region = Region(0, tenant, name, kind, "open", device[:TEXT_MAX], sizes, 0, uid, process)
        fds = [handle.fileno() for handle in handles]
        return await self._vault.create(region, fds, None if layout is None else layout.fileno())

    def commit(self, region: int, digest: str) -> Region:
        """See VaultInterface.Commit."""
        self._member("Commit", self._visible(region).tenant)
        return self._vault.commit(region, digest, CURRENT.get().peer.identity)

    def open(self, region: int | None, tenant: str | None, name: str | None, *, write: bool) -> Opened:
        """See VaultInterface.Open."""
        peer = CURRENT.get().peer
        if region is not None:
            found = self._visible(region)
        elif tenant is not None and name is not None:
            found = self._vault.newest(tenant, name)
        else:
            raise BadRequest("region", "an id, or tenant and name", "neither")
        if write or not self._may_read(found):
            self._member("Open", found.tenant)
        handles, layout = self._vault.handles(found, peer.identity, write=write)
        return Opened(
            region=found,
            handles=[FileDescriptor(fd) for fd in handles],
            layout=None if layout is None else FileDescriptor(layout),
        )

    def overview(self) -> VaultState:
        """See VaultInterface.List. Other users' regions are shown to admins only."""
        peer = CURRENT.get().peer
        regions = [region for region in self._vault.regions() if peer.may_see(region.uid) or self._may_read(region)]
        return VaultState(regions, self._vault.holder.name, self._vault.closed)

    def release(self, region: int) -> None:
        """See VaultInterface.Release."""
        peer = CURRENT.get().peer
        found = self._visible(region)
        if not peer.admin and peer.uid != found.uid:
            raise NotPermitted(f"{NAME}.Release", f"uid {found.uid}", peer.uid)
        self._vault.release(region)

    def claim(self, tenant: str) -> int:
        """See VaultInterface.Claim."""
        process = self._member("Claim", tenant)
        self._watch(process)
        return self._vault.epochs.claim(tenant, process)

    def collect(self, *, dry_run: bool) -> list[Collected]:
        """See VaultInterface.Collect."""
        return self._vault.collect(dry_run=dry_run)

    def drain(self) -> int:
        """See VaultInterface.Drain."""
        return self._vault.drain()

    def _member(self, method: str, tenant: str) -> Identity:
        """The peer's process, which has attached for the tenant. NotPermitted."""
        peer = CURRENT.get().peer
        if peer.identity is None or self._tenants.of(peer.identity) != tenant:
            raise NotPermitted(f"{NAME}.{method}", f"process of tenant {tenant[:TEXT_MAX]}", peer.uid)
        return peer.identity

    def _visible(self, number: int) -> Region:
        """One that the peer may know of. UnknownRegion."""
        region = self._vault.known(number)
        if not CURRENT.get().peer.may_see(region.uid) and not self._may_read(region):
            raise UnknownRegion(str(number))
        return region

    def _may_read(self, region: Region) -> bool:
        """Whether the peer's process is of the tenant's, or of one that may read its immutable regions."""
        identity = CURRENT.get().peer.identity
        tenant = self._tenants.of(identity) if identity is not None else None
        if tenant == region.tenant:
            return True
        return region.kind == "immutable" and tenant in self._vault.readers(region.tenant)
