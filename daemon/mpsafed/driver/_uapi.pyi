# SPDX-License-Identifier: Apache-2.0
# The typed face of the extension that ffi/build_uapi.py builds from ffi/mpsafe_uapi.h.
from collections.abc import MutableSequence
from typing import Literal, Protocol, TypeAlias, overload

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
    place: int
    unit: int
    gpu_uuid: MutableSequence[int]
    comm: object
    veid: int
    gpc: int

class _Hello(Protocol):
    size: int
    abi: int
    load: int
    loaded_ns: int
    features: int
    ring: int
    record_size: int
    reserved: int
    driver: object

class _Policy(Protocol):
    mode: int
    in_force: int
    places: int
    units: int
    sinks_max: int
    budget_us: int
    grow_after: MutableSequence[int]
    hold_ms: int
    kill_ms: int
    reserved: MutableSequence[int]

class _Client(Protocol):
    client: int
    tgid: int
    uid: int
    start_ticks: int
    created_ns: int
    doomed_ns: int
    kill_ns: int
    faults: int
    sink_bytes: int
    spent_ns: int
    sinks: int
    refused: int
    state: int
    mode: int
    reserved: int
    comm: object

class _ClientMode(Protocol):
    client: int
    mode: int
    reserved: MutableSequence[int]

class _Stats(Protocol):
    absorbed: int
    passed: int
    orphans: int
    refused: int
    killed: int
    records: int
    lost: int
    expired: int
    latency_max_ns: int
    clients: int
    doomed: int
    sinks: int
    reserved: int

class _Answer(Protocol):
    client: int
    action: int
    ms: int

class _Inject(Protocol):
    client: int
    va: int
    access: int
    fault: int
    unit: int
    place: int
    status: int
    reserved: int
    gpu_uuid: MutableSequence[int]

Struct: TypeAlias = _Hello | _Policy | _Client | _ClientMode | _Stats | _Answer | _Inject

class _Ffi(Protocol):
    def sizeof(self, cdecl: str | Struct, /) -> int: ...
    def offsetof(self, cdecl: str, field: str, /) -> int: ...
    def from_buffer(self, cdecl: str, buffer: bytes, /) -> _Record: ...
    def string(self, cdata: object, maxlen: int, /) -> bytes: ...
    def buffer(self, cdata: Struct, /) -> bytearray: ...
    @overload
    def new(self, cdecl: Literal["struct mpsafe_hello *"], /) -> _Hello: ...
    @overload
    def new(self, cdecl: Literal["struct mpsafe_policy *"], /) -> _Policy: ...
    @overload
    def new(self, cdecl: Literal["struct mpsafe_client *"], /) -> _Client: ...
    @overload
    def new(self, cdecl: Literal["struct mpsafe_client_mode *"], /) -> _ClientMode: ...
    @overload
    def new(self, cdecl: Literal["struct mpsafe_stats *"], /) -> _Stats: ...
    @overload
    def new(self, cdecl: Literal["struct mpsafe_answer *"], /) -> _Answer: ...
    @overload
    def new(self, cdecl: Literal["struct mpsafe_inject *"], /) -> _Inject: ...

class _Lib(Protocol):
    MPSAFE_ABI: int
    MPSAFE_HEARTBEAT_MS: int
    MPSAFE_SINKS_MAX: int
    MPSAFE_MODE_OFF: int
    MPSAFE_MODE_OBSERVE: int
    MPSAFE_MODE_ABSORB: int
    MPSAFE_MODE_INHERIT: int
    MPSAFE_RECORD_POLICY: int
    MPSAFE_RECORD_ABSORBED: int
    MPSAFE_RECORD_PASSED: int
    MPSAFE_RECORD_GONE: int
    MPSAFE_RECORD_ORPHAN: int
    MPSAFE_RECORD_KILLED: int
    MPSAFE_ACCESS_NONE: int
    MPSAFE_ACCESS_READ: int
    MPSAFE_ACCESS_WRITE: int
    MPSAFE_ACCESS_ATOMIC: int
    MPSAFE_FAULT_PDE: int
    MPSAFE_FAULT_PTE: int
    MPSAFE_FAULT_RO: int
    MPSAFE_FAULT_OTHER: int
    MPSAFE_PLACE_UNKNOWN: int
    MPSAFE_PLACE_WILD: int
    MPSAFE_PLACE_HOLE: int
    MPSAFE_PLACE_EXTERNAL: int
    MPSAFE_PLACE_MANAGED: int
    MPSAFE_PLACE_CHANNEL: int
    MPSAFE_UNIT_UNKNOWN: int
    MPSAFE_UNIT_SM: int
    MPSAFE_UNIT_COPY: int
    MPSAFE_STATUS_OK: int
    MPSAFE_STATUS_NOT_SUPPORTED: int
    MPSAFE_STATUS_NO_MEMORY: int
    MPSAFE_STATUS_LIMIT: int
    MPSAFE_STATUS_STATE: int
    MPSAFE_FEATURE_REPLAYABLE: int
    MPSAFE_FEATURE_NON_REPLAYABLE: int
    MPSAFE_FEATURE_ORPHAN: int
    MPSAFE_FEATURE_REFUSE: int
    MPSAFE_FEATURE_HOLD: int
    MPSAFE_FEATURE_INJECT: int
    MPSAFE_FEATURE_STANDALONE: int
    MPSAFE_CLIENT_LIVE: int
    MPSAFE_CLIENT_DOOMED: int
    MPSAFE_CLIENT_RELEASED: int
    MPSAFE_ANSWER_RELEASE: int
    MPSAFE_ANSWER_EXTEND: int
    MPSAFE_ANSWER_KILL: int
    MPSAFE_IOC_HELLO: int
    MPSAFE_IOC_POLICY_SET: int
    MPSAFE_IOC_POLICY_GET: int
    MPSAFE_IOC_HEARTBEAT: int
    MPSAFE_IOC_CLIENT_NEXT: int
    MPSAFE_IOC_CLIENT_MODE: int
    MPSAFE_IOC_STATS: int
    MPSAFE_IOC_ANSWER: int
    MPSAFE_IOC_INJECT: int

ffi: _Ffi
lib: _Lib
