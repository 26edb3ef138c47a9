# SPDX-License-Identifier: Apache-2.0
"""What only the software libcuda.so.1 promises: a code for each wrong call, where the real one may do anything.

python check_soft_cuda.py       prints one line a check: name, a tab, "ok" or what was wrong
"""

import fcntl
import os
import struct
import sys
from collections.abc import Callable
from typing import Any, Final

from contract.check_cuda import Rig, outcomes
from mpsafe import cuda
from mpsafe.cuda._cuda import ffi

__all__ = ["CHECKS"]

_INVALID_VALUE, _OUT_OF_MEMORY, _INVALID_DEVICE, _INVALID_CONTEXT, _INVALID_HANDLE = 1, 2, 101, 201, 400
_NOT_SUPPORTED = 801
_POSIX_FD: Final = ffi.integer_const("CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR")


def properties(ordinal: int = 0, handle_types: int = _POSIX_FD) -> Any:
    wanted = ffi.new("CUmemAllocationProp *")
    wanted.type, wanted.location.type = 1, 1
    wanted.requestedHandleTypes, wanted.location.id = handle_types, ordinal
    return wanted


def descriptor(ordinal: int = 0, flags: int = 3) -> Any:
    wanted = ffi.new("CUmemAccessDesc *")
    wanted.location.type, wanted.location.id, wanted.flags = 1, ordinal, flags
    return wanted


def import_result(rig: Rig, fd: int) -> int:
    out = ffi.new("CUmemGenericAllocationHandle *")
    return rig.driver.result("cuMemImportFromShareableHandle", out, ffi.cast("void *", fd), _POSIX_FD)


def sealed(content: bytes, nbytes: int, *, seals: int = fcntl.F_SEAL_SHRINK) -> int:
    fd = os.memfd_create("other", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, nbytes)
    os.pwrite(fd, content, max(nbytes - 4096, 0))
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def null_outputs_are_refused(rig: Rig) -> None:
    null, address = ffi.NULL, rig.a.address
    for name, *arguments in (
        ("cuGetErrorName", 0, null),
        ("cuGetErrorString", 0, null),
        ("cuDriverGetVersion", null),
        ("cuDeviceGetCount", null),
        ("cuDeviceGetName", null, 8, 0),
        ("cuDevicePrimaryCtxRetain", null, 0),
        ("cuCtxGetDevice", null),
        ("cuStreamCreate", null, 0),
        ("cuEventCreate", null, 0),
        ("cuMemAlloc_v2", null, 1),
        ("cuMemcpyHtoD_v2", address, null, 1),
        ("cuMemCreate", null, rig.granule, properties(), 0),
        ("cuMemAddressReserve", null, rig.granule, 0, 0, 0),
        ("cuModuleGetFunction", null, rig.module.handle, b"trap"),
    ):
        assert rig.driver.result(name, *arguments) == _INVALID_VALUE, name


def destroyed_handles_are_refused(rig: Rig) -> None:
    call = rig.driver.result
    with cuda.Stream(rig.context) as stream, cuda.Event(rig.context) as event:
        gone_stream, gone_event = stream.handle, event.handle
    with cuda.Module(rig.context, cuda.kernels()) as module:
        function, gone_module = ffi.new("CUfunction *"), module.handle
        rig.driver.call("cuModuleGetFunction", function, gone_module, b"trap")
    assert call("cuStreamSynchronize", gone_stream) == _INVALID_HANDLE
    assert call("cuStreamDestroy_v2", gone_stream) == _INVALID_HANDLE
    assert call("cuEventRecord", gone_event, ffi.NULL) == _INVALID_HANDLE
    assert call("cuEventDestroy_v2", gone_event) == _INVALID_HANDLE
    assert call("cuModuleUnload", gone_module) == _INVALID_HANDLE
    assert call("cuLaunchKernel", function[0], 1, 1, 1, 1, 1, 1, 0, ffi.NULL, ffi.NULL, ffi.NULL) == _INVALID_HANDLE


def destroyed_contexts_are_refused(rig: Rig) -> None:
    context = ffi.new("CUcontext *")
    rig.driver.call("cuCtxCreate_v2", context, 0, 0)
    rig.driver.call("cuCtxDestroy_v2", context[0])
    assert rig.driver.result("cuCtxDestroy_v2", context[0]) == _INVALID_CONTEXT
    assert rig.driver.result("cuCtxSetCurrent", context[0]) == _INVALID_CONTEXT
    rig.driver.call("cuCtxGetCurrent", context)
    assert rig.driver.result("cuCtxDestroy_v2", context[0]) == _INVALID_CONTEXT, "a primary context was destroyed"


