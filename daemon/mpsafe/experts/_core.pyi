# SPDX-License-Identifier: Apache-2.0
# The typed face of the extension that ffi/build_experts.py builds from ffi/experts/.
from typing import Protocol, final

@final
class CData:
    """A pointer."""

    def __add__(self, items: int) -> CData: ...

class _Lib(Protocol):
    def estimator_bytes(self, layers: int, experts: int, reach: int, /) -> int: ...
    def estimator_start(self, estimator: CData, layers: int, experts: int, reach: int, rate: float, /) -> None: ...
    def estimator_likely(self, estimator: CData, /) -> CData: ...
    def estimator_routed(
        self, estimator: CData, layer: int, ids: CData, count: int, probabilities: CData, /
    ) -> None: ...
    def estimator_ahead(
        self, estimator: CData, now: int, ahead: CData, depth: int, maps: CData, regressed: CData, /
    ) -> None: ...
    def estimator_wishes(self, estimator: CData, now: int, least: float, flat: CData, likely: CData, /) -> int: ...
    def estimator_leaving(
        self, estimator: CData, now: int, rent: float, may_leave: CData, count: int, flat: CData, /
    ) -> int: ...
    def regression_row(
        self,
        probabilities: CData,
        experts: int,
        token: CData,
        token_count: int,
        ahead: CData,
        ahead_count: int,
        least: float,
        row: CData,
        /,
    ) -> None: ...
    def regression_predict(
        self, row: CData, rows: int, solution: CData, columns: int, least: float, found: CData, /
    ) -> None: ...
    def to_bfloat16(self, values: CData, count: int, found: CData, /) -> None: ...
    def rows_dot(self, matrix: CData, places: CData, count: int, columns: int, row: CData, found: CData, /) -> None: ...
    def rows_near(
        self,
        matrix: CData,
        norms: CData,
        places: CData,
        count: int,
        columns: int,
        row: CData,
        length: float,
        sums: CData,
        scores: CData,
        /,
    ) -> None: ...
    def rows_blend(
        self,
        matrices: CData,
        capacity: int,
        layers: int,
        columns: int,
        places: CData,
        scores: CData,
        count: int,
        neighbours: int,
        sharpness: float,
        scratch: CData,
        found: CData,
        /,
    ) -> None: ...

class _Ffi(Protocol):
    NULL: CData
    def cast(self, ctype: str, value: CData, /) -> CData: ...
    def from_buffer(self, ctype: str, source: object, /) -> CData: ...
    def buffer(self, value: CData, size: int, /) -> memoryview: ...

ffi: _Ffi
lib: _Lib
