# SPDX-License-Identifier: Apache-2.0
# The typed face of the extension that ffi/build_operators.py builds from ffi/operators/.
from typing import Protocol, final

@final
class CData:
    """A pointer, and what it points to."""

    batch: int
    visits: int
    events: CData
    requests: CData
    workers: CData
    stages: CData
    routes: CData
    tables: CData
    ends: CData
    enders: CData
    members: CData
    on_gpu: CData
    prefill_route: CData
    decode_route: CData
    grid: CData
    gaps: CData
    next: int
    route: int
    present: int
    handled: int
    now: float
    area: float
    gaps_s: float
    gaps_count: float

class _CType(Protocol):
    kind: str
    cname: str
    fields: list[tuple[str, _CField]]

class _CField(Protocol):
    type: _CType
    offset: int

class _Lib(Protocol):
    PREFILL: int
    DECODE: int
    HOME: int
    MIXED: int
    STARTING: int
    UP: int
    DRAINING: int
    GONE: int
    GAP_BINS: int
    NOT_LISTED: int
    def simulation_advance(self, simulation: CData, until: float, /) -> None: ...
    def simulation_start(self, simulation: CData, time: float, worker: int, /) -> None: ...
    def simulation_wake(self, simulation: CData, worker: int, /) -> None: ...
    def simulation_linear(self, simulation: CData, table: int, tokens: float, /) -> float: ...
    def simulation_decode(self, simulation: CData, table: int, sequences: float, context: float, /) -> float: ...
    def simulation_gap(self, bin: float, /) -> float: ...

class _Ffi(Protocol):
    def new(self, ctype: str, values: dict[str, int], /) -> CData: ...
    def from_buffer(self, ctype: str, source: object, /) -> CData: ...
    def typeof(self, ctype: str, /) -> _CType: ...
    def sizeof(self, ctype: str, /) -> int: ...

ffi: _Ffi
lib: _Lib
