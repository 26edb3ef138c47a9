# SPDX-License-Identifier: Apache-2.0
"""Builds mpsafe.operators.simulator._core from ffi/operators/."""

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent / "operators"

ffibuilder = FFI()
ffibuilder.cdef((HERE / "simulator.cdef.h").read_text(encoding="utf-8"))
ffibuilder.set_source(
    "mpsafe.operators.simulator._core",
    '#include "simulator.h"',
    sources=[f"ffi/operators/{name}.c" for name in ("decoding", "mixed", "simulator")],
    include_dirs=[str(HERE)],
    extra_compile_args=["-O2", "-ffp-contract=off"],  # the same figures on each machine
    libraries=["m"],
)
