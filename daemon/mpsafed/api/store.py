# SPDX-License-Identifier: Apache-2.0
"""Behind io.mpsafe.Store: who may keep and have what, and what a connection uses."""

import re
from typing import Final

from asyncvarlink import FileDescriptor

from mpsafe.errors import BadRequest, NotPermitted, UnknownTenant
from mpsafe.protocol.store import NAME, Content, Kept
from mpsafed.api.connection import CURRENT, Connection
from mpsafed.store import Key, Store
from mpsafed.tenants import Tenants

__all__ = ["StoreService"]

TEXT_MAX: Final = 96
_HASH: Final = re.compile(r"[0-9a-f]{64}")


class StoreService:
    """`shared`: all users are one."""

    def __init__(self, store: Store, tenants: Tenants, *, shared: bool) -> None:
        self._store = store
        self._tenants = tenants
        self._shared = shared
        self._users: set[Connection] = set()

    async def publish(self, tenant: str, content: str, size_bytes: int, data: FileDescriptor) -> Kept:
        """See StoreInterface.Publish."""
        connection = CURRENT.get()
        if tenant not in self._tenants:
            raise UnknownTenant(tenant[:TEXT_MAX])
        self._demand("Publish", tenant)
        key = self._key(content)
        wanted = Content(content, size_bytes, tenant, connection.peer.uid, 0, 0, 0)
        await self._store.publish(key, wanted, data.fileno())
        return self._use(key)

    def open(self, content: str) -> Kept:
        """See StoreInterface.Open."""
        self._demand("Open", None)
        return self._use(self._key(content))

    def overview(self) -> list[Content]:
        """See StoreInterface.List. Other users' contents are shown to admins only, unless all users are one."""
        peer = CURRENT.get().peer
        return [one for one in self._store.overview() if self._shared or peer.may_see(one.uid)]

    def _demand(self, method: str, tenant: str | None) -> None:
        """NotPermitted unless the peer's process has attached for the tenant, or (None) for any."""
        peer = CURRENT.get().peer
        of = self._tenants.of(peer.identity) if peer.identity is not None else None
        if of is None or tenant not in (None, of):
            whose = "a tenant" if tenant is None else f"tenant {tenant[:TEXT_MAX]}"
            raise NotPermitted(f"{NAME}.{method}", f"process of {whose}", peer.uid)

    def _key(self, content: str) -> Key:
        if _HASH.fullmatch(content) is None:
            raise BadRequest("hash", "a sha256, 64 digits of lower-case hexadecimal", repr(content[:TEXT_MAX]))
        return (None if self._shared else CURRENT.get().peer.uid, content)

    def _use(self, key: Key) -> Kept:
        connection = CURRENT.get()
        content, fd = self._store.use(key, connection)
        if connection not in self._users:
            self._users.add(connection)
            connection.at_end(lambda: self._leave(connection))
        return Kept(content=content, data=FileDescriptor(fd))

    def _leave(self, connection: Connection) -> None:
        self._users.remove(connection)
        self._store.leave(connection)
