# SPDX-License-Identifier: Apache-2.0
"""io.mpsafe.Store: host data by content hash, one sealed memfd each: N processes, one copy.

Content is had by processes of the same user: to know a hash is no permission, hashes are in file names, logs and
caches that others read. `[store] shared` makes all users one. Nothing is kept over the daemon's death but by those who
have the descriptor: the memory is theirs as long as they have it open or mapped, and they publish it again.
"""

from dataclasses import dataclass
from typing import Final, Protocol, TypedDict

from asyncvarlink import FileDescriptor, VarlinkInterface, varlinkmethod

from mpsafe.errors import BadContent, BadRequest, NotPermitted, StoreFull, UnknownContent, UnknownTenant
from mpsafe.protocol.replies import declared

__all__ = ["CONTENT_BYTES_MAX", "NAME", "Content", "Kept", "Store", "StoreInterface"]

NAME: Final = "io.mpsafe.Store"
CONTENT_BYTES_MAX: Final = 1 << 40


@dataclass(frozen=True, slots=True)
class Content:
    """One content. `hash`: sha256 in hexadecimal. `users`: connections that published or opened it and still are.

    `published_ns`, `unused_ns`: since the epoch of the clock; `unused_ns` is 0 while somebody uses it.
    """

    hash: str
    size_bytes: int
    tenant: str
    uid: int
    users: int
    published_ns: int
    unused_ns: int


class Kept(TypedDict):
    """A content, and the sealed memfd that has it."""

    content: Content
    data: FileDescriptor


class Store(Protocol):
    """What the daemon implements."""

    async def publish(self, tenant: str, content: str, size_bytes: int, data: FileDescriptor) -> Kept: ...
    def open(self, content: str) -> Kept: ...
    def overview(self) -> list[Content]: ...


class StoreInterface(VarlinkInterface, name=NAME):
    """Host data by content hash."""

    errors = declared(NAME, NotPermitted, UnknownTenant, UnknownContent, BadContent, StoreFull, BadRequest)

    def __init__(self, store: Store) -> None:
        self._store = store

    @varlinkmethod
    async def Publish(self, *, tenant: str, hash: str, size_bytes: int, data: FileDescriptor) -> Kept:
        """Keeps a content: a memfd of that size, sealed against write, grow, shrink and seal, with that sha256.

        Wants a process of the tenant's. The daemon reads it and compares. Where the content is there already, the
        answer is the one that is kept; the peer's own copy is of no use then.
        """
        return await self._store.publish(tenant, hash, size_bytes, data)

    @varlinkmethod
    def Open(self, *, hash: str) -> Kept:
        """The content of that sha256, which a process of the same user has published. Wants a process of a tenant's.

        It is kept as long as a connection that published or opened it is there, and a grace time longer.
        """
        return self._store.open(hash)

    @varlinkmethod(return_parameter="contents")
    def List(self) -> list[Content]:
        """The contents that the peer may see."""
        return self._store.overview()
