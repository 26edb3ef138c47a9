# SPDX-License-Identifier: Apache-2.0
"""The status page: the state of the host in a shared page, read without a system call.

Layout, version 1, little-endian. A header of 128 bytes, then TENANTS records of 128 bytes:

    header  magic "MPSAFEPG", u32 version, u32 header bytes, u32 record bytes, u32 records in use,
            u64 epoch (new for each start of the daemon), u64 sequence (odd while it is written),
            u64 last event's seq, u64 heartbeat (CLOCK_MONOTONIC ns), u64 page bytes
    record  name (32 bytes, zero-padded), u32 uid, u32 health, u64 generation, u32 clients,
            u32 in flight, u32 queue, u32 reserved, u64 latency ns, u64 resident bytes

Health: 0 absent, 1 healthy, 2 fenced, 3 lost. In flight, queue, latency and residency are reported by
the tenants themselves; 0 until they are. A reader that sees an odd or a changed sequence reads again.
"""

import mmap
import os
import struct
from types import TracebackType
from typing import Final, NamedTuple, Self

from typing_extensions import Buffer

from mpsafe.errors import PeerMisbehaved
from mpsafe.model import TenantHealth

__all__ = [
    "HEADER",
    "HEADER_BYTES",
    "HEALTH",
    "MAGIC",
    "PAGE_BYTES",
    "RECORD",
    "RECORD_BYTES",
    "TENANTS",
    "VERSION",
    "PageHeader",
    "StatusPage",
    "TenantStatus",
]

MAGIC: Final = b"MPSAFEPG"
VERSION: Final = 1
HEADER: Final = struct.Struct("<8sIIIIQQQQQ")
RECORD: Final = struct.Struct("<32sIIQIIIIQQ")
HEADER_BYTES: Final = 128
RECORD_BYTES: Final = 128
TENANTS: Final = 256
PAGE_BYTES: Final = HEADER_BYTES + TENANTS * RECORD_BYTES
SEQUENCE_OFFSET: Final = 32
HEALTH: Final[tuple[TenantHealth, ...]] = ("absent", "healthy", "fenced", "lost")

_SEQUENCE: Final = struct.Struct("<Q")


class PageHeader(NamedTuple):
    """What the page says of the daemon. `heartbeat_ns` is CLOCK_MONOTONIC."""

    epoch: int
    last_event: int
    heartbeat_ns: int
    tenants: int


class TenantStatus(NamedTuple):
    """What the page says of one tenant."""

    name: str
    uid: int
    health: TenantHealth
    generation: int
    clients: int
    in_flight: int
    queue: int
    latency_ns: int
    resident_bytes: int


class StatusPage:
    """Reads the page behind a file descriptor, which it takes over.

    Raises PeerMisbehaved if the descriptor is no status page of a version that we read.
    """

    def __init__(self, fd: int) -> None:
        try:
            self._map = mmap.mmap(fd, PAGE_BYTES, mmap.MAP_SHARED, mmap.PROT_READ)
        except (OSError, ValueError) as error:
            raise PeerMisbehaved("mpsafed", f"a status page of {PAGE_BYTES} bytes", str(error)) from error
        finally:
            os.close(fd)
        magic, version, header_bytes, record_bytes, *_ = HEADER.unpack_from(self._map)
        if (magic, version, header_bytes, record_bytes) != (MAGIC, VERSION, HEADER_BYTES, RECORD_BYTES):
            self._map.close()
            raise PeerMisbehaved("mpsafed", f"a status page of version {VERSION}", f"{magic!r}, version {version}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._map.close()

    def header(self) -> PageHeader:
        """The header, consistent in itself."""
        while True:
            fields = HEADER.unpack_from(self._map)
            if not fields[6] & 1 and _SEQUENCE.unpack_from(self._map, SEQUENCE_OFFSET)[0] == fields[6]:
                return PageHeader(fields[5], fields[7], fields[8], fields[4])

    def tenants(self) -> list[TenantStatus]:
        """All tenants, consistent with each other."""
        while True:
            sequence = _SEQUENCE.unpack_from(self._map, SEQUENCE_OFFSET)[0]
            if sequence & 1:
                continue
            count = min(HEADER.unpack_from(self._map)[4], TENANTS)
            data = self._map[HEADER_BYTES : HEADER_BYTES + count * RECORD_BYTES]
            if _SEQUENCE.unpack_from(self._map, SEQUENCE_OFFSET)[0] == sequence:
                return [_tenant(data, index * RECORD_BYTES) for index in range(count)]


def _tenant(data: Buffer, offset: int) -> TenantStatus:
    name, uid, health, generation, clients, in_flight, queue, _, latency, resident = RECORD.unpack_from(data, offset)
    known: tuple[TenantHealth, ...] = HEALTH[health : health + 1] or ("absent",)
    text = name.rstrip(b"\0").decode("utf-8", "replace")
    return TenantStatus(text, uid, known[0], generation, clients, in_flight, queue, latency, resident)
