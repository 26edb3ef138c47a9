# SPDX-License-Identifier: Apache-2.0
"""Contents by hash: taken in where they are what they are said to be, given out, and dropped when nobody uses them."""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import threading
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from mpsafe.errors import BadContent, StoreFull, UnknownContent
from mpsafe.protocol.store import CONTENT_BYTES_MAX, Content

__all__ = ["Key", "Store"]

SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
CONTENTS_MAX: Final = 4096
CONTENTS_PER_TENANT: Final = 1024
READERS: Final = 2
CHUNK: Final = 1 << 20

# Whose it is, None where all users are one, and its hash.
Key: TypeAlias = tuple[int | None, str]


@dataclass(slots=True)
class _Kept:
    content: Content
    fd: int
    users: set[object] = field(default_factory=lambda: set[object]())
    dropping: asyncio.TimerHandle | None = None


class Store:
    """`quotas`: bytes that each tenant may keep; None: as many as there are. Users are connections, or whatever lasts
    as long as the use of a content. `grace_s`: how long a content is kept that nobody uses."""

    def __init__(self, quotas: Mapping[str, int | None], *, grace_s: float) -> None:
        self._quotas = quotas
        self._grace_s = grace_s
        self._kept: dict[Key, _Kept] = {}
        self._publishing: Counter[str] = Counter()
        self._publishers: Counter[Key] = Counter()
        self._locks: defaultdict[Key, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._readers = ThreadPoolExecutor(READERS, "mpsafe-store")
        self._closed = threading.Event()

    def close(self) -> None:
        """Lets go of everything; who has a content open keeps it."""
        self._closed.set()
        self._readers.shutdown(wait=True)
        for kept in self._kept.values():
            if kept.dropping is not None:
                kept.dropping.cancel()
            os.close(kept.fd)
        self._kept.clear()

    def overview(self) -> list[Content]:
        """All contents, oldest first."""
        return [kept.content for kept in self._kept.values()]

    async def publish(self, key: Key, wanted: Content, fd: int) -> Content:
        """Takes in what is what `wanted` says it is; where it is there already, that is the answer.

        The descriptor stays the caller's. BadContent, StoreFull.
        """
        _demand_sealed(wanted, fd)
        async with self._one_at_a_time(key):
            if key in self._kept:
                return self._kept[key].content
            self._demand_room(wanted)
            self._publishing[wanted.tenant] += wanted.size_bytes
            try:
                await self._demand_hash(wanted, fd)
                own = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
            except OSError as error:
                raise BadContent(wanted.hash, "what can be read", error.strerror or str(error)) from error
            finally:
                self._publishing[wanted.tenant] -= wanted.size_bytes
            self._kept[key] = _Kept(replace(wanted, published_ns=time.time_ns()), own)
            self._look_after(key)
            return self._kept[key].content

    def use(self, key: Key, user: object) -> tuple[Content, int]:
        """The content and its descriptor, which stays ours, kept as long as `user` uses it. UnknownContent."""
        kept = self._kept.get(key)
        if kept is None:
            raise UnknownContent(key[1])
        kept.users.add(user)
        self._look_after(key)
        return kept.content, kept.fd

    def leave(self, user: object) -> None:
        """Who uses nothing any more."""
        for key, kept in list(self._kept.items()):
            if user in kept.users:
                kept.users.remove(user)
                self._look_after(key)

    def _look_after(self, key: Key) -> None:
        """Counts the users; a content without any has its grace time."""
        kept = self._kept[key]
        if kept.users and kept.dropping is not None:
            kept.dropping.cancel()
            kept.dropping = None
        if not kept.users and kept.dropping is None:
            kept.dropping = asyncio.get_running_loop().call_later(self._grace_s, self._drop, key)
        unused_ns = 0 if kept.users else kept.content.unused_ns or time.time_ns()
        kept.content = replace(kept.content, users=len(kept.users), unused_ns=unused_ns)

    def _drop(self, key: Key) -> None:
        os.close(self._kept.pop(key).fd)

    def _demand_room(self, wanted: Content) -> None:
        own = [kept.content for kept in self._kept.values() if kept.content.tenant == wanted.tenant]
        if len(own) >= CONTENTS_PER_TENANT:
            raise StoreFull(wanted.tenant, "contents", CONTENTS_PER_TENANT, len(own) + 1)
        if len(self._kept) >= CONTENTS_MAX:
            raise StoreFull(wanted.tenant, "contents, with all others,", CONTENTS_MAX, len(self._kept) + 1)
        nbytes = sum(one.size_bytes for one in own) + self._publishing[wanted.tenant] + wanted.size_bytes
        quota = self._quotas.get(wanted.tenant)
        if quota is not None and nbytes > quota:
            raise StoreFull(wanted.tenant, "bytes", quota, nbytes)

    async def _demand_hash(self, wanted: Content, fd: int) -> None:
        """Read in a thread, from a descriptor of its own: who is waited for may hang up."""
        given_up = threading.Event()
        reading = asyncio.get_running_loop().run_in_executor(
            self._readers, self._hash, os.dup(fd), wanted.size_bytes, given_up
        )
        try:
            found = await asyncio.shield(reading)
        except asyncio.CancelledError:
            given_up.set()
            raise
        if found != wanted.hash:
            raise BadContent(wanted.hash, "content of that sha256", f"content of sha256 {found[:16]}")

    def _hash(self, fd: int, size_bytes: int, given_up: threading.Event) -> str:
        """What is read is given up at the next chunk, and is no hash then."""
        try:
            digest, buffer = hashlib.sha256(), bytearray(CHUNK)
            view, at = memoryview(buffer), 0
            while at < size_bytes and not given_up.is_set() and not self._closed.is_set():
                if not (read := os.preadv(fd, [buffer], at)):
                    break
                digest.update(view[:read])
                at += read
            return digest.hexdigest() if at == size_bytes else ""
        finally:
            os.close(fd)

    @contextlib.asynccontextmanager
    async def _one_at_a_time(self, key: Key) -> AsyncGenerator[None]:
        """Of several who publish the same, the next waits for what becomes of the first."""
        self._publishers[key] += 1
        try:
            async with self._locks[key]:
                yield
        finally:
            self._publishers[key] -= 1
            if not self._publishers[key]:
                del self._publishers[key], self._locks[key]


def _demand_sealed(wanted: Content, fd: int) -> None:
    """Only a memfd has these seals; F_GET_SEALS fails for what is none (fcntl(2))."""
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        raise BadContent(wanted.hash, "a memfd", "another kind of file") from None
    if seals & SEALS != SEALS:
        raise BadContent(wanted.hash, "a memfd sealed against write, grow, shrink and seal", "one that can change")
    if (size := os.fstat(fd).st_size) != wanted.size_bytes or not 0 < size <= CONTENT_BYTES_MAX:
        raise BadContent(wanted.hash, f"1 to {CONTENT_BYTES_MAX} bytes, {wanted.size_bytes} of them", f"{size} bytes")
