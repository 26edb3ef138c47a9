# SPDX-License-Identifier: Apache-2.0
# The typed face of the extension that ffi/build_uapi.py builds from ffi/mpsafe_uapi.h.
from collections.abc import Sequence
from typing import Protocol

class _Record(Protocol):
    size: int
    type: int
    mode: int
    load: int
    seq: int
    time_ns: int
    client: int
    tgid: int
    uid: int
    start_ticks: int
    va: int
    sink_base: int
    sink_size: int
    faults: int
    access: int
    fault: int
    status: int
    latency_ns: int
    gpu_uuid: Sequence[int]
    comm: object

class _Ffi(Protocol):
    def sizeof(self, cdecl: str, /) -> int: ...
    def offsetof(self, cdecl: str, field: str, /) -> int: ...
    def from_buffer(self, cdecl: str, buffer: bytes, /) -> _Record: ...
    def string(self, cdata: object, maxlen: int, /) -> bytes: ...

class _Lib(Protocol):
    MPSAFE_ABI: int
    MPSAFE_HEARTBEAT_MS: int
    MPSAFE_MODE_OFF: int
    MPSAFE_MODE_OBSERVE: int
    MPSAFE_MODE_ABSORB: int
    MPSAFE_RECORD_POLICY: int
    MPSAFE_RECORD_ABSORBED: int
    MPSAFE_RECORD_PASSED: int
    MPSAFE_RECORD_GONE: int
    MPSAFE_ACCESS_NONE: int
    MPSAFE_ACCESS_READ: int
    MPSAFE_ACCESS_WRITE: int
    MPSAFE_ACCESS_ATOMIC: int
    MPSAFE_FAULT_PDE: int
    MPSAFE_FAULT_PTE: int
    MPSAFE_FAULT_RO: int

ffi: _Ffi
lib: _Lib
