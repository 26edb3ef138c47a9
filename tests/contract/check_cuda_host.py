# SPDX-License-Identifier: Apache-2.0
"""Host memory that the driver is told of, on any libcuda.so.1.

python check_cuda_host.py [LIBRARY]      prints one line a check: name, a tab, "ok" or what was wrong
"""

import fcntl
import mmap
import os
import sys
from collections.abc import Callable
from typing import Final

from contract.check_cuda import Rig, outcomes
from mpsafe import cuda
from mpsafe.cuda._cuda import ffi
from mpsafe.errors import BadCudaCall

__all__ = ["CHECKS"]

_INVALID_VALUE: Final = 1
_ALREADY_REGISTERED: Final = 712
_NOT_REGISTERED: Final = 713
_NOT_SUPPORTED: Final = 801
_BYTES: Final = 4 * mmap.PAGESIZE
_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def memory_is_registered_once(rig: Rig) -> None:
    with mmap.mmap(-1, _BYTES) as memory:
        address = _address(memory)
        with cuda.Registration(rig.driver, address, _BYTES, read_only=False) as made:
            assert rig.driver.result("cuMemHostRegister_v2", made.handle, _BYTES, 0) == _ALREADY_REGISTERED
            memory[:8] = b"straight"
            rig.driver.call("cuMemcpyHtoD_v2", rig.a.address, made.handle, 8)
            assert rig.a.read(8) == b"straight"
            handle = made.handle
        assert rig.driver.result("cuMemHostUnregister", handle) == _NOT_REGISTERED


def sealed_memory_is_registered_for_reading(rig: Rig) -> None:
    fd = os.memfd_create("sealed", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, _BYTES)
        os.pwrite(fd, b"as it is", 0)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        with mmap.mmap(fd, _BYTES, mmap.MAP_SHARED, mmap.PROT_READ) as memory:
            assert _register(rig, memory, read_only=False) == _INVALID_VALUE
            known = rig.driver.attribute("READ_ONLY_HOST_REGISTER_SUPPORTED", rig.device.ordinal)
            assert _register(rig, memory, read_only=True) == (0 if known else _NOT_SUPPORTED)
    finally:
        os.close(fd)


def _register(rig: Rig, memory: mmap.mmap, *, read_only: bool) -> int:
    """The CUresult; where it is 0, the device reads what is there."""
    address = _address(memory)
    try:
        with cuda.Registration(rig.driver, address, _BYTES, read_only=read_only) as made:
            rig.driver.call("cuMemcpyHtoD_v2", rig.a.address, made.handle, 8)
            assert rig.a.read(8) == b"as it is"
    except BadCudaCall as error:
        return error.result
    return 0


def _address(memory: mmap.mmap) -> int:
    return int(ffi.cast("uintptr_t", ffi.from_buffer("char[]", memory)))


CHECKS: Final[tuple[Callable[[Rig], None], ...]] = (memory_is_registered_once, sealed_memory_is_registered_for_reading)


def main() -> int:
    """Checks the library given, or the one that `cuda.load` finds; 1 if anything is wrong."""
    found = outcomes(cuda.load(*sys.argv[1:2]), CHECKS)
    for name, outcome in found.items():
        sys.stdout.write(f"{name}\t{outcome}\n")
    return 0 if set(found.values()) == {"ok"} else 1


if __name__ == "__main__":
    raise SystemExit(main())
