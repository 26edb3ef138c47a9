# SPDX-License-Identifier: Apache-2.0
"""Arrays as the C of ffi/experts/ takes them: pointers to numbers in one piece."""

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mpsafe.experts._core import ffi, lib
from mpsafe.experts.trace import Floats, Ids

if TYPE_CHECKING:
    from mpsafe.experts._core import CData

__all__ = ["Halves", "bfloat16", "ffi", "flags", "floats", "halves", "integers", "lib"]

# bfloat16, in the upper half of what would be fp32.
Halves: TypeAlias = NDArray[np.uint16]


def floats(array: Floats | None) -> "CData":
    """Of fp32 numbers; NULL for None. It is good as long as the array, which is copied if it is not in one piece."""
    return ffi.NULL if array is None else ffi.from_buffer("float[]", np.ascontiguousarray(array, np.float32))


def halves(array: Halves) -> "CData":
    """Of bfloat16 numbers."""
    return ffi.from_buffer("uint16_t[]", array)


def integers(array: Ids | None) -> "CData":
    """Of int64 numbers; NULL for None."""
    return ffi.NULL if array is None else ffi.from_buffer("int64_t[]", np.ascontiguousarray(array, np.int64))


def flags(array: NDArray[np.bool_]) -> "CData":
    """Of truth values, a byte each."""
    return ffi.from_buffer("uint8_t[]", array)


def bfloat16(array: Floats) -> Halves:
    """Rounded to nearest."""
    found: Halves = np.empty(array.shape, np.uint16)
    lib.to_bfloat16(floats(array), array.size, halves(found))
    return found