def a_context_takes_what_is_its_own_along(rig: Rig) -> None:
    before = rig.context.free_bytes()
    context, stream, address = ffi.new("CUcontext *"), ffi.new("CUstream *"), ffi.new("CUdeviceptr *")
    rig.driver.call("cuCtxCreate_v2", context, 0, 0)
    rig.driver.call("cuStreamCreate", stream, 1)
    rig.driver.call("cuMemAlloc_v2", address, 10 * rig.granule)
    function = ffi.new("CUfunction *")
    rig.driver.call("cuModuleGetFunction", function, rig.module.handle, b"trap")
    launch = (function[0], *[1] * 6, 0, stream[0], ffi.NULL, ffi.NULL)
    assert rig.driver.result("cuLaunchKernel", *launch) == _INVALID_HANDLE, "a foreign context's kernel was launched"
    rig.driver.call("cuModuleLoadData", ffi.new("CUmodule *"), ffi.new("char[]", cuda.kernels().encode()))
    rig.driver.call("cuMemsetD8Async", address[0], 1, 10 * rig.granule, stream[0])
    rig.driver.call("cuCtxDestroy_v2", context[0])
    assert rig.driver.result("cuStreamSynchronize", stream[0]) == _INVALID_HANDLE
    assert rig.driver.result("cuMemFree_v2", address[0]) == _INVALID_VALUE
    assert rig.context.free_bytes() == before


def a_context_ends_with_a_kernel_that_does_not(rig: Rig) -> None:
    context, module, function = ffi.new("CUcontext *"), ffi.new("CUmodule *"), ffi.new("CUfunction *")
    rig.a.write(bytes(4))
    rig.driver.call("cuCtxCreate_v2", context, 0, 0)
    rig.driver.call("cuModuleLoadData", module, ffi.new("char[]", cuda.kernels().encode()))
    rig.driver.call("cuModuleGetFunction", function, module[0], b"endless")
    flag = ffi.new("uint64_t *", rig.a.address)
    arguments = ffi.new("void *[]", [flag])
    rig.driver.call("cuLaunchKernel", function[0], 1, 1, 1, 1, 1, 1, 0, ffi.NULL, arguments, ffi.NULL)
    rig.driver.call("cuCtxDestroy_v2", context[0])
    rig.context.synchronize()


def wrong_launches_are_refused(rig: Rig) -> None:
    function = ffi.new("CUfunction *")
    rig.driver.call("cuModuleGetFunction", function, rig.module.handle, b"endless")
    for grid, block, expected in ((0, 1, _INVALID_VALUE), (1, 0, _INVALID_VALUE), (1, 1025, _INVALID_VALUE)):
        geometry = (grid, 1, 1, block, 1, 1)
        assert rig.driver.result("cuLaunchKernel", function[0], *geometry, 0, *[ffi.NULL] * 3) == expected
    extra = ffi.new("void *[1]")
    assert rig.driver.result("cuLaunchKernel", function[0], *[1] * 6, 0, *[ffi.NULL] * 2, extra) == _NOT_SUPPORTED
    assert rig.driver.result("cuLaunchKernel", function[0], *[1] * 6, 0, *[ffi.NULL] * 3) == _INVALID_VALUE


def machine_code_is_refused(rig: Rig) -> None:
    assert rig.driver.result("cuModuleLoadData", ffi.new("CUmodule *"), ffi.new("char[]", b"\x7fELF\x02")) == 209
    commented = "// .entry a\n/* .entry b */ .version 6.4 .entry trap ( ) { } // .entry c"
    with cuda.Module(rig.context, commented) as module:
        module.kernel("trap")
        for name in (b"a", b"b", b"c", b"tra", b"trapp", b""):
            assert rig.driver.result("cuModuleGetFunction", ffi.new("CUfunction *"), module.handle, name) == 500, name


def plain_memory_has_no_handle(rig: Rig) -> None:
    call, at = rig.driver.result, rig.a.address
    out = ffi.new("CUmemGenericAllocationHandle *")
    assert call("cuMemRetainAllocationHandle", out, ffi.cast("void *", at)) == _INVALID_VALUE
    assert call("cuMemUnmap", at, rig.granule) == _INVALID_VALUE
    assert call("cuMemAddressFree", at, rig.granule) == _INVALID_VALUE
    assert call("cuMemFree_v2", at + 8) == _INVALID_VALUE
    buffer = cuda.Buffer(rig.context, 1)
    rig.driver.call("cuMemFree_v2", buffer.address)
    assert call("cuMemFree_v2", buffer.address) == _INVALID_VALUE


