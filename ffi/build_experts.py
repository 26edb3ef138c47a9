# SPDX-License-Identifier: Apache-2.0
"""Builds mpsafe.experts._core from ffi/experts/."""

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent / "experts"

ffibuilder = FFI()
ffibuilder.cdef((HERE / "core.cdef.h").read_text(encoding="utf-8"))
ffibuilder.set_source(
    "mpsafe.experts._core",
    '#include <stddef.h>\n#include <stdint.h>\n#include "core.cdef.h"',
    sources=["ffi/experts/estimator.c", "ffi/experts/rows.c"],
    include_dirs=[str(HERE)],
    # Given to the compiler alone: the linker would have the whole process round denormal numbers to zero.
    extra_compile_args=["-O3", "-ffast-math"],
    libraries=["m"],
)

if __name__ == "__main__":
    ffibuilder.compile(tmpdir=str(HERE.parents[1] / "daemon"))
