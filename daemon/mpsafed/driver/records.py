# SPDX-License-Identifier: Apache-2.0
"""Decodes `struct mpsafe_record`. The compiler knows the layout; we check what a record says."""

import uuid
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from mpsafe.errors import SourceLost
from mpsafe.model import Identity
from mpsafed.driver import Place, Unit
from mpsafed.driver._uapi import ffi, lib
from mpsafed.driver.words import ACCESSES, FAULTS, MODES, PLACES, UNITS

__all__ = ["HEARTBEAT_SECONDS", "Record", "RecordKind", "decode"]

RecordKind: TypeAlias = Literal["policy", "absorbed", "passed", "gone", "orphan", "killed"]

HEARTBEAT_SECONDS: Final = lib.MPSAFE_HEARTBEAT_MS / 1000

_KINDS: Final[dict[int, RecordKind]] = {
    lib.MPSAFE_RECORD_POLICY: "policy",
    lib.MPSAFE_RECORD_ABSORBED: "absorbed",
    lib.MPSAFE_RECORD_PASSED: "passed",
    lib.MPSAFE_RECORD_GONE: "gone",
    lib.MPSAFE_RECORD_ORPHAN: "orphan",
    lib.MPSAFE_RECORD_KILLED: "killed",
}


@dataclass(frozen=True, slots=True)
class Record:
    """One record. `time_ns` is CLOCK_MONOTONIC; `device` is a UUID as NVML writes it.

    `number` is the driver's own of the client, 0 if there is none; `veid` is its subcontext.
    """

    kind: RecordKind
    load: int
    seq: int
    time_ns: int
    mode: str
    number: int
    client: Identity
    uid: int
    name: str
    device: str
    address: int
    access: str
    fault: str
    faults: int
    status: int
    latency_ns: int
    place: Place
    unit: Unit
    veid: int


def decode(raw: bytes) -> Record:
    """One record from the bytes that read() gave. SourceLost if it is none, or of a kind we do not know."""
    size = ffi.sizeof("struct mpsafe_record")
    if len(raw) < size:
        raise SourceLost("driver", f"expected a record of {size} bytes, got {len(raw)}")
    record = ffi.from_buffer("struct mpsafe_record *", raw)
    kind = _KINDS.get(record.type)
    if record.size < size or kind is None:
        raise SourceLost(
            "driver", f"expected a record of ABI {lib.MPSAFE_ABI}, got type {record.type}, size {record.size}"
        )
    return Record(
        kind=kind,
        load=record.load,
        seq=record.seq,
        time_ns=record.time_ns,
        mode=MODES.get(record.mode, "unknown"),
        number=record.client,
        client=Identity(record.tgid, record.start_ticks),
        uid=record.uid,
        name=ffi.string(record.comm, 16).decode("utf-8", "replace"),
        device=f"GPU-{uuid.UUID(bytes=bytes(record.gpu_uuid))}",
        address=record.va,
        access=ACCESSES.get(record.access, "none"),
        fault=FAULTS.get(record.fault, "unknown"),
        faults=record.faults,
        status=record.status,
        latency_ns=record.latency_ns,
        place=PLACES.get(record.place, "unknown"),
        unit=UNITS.get(record.unit, "unknown"),
        veid=record.veid,
    )