def host_memory_is_a_device_address_too(rig: Rig) -> None:
    with cuda.HostBuffer(rig.context, 4096) as host:
        at = int(ffi.cast("uintptr_t", host.handle))
        rig.module.kernel("fill").launch(cuda.U64(at), cuda.U64(2), cuda.U32(9), threads=2)
        rig.context.synchronize()
        assert bytes(host.view()[:12]) == struct.pack("III", 9, 9, 0)
    assert rig.driver.result("cuMemFreeHost", ffi.cast("void *", at)) == _INVALID_VALUE


def creation_wants_whole_granules_of_a_device(rig: Rig) -> None:
    def create(nbytes: int, wanted: object, flags: int = 0) -> int:
        return rig.driver.result("cuMemCreate", ffi.new("CUmemGenericAllocationHandle *"), nbytes, wanted, flags)

    managed = properties()
    managed.type = 2
    host = properties()
    host.location.type = 2
    assert create(rig.granule + 4096, properties()) == _INVALID_VALUE
    assert create(0, properties()) == _INVALID_VALUE
    assert create(rig.granule, properties(), 1) == _INVALID_VALUE
    assert create(rig.granule, managed) == _INVALID_VALUE
    assert create(rig.granule, host) == _INVALID_VALUE
    assert create(rig.granule, properties(ordinal=9)) == _INVALID_DEVICE
    assert create(rig.granule, properties(handle_types=8)) == _NOT_SUPPORTED
    assert create(1 << 60, properties()) == _OUT_OF_MEMORY


def the_device_is_charged_until_the_last_holder_lets_go(rig: Rig) -> None:
    free, granule = rig.context.free_bytes(), rig.granule
    half = free // 2 // granule * granule
    with cuda.Memory.create(rig.driver, rig.device, half) as memory:
        assert rig.context.free_bytes() == free - half
        out = ffi.new("CUmemGenericAllocationHandle *")
        assert rig.driver.result("cuMemCreate", out, free - half + granule, properties(), 0) == _OUT_OF_MEMORY
        fd = memory.export()
        with cuda.Memory.import_fd(rig.driver, fd, half):
            assert rig.context.free_bytes() == free - half
        os.close(fd)
        with cuda.Reservation(rig.context, half) as place:
            place.map(memory)
            memory.close()
            assert rig.context.free_bytes() == free - half
    assert rig.context.free_bytes() == free


def reservations_follow_hint_and_alignment(rig: Rig) -> None:
    with cuda.Reservation(rig.context, rig.granule) as first:
        hint = first.address
        with cuda.Reservation(rig.context, rig.granule, hint=hint) as second:
            assert second.address != hint
    with cuda.Reservation(rig.context, rig.granule, hint=hint) as again:
        assert again.address == hint
    out = ffi.new("CUdeviceptr *")
    rig.driver.call("cuMemAddressReserve", out, rig.granule, 1 << 30, 0, 0)
    assert out[0] % (1 << 30) == 0
    rig.driver.call("cuMemAddressFree", out[0], rig.granule)
    for nbytes, alignment, flags in ((0, 0, 0), (4096, 0, 0), (rig.granule, 3, 0), (rig.granule, 0, 1)):
        assert rig.driver.result("cuMemAddressReserve", out, nbytes, alignment, 0, flags) == _INVALID_VALUE


