# SPDX-License-Identifier: Apache-2.0
"""Generates `mpsafe/cuda/_cuda.py`, the cffi binding of the CUDA driver API, from `cuda.cdef.h`.

cffi's ABI mode: no compiler and no CUDA header is needed, and the library is opened at run time by
its path. tests/test_soft_libcuda.py has the C compiler check every layout (ffi/soft/driver.h).
"""

from pathlib import Path

from cffi import FFI

_HERE = Path(__file__).resolve().parent

ffibuilder = FFI()
ffibuilder.set_source("mpsafe.cuda._cuda", None)
ffibuilder.cdef((_HERE / "cuda.cdef.h").read_text(encoding="utf-8"))

if __name__ == "__main__":
    ffibuilder.compile(tmpdir=str(_HERE.parent / "daemon"), verbose=True)
