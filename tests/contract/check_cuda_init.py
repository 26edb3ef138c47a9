# SPDX-License-Identifier: Apache-2.0
"""How any libcuda.so.1 answers before cuInit, and where there is no device.

    python check_cuda_init.py [LIBRARY]     prints one line a check: name, a tab, "ok" or what was wrong

For a process that sees no device. Calibrated on the real library of 535.261.03 without a GPU.
"""

import sys
from collections.abc import Callable
from typing import Final

from mpsafe import cuda
from mpsafe.cuda._cuda import ffi

__all__ = ["CHECKS", "check_cuda_init"]

_INVALID_VALUE, _NOT_INITIALIZED, _NO_DEVICE = 1, 3, 100
_ROOM: Final = ffi.new("char[4096]")


def calls() -> dict[str, tuple[object, ...]]:
    """Each kind of call that needs cuInit, with arguments that are no reason to refuse it."""
    some = ffi.cast("void *", _ROOM)
    return {
        "cuDeviceGetCount": (ffi.cast("int *", some),),
        "cuDeviceGet": (ffi.cast("int *", some), 0),
        "cuDeviceGetName": (_ROOM, 64, 0),
        "cuDeviceTotalMem_v2": (ffi.cast("size_t *", some), 0),
        "cuDevicePrimaryCtxRetain": (ffi.cast("CUcontext *", some), 0),
        "cuDevicePrimaryCtxRelease_v2": (0,),
        "cuCtxCreate_v2": (ffi.cast("CUcontext *", some), 0, 0),
        "cuCtxSetCurrent": (ffi.NULL,),
        "cuCtxGetCurrent": (ffi.cast("CUcontext *", some),),
        "cuCtxSynchronize": (),
        "cuStreamCreate": (ffi.cast("CUstream *", some), 0),
        "cuStreamSynchronize": (ffi.NULL,),
        "cuEventCreate": (ffi.cast("CUevent *", some), 0),
        "cuMemGetInfo_v2": (ffi.cast("size_t *", some), ffi.cast("size_t *", some)),
        "cuMemAlloc_v2": (ffi.cast("CUdeviceptr *", some), 1),
        "cuMemFree_v2": (1,),
        "cuMemcpyHtoD_v2": (1, some, 1),
        "cuMemsetD8_v2": (1, 1, 1),
        "cuMemGetAllocationGranularity": (ffi.cast("size_t *", some), ffi.cast("CUmemAllocationProp *", some), 0),
        "cuMemCreate": (
            ffi.cast("CUmemGenericAllocationHandle *", some),
            1,
            ffi.cast("CUmemAllocationProp *", some),
            0,
        ),
        "cuMemRelease": (1,),
        "cuMemAddressReserve": (ffi.cast("CUdeviceptr *", some), 1, 0, 0, 0),
        "cuMemMap": (1, 1, 0, 1, 0),
        "cuMemUnmap": (1, 1),
        "cuMemExportToShareableHandle": (some, 1, 1, 0),
        "cuMemImportFromShareableHandle": (ffi.cast("CUmemGenericAllocationHandle *", some), some, 1),
        "cuModuleLoadData": (ffi.cast("CUmodule *", some), some),
    }


def refused(driver: cuda.Driver) -> None:
    """Each of the calls returns CUDA_ERROR_NOT_INITIALIZED."""
    answers = {name: driver.result(name, *arguments) for name, arguments in calls().items()}
    assert set(answers.values()) == {_NOT_INITIALIZED}, answers


def all_is_refused_before_init(driver: cuda.Driver) -> None:
    refused(driver)


def some_calls_need_no_init(driver: cuda.Driver) -> None:
    assert driver.version() >= 12000
    assert driver.result("cuDriverGetVersion", ffi.NULL) == _INVALID_VALUE
    assert driver.error_name(806) == "CUDA_ERROR_MPS_RPC_FAILURE"
    function = ffi.new("void **", ffi.cast("void *", 77))
    assert driver.result("cuGetProcAddress", b"cuNobody", function, 12000, 0) == 500
    assert int(ffi.cast("uintptr_t", function[0])) == 77
    assert driver.result("cuGetProcAddress", b"cuInit", function, 12000, 0) == 0


def init_finds_no_device_again_and_again(driver: cuda.Driver) -> None:
    assert driver.result("cuInit", 1) == _INVALID_VALUE
    assert [driver.result("cuInit", 0) for _ in range(3)] == [_NO_DEVICE] * 3


def all_is_refused_after_a_failed_init(driver: cuda.Driver) -> None:
    assert driver.result("cuInit", 0) == _NO_DEVICE
    refused(driver)


CHECKS: Final[tuple[Callable[[cuda.Driver], None], ...]] = (
    all_is_refused_before_init,
    some_calls_need_no_init,
    init_finds_no_device_again_and_again,
    all_is_refused_after_a_failed_init,
)


def check_cuda_init(driver: cuda.Driver) -> dict[str, str]:
    """Runs all checks, in order: by name "ok", or what was wrong."""
    found: dict[str, str] = {}
    for check in CHECKS:
        try:
            check(driver)
        except AssertionError as error:
            found[check.__name__] = repr(error)
        else:
            found[check.__name__] = "ok"
    return found


def main() -> int:
    """Checks the library given, or the one that `cuda.load` finds; 1 if anything is wrong."""
    found = check_cuda_init(cuda.load(*sys.argv[1:2]))
    for name, outcome in found.items():
        sys.stdout.write(f"{name}\t{outcome}\n")
    return 0 if set(found.values()) == {"ok"} else 1


if __name__ == "__main__":
    raise SystemExit(main())