def mappings_are_whole(rig: Rig) -> None:
    call, granule = rig.driver.result, rig.granule
    with (
        cuda.Memory.create(rig.driver, rig.device, granule) as memory,
        cuda.Reservation(rig.context, 4 * granule) as place,
    ):
        at, handle = place.address, memory.handle
        assert call("cuMemMap", at, granule, granule, handle, 0) == _INVALID_VALUE, "an offset"
        assert call("cuMemMap", at, 2 * granule, 0, handle, 0) == _INVALID_VALUE, "more than there is"
        assert call("cuMemMap", at + 4096, granule, 0, handle, 0) == _INVALID_VALUE, "not aligned"
        assert call("cuMemMap", at + 4 * granule, granule, 0, handle, 0) == _INVALID_VALUE, "not reserved"
        assert call("cuMemMap", at, granule, 0, 424242, 0) == _INVALID_VALUE, "no such handle"
        assert call("cuMemSetAccess", at, granule, descriptor(), 1) == _INVALID_VALUE, "not mapped"
        for offset in (0, granule):
            rig.driver.call("cuMemMap", at + offset, granule, 0, handle, 0)
        assert call("cuMemAddressFree", at, 4 * granule) == _INVALID_VALUE, "still mapped"
        assert call("cuMemSetAccess", at, granule // 2, descriptor(), 1) == _INVALID_VALUE, "a part"
        assert call("cuMemSetAccess", at, granule, descriptor(flags=2), 1) == _INVALID_VALUE, "write only"
        assert call("cuMemSetAccess", at, granule, descriptor(ordinal=9), 1) == _INVALID_DEVICE
        assert call("cuMemSetAccess", at, 3 * granule, descriptor(), 1) == _INVALID_VALUE, "a gap"
        assert call("cuMemSetAccess", at, 2 * granule, descriptor(), 1) == 0
        assert call("cuMemUnmap", at, 2 * granule) == 0
        assert call("cuMemAddressFree", at, granule) == _INVALID_VALUE, "a part"
    assert call("cuMemAddressFree", at, 4 * granule) == _INVALID_VALUE, "twice"
    assert call("cuMemRelease", handle) == _INVALID_VALUE, "twice"


def a_descriptor_is_checked(rig: Rig) -> None:
    with cuda.Memory.create(rig.driver, rig.device, rig.granule) as memory:
        good = memory.export()
        assert import_result(rig, good) == 0
        assert not os.get_inheritable(good)
        label = os.pread(good, 4096, rig.granule)
        for nbytes in (rig.granule, 2 * rig.granule):
            try:
                os.ftruncate(good, nbytes)
            except PermissionError:
                continue
            raise AssertionError(f"its size was changed to {nbytes}")
        os.close(good)
    liar = struct.pack("32s16sQ", b"mpsafe software GPU memory 1", bytes(16), rig.granule)
    read_end, write_end = os.pipe()
    strangers = {
        "a pipe": read_end,
        "the other end of a pipe": write_end,
        "a device": os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC),
        "too small": sealed(b"", 100),
        "without a label": sealed(b"", rig.granule + 4096),
        "of a device that is not here": sealed(liar, rig.granule + 4096),
        "longer than its label says": sealed(label, 2 * rig.granule + 4096),
        "not sealed": sealed(label, rig.granule + 4096, seals=fcntl.F_SEAL_GROW),
    }
    for what, fd in strangers.items():
        assert import_result(rig, fd) == _INVALID_VALUE, what
        os.close(fd)
    assert import_result(rig, write_end) == _INVALID_VALUE, "closed"
    assert import_result(rig, -1) == _INVALID_VALUE


def what_was_not_made_for_export_stays(rig: Rig) -> None:
    out, fd, back = ffi.new("CUmemGenericAllocationHandle *"), ffi.new("int *"), ffi.new("CUmemAllocationProp *")
    rig.driver.call("cuMemCreate", out, rig.granule, properties(handle_types=0), 0)
    assert rig.driver.result("cuMemExportToShareableHandle", fd, out[0], _POSIX_FD, 0) == _INVALID_VALUE
    rig.driver.call("cuMemGetAllocationPropertiesFromHandle", back, out[0])
    assert back.requestedHandleTypes == 0
    rig.driver.call("cuMemRelease", out[0])


CHECKS: Final[tuple[Callable[[Rig], None], ...]] = (
    null_outputs_are_refused,
    destroyed_handles_are_refused,
    destroyed_contexts_are_refused,
    a_context_takes_what_is_its_own_along,
    a_context_ends_with_a_kernel_that_does_not,
    wrong_launches_are_refused,
    machine_code_is_refused,
    plain_memory_has_no_handle,
    host_memory_is_a_device_address_too,
    creation_wants_whole_granules_of_a_device,
    the_device_is_charged_until_the_last_holder_lets_go,
    reservations_follow_hint_and_alignment,
    mappings_are_whole,
    a_descriptor_is_checked,
    what_was_not_made_for_export_stays,
)


def main() -> int:
    """Checks the library that `cuda.load` finds; 1 if anything is wrong."""
    found = outcomes(cuda.load(), CHECKS)
    for name, outcome in found.items():
        sys.stdout.write(f"{name}\t{outcome}\n")
    return 0 if set(found.values()) == {"ok"} else 1


if __name__ == "__main__":
    raise SystemExit(main())
