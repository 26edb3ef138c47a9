# SPDX-License-Identifier: Apache-2.0
"""What mpsafe relies on of the CUDA driver API, for any libcuda.so.1: the real one and the software one.

    python check_cuda.py [LIBRARY]      prints one line a check: name, a tab, "ok" or what was wrong

It uses the first device, a few MiB of it, and ends no context. What faults is in
check_cuda_faults.py, what needs two processes in check_cuda_sharing.py, larger kernels in
check_cuda_kernels.py.
"""

import re
import struct
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Final

from mpsafe import cuda
from mpsafe.cuda._cuda import ffi
from mpsafe.errors import BadCudaCall

__all__ = ["CHECKS", "Rig", "check_cuda", "floats", "outcomes"]

_INVALID_VALUE, _INVALID_CONTEXT, _NOT_FOUND = 1, 201, 500
_ACCESS: Final[dict[cuda.Access, int]] = {"read": 1, "readwrite": 3}


class Rig:
    """A context on the first device, with the project's kernels and two buffers of 64 KiB."""

    def __init__(self, driver: cuda.Driver, stack: ExitStack) -> None:
        self.driver = driver
        self.device = driver.devices()[0]
        self.context = stack.enter_context(cuda.Context(driver, self.device))
        self.module = stack.enter_context(cuda.Module(self.context, cuda.kernels()))
        self.a = stack.enter_context(cuda.Buffer(self.context, 1 << 16))
        self.b = stack.enter_context(cuda.Buffer(self.context, 1 << 16))
        self.granule = cuda.granularity(driver, self.device)


def floats(*values: float) -> bytes:
    return struct.pack(f"{len(values)}f", *values)


def device_is_described(rig: Rig) -> None:
    device = rig.device
    assert re.fullmatch(r"GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", device.uuid), device
    assert re.fullmatch(r"[0-9A-Fa-f]{4}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.0", device.pci), device
    assert device.name and device.sms > 0 and device.total_bytes > 1 << 27, device
    assert device.compute_capability >= (7, 0), "kernels.ptx wants sm_70"
    assert rig.driver.device(device.uuid) == device
    assert rig.driver.attribute("WARP_SIZE", device.ordinal) == 32
    for wanted in ("UNIFIED_ADDRESSING", "VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED"):
        assert rig.driver.attribute(wanted, device.ordinal) == 1, wanted
    assert rig.driver.attribute("HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED", device.ordinal) == 1


def unknown_device_is_refused(rig: Rig) -> None:
    assert rig.driver.result("cuDeviceGet", ffi.new("CUdevice *"), 99) == 101
    assert rig.driver.result("cuDeviceGetAttribute", ffi.new("int *"), 100000, 0) == _INVALID_VALUE


def errors_have_names_and_texts(rig: Rig) -> None:
    for result, name in (
        (0, "CUDA_SUCCESS"),
        (700, "CUDA_ERROR_ILLEGAL_ADDRESS"),
        (807, "CUDA_ERROR_MPS_SERVER_NOT_READY"),
    ):
        assert rig.driver.error_name(result) == name
        assert " " in rig.driver.error_text(result)
    assert rig.driver.result("cuGetErrorName", 123456, ffi.new("const char **")) == _INVALID_VALUE


def symbols_are_found_by_name(rig: Rig) -> None:
    function, status = ffi.new("void **"), ffi.new("int *", -1)
    for ask in ("cuGetProcAddress", "cuGetProcAddress_v2"):
        more = (status,) if ask.endswith("v2") else ()
        assert rig.driver.result(ask, b"cuMemCreate", function, 12000, 0, *more) == 0
        assert function[0]
    assert status[0] == 0
    assert rig.driver.result("cuGetProcAddress", b"cuNobody", function, 12000, 0) == _NOT_FOUND
    assert rig.driver.result("cuGetProcAddress_v2", b"cuNobody", function, 12000, 0, status) == 0
    assert status[0] == 1 and not function[0]


def init_is_repeatable(rig: Rig) -> None:
    assert rig.driver.result("cuInit", 1) == _INVALID_VALUE
    rig.driver.init()
    assert rig.driver.version() >= 12000


def primary_context_is_shared(rig: Rig) -> None:
    with cuda.Context(rig.driver, rig.device):
        rig.a.write(b"through either")
        assert rig.a.read(14) == b"through either"
    assert rig.driver.result("cuCtxSynchronize") == _INVALID_CONTEXT
    rig.context.make_current()
    rig.context.synchronize()
    flags, active = ffi.new("unsigned int *"), ffi.new("int *")
    rig.driver.call("cuDevicePrimaryCtxGetState", rig.device.ordinal, flags, active)
    assert active[0] == 1


def contexts_nest(rig: Rig) -> None:
    outer, inner, now = (ffi.new("CUcontext *") for _ in range(3))
    rig.driver.call("cuCtxGetCurrent", outer)
    rig.driver.call("cuCtxCreate_v2", inner, 0, rig.device.ordinal)
    rig.driver.call("cuCtxGetCurrent", now)
    assert now[0] == inner[0]
    device = ffi.new("CUdevice *", -1)
    rig.driver.call("cuCtxGetDevice", device)
    assert device[0] == rig.device.ordinal
    rig.driver.call("cuCtxDestroy_v2", inner[0])
    rig.driver.call("cuCtxGetCurrent", now)
    assert now[0] == outer[0]


def memory_is_counted(rig: Rig) -> None:
    before = rig.context.free_bytes()
    with cuda.Buffer(rig.context, 64 << 20):
        assert rig.context.free_bytes() <= before - (64 << 20)
    assert rig.context.free_bytes() > before - (64 << 20)


def too_much_memory_is_refused(rig: Rig) -> None:
    assert rig.driver.result("cuMemAlloc_v2", ffi.new("CUdeviceptr *"), rig.device.total_bytes * 2) == 2
    assert rig.driver.result("cuMemAlloc_v2", ffi.new("CUdeviceptr *"), 0) == _INVALID_VALUE


def copies_keep_every_byte(rig: Rig) -> None:
    data = bytes(range(256)) * 256
    rig.a.write(data)
    rig.b.copy_from(rig.a)
    assert rig.b.read() == data
    rig.b.write(b"middle", offset=300)
    assert rig.b.read(8, offset=299) == data[299:300] + b"middle" + data[306:307]
    rig.driver.call("cuMemcpyDtoD_v2", rig.b.address + 4, rig.a.address, 4)
    assert rig.b.read(8) == data[:4] + data[:4]


def fills_have_a_width(rig: Rig) -> None:
    rig.a.fill(0x5A)
    assert rig.a.read() == b"\x5a" * rig.a.nbytes
    rig.driver.call("cuMemsetD8_v2", rig.a.address + 1, 1, 2)
    rig.driver.call("cuMemsetD32_v2", rig.a.address + 4, 0x01020304, 2)
    rig.driver.call("cuMemsetD32Async", rig.a.address + 12, 0xFFFFFFFF, 1, ffi.NULL)
    rig.context.synchronize()
    assert rig.a.read(20) == b"\x5a\x01\x01\x5a" + struct.pack("II", 0x01020304, 0x01020304) + b"\xff" * 4 + b"\x5a" * 4


def bad_addresses_are_refused_by_synchronous_calls(rig: Rig) -> None:
    host = ffi.new("char[16]")
    with cuda.Reservation(rig.context, rig.granule) as nothing:
        for bad in (0, nothing.address):
            assert rig.driver.result("cuMemcpyHtoD_v2", bad, host, 16) == _INVALID_VALUE, hex(bad)
            assert rig.driver.result("cuMemcpyDtoH_v2", host, bad, 16) == _INVALID_VALUE, hex(bad)
            assert rig.driver.result("cuMemsetD8_v2", bad, 0, 16) == _INVALID_VALUE, hex(bad)
        kind = ffi.new("unsigned int *")
        memory_type = ffi.integer_const("CU_POINTER_ATTRIBUTE_MEMORY_TYPE")
        rig.driver.call("cuPointerGetAttribute", kind, memory_type, rig.a.address)
        assert kind[0] == ffi.integer_const("CU_MEMORYTYPE_DEVICE")
    rig.context.synchronize()


def streams_keep_their_order(rig: Rig) -> None:
    with (
        cuda.Stream(rig.context) as first,
        cuda.Stream(rig.context) as second,
        cuda.Event(rig.context) as ready,
        cuda.HostBuffer(rig.context, 1024) as source,
        cuda.HostBuffer(rig.context, 1024) as target,
    ):
        for number in range(20):
            source.view()[:] = bytes([number]) * 1024
            rig.a.write_async(source, stream=first)
            rig.b.copy_from(cuda.Span(rig.context, rig.a.address, 1024), stream=first)
            ready.record(first)
            second.wait(ready)
            rig.b.read_async(target, stream=second)
            second.synchronize()
            assert bytes(target.view()) == bytes([number]) * 1024


def events_tell_the_time(rig: Rig) -> None:
    with cuda.Stream(rig.context) as stream, cuda.Event(rig.context) as start, cuda.Event(rig.context) as end:
        assert start.reached()
        start.record(stream)
        rig.a.fill(1, stream=stream)
        end.record(stream)
        end.synchronize()
        assert start.reached() and end.reached()
        assert 0 <= end.elapsed_ms(start) < 60000


def a_running_kernel_can_be_seen_and_told_to_end(rig: Rig) -> None:
    with cuda.Stream(rig.context) as stream, cuda.Event(rig.context) as end:
        rig.a.write(bytes(4))
        rig.module.kernel("endless").launch(cuda.U64(rig.a.address), stream=stream)
        end.record(stream)
        assert not stream.idle()
        assert not end.reached()
        rig.a.write(struct.pack("I", 1))
        stream.synchronize()
        assert stream.idle() and end.reached()


def affine_is_exact(rig: Rig) -> None:
    rig.a.write(floats(*range(1000)))
    rig.b.fill(0)
    arguments = (cuda.U64(rig.b.address), cuda.U64(rig.a.address), cuda.U32(999), cuda.F32(0.5), cuda.F32(-3))
    rig.module.kernel("affine").launch(*arguments, threads=1000)
    assert rig.b.read(4000) == floats(*(0.5 * i - 3 for i in range(999)), 0)


def matvec_rounds_once_a_column(rig: Rig) -> None:
    rows, columns = 3, 5
    w = [[1 + 2.0**-20 * (row + column) for column in range(columns)] for row in range(rows)]
    x = [1.0 / (column + 1) for column in range(columns)]
    rig.a.write(b"".join(floats(*row) for row in w))
    rig.a.write(floats(*x), offset=4096)
    arguments = (cuda.U64(rig.b.address), cuda.U64(rig.a.address), cuda.U64(rig.a.address + 4096))
    rig.module.kernel("matvec").launch(*arguments, cuda.U32(rows), cuda.U32(columns), threads=rows)
    expected: list[float] = []
    for row in w:
        total = 0.0
        for weight, value in zip(struct.unpack("5f", floats(*row)), struct.unpack("5f", floats(*x)), strict=True):
            (total,) = struct.unpack("f", floats(weight * value + total))
        expected.append(total)
    assert rig.b.read(12) == floats(*expected)


def fill_writes_what_it_has_threads_for(rig: Rig) -> None:
    rig.a.fill(0)
    rig.module.kernel("fill").launch(cuda.U64(rig.a.address), cuda.U64(100), cuda.U32(7), threads=64, block=32)
    assert rig.a.read(400) == struct.pack("I", 7) * 64 + bytes(144)


def addresses_can_be_probed(rig: Rig) -> None:
    rig.module.kernel("write_address").launch(cuda.U64(rig.a.address + 8), cuda.U32(0xABCD))
    rig.module.kernel("read_address").launch(cuda.U64(rig.a.address + 8), cuda.U64(rig.b.address))
    rig.context.synchronize()
    assert rig.b.read(4) == struct.pack("I", 0xABCD)


def unknown_kernels_and_texts_are_refused(rig: Rig) -> None:
    function = ffi.new("CUfunction *")
    assert rig.driver.result("cuModuleGetFunction", function, rig.module.handle, b"nobody") == _NOT_FOUND
    assert rig.driver.result("cuModuleLoadData", ffi.new("CUmodule *"), ffi.new("char[]", b"no kernel")) in (200, 218)


def memory_can_move_between_addresses(rig: Rig) -> None:
    with (
        cuda.Memory.create(rig.driver, rig.device, rig.granule) as memory,
        cuda.Reservation(rig.context, 2 * rig.granule) as place,
    ):
        assert rig.granule & (rig.granule - 1) == 0 and place.address % rig.granule == 0
        assert memory.device_ordinal() == rig.device.ordinal
        place.map(memory)
        place.set_access("readwrite")
        place.write(b"moves along")
        place.unmap()
        place.map(memory, offset=rig.granule)
        place.set_access("read", offset=rig.granule)
        assert place.read(11, offset=rig.granule) == b"moves along"


def one_memory_can_have_two_addresses(rig: Rig) -> None:
    with (
        cuda.Memory.create(rig.driver, rig.device, rig.granule) as memory,
        cuda.Reservation(rig.context, 2 * rig.granule) as place,
    ):
        for offset in (0, rig.granule):
            place.map(memory, offset=offset)
            place.set_access("readwrite", offset=offset)
        fill = rig.module.kernel("fill")
        fill.launch(cuda.U64(place.address), cuda.U64(16), cuda.U32(0x01010101), threads=16)
        rig.context.synchronize()
        assert place.read(64, offset=rig.granule) == b"\x01" * 64


def mapped_memory_outlives_its_handle(rig: Rig) -> None:
    with cuda.Reservation(rig.context, rig.granule) as place:
        with cuda.Memory.create(rig.driver, rig.device, rig.granule) as memory:
            place.map(memory)
        place.set_access("readwrite")
        place.write(b"still here")
        assert place.read(10) == b"still here"
        handle = ffi.new("CUmemGenericAllocationHandle *")
        rig.driver.call("cuMemRetainAllocationHandle", handle, ffi.cast("void *", place.address))
        rig.driver.call("cuMemRelease", handle[0])


def access_is_told(rig: Rig) -> None:
    location, flags = ffi.new("CUmemLocation *"), ffi.new("unsigned long long *", 99)
    location.type, location.id = 1, rig.device.ordinal
    with (
        cuda.Memory.create(rig.driver, rig.device, rig.granule) as memory,
        cuda.Reservation(rig.context, rig.granule) as place,
    ):
        place.map(memory)
        for access, number in _ACCESS.items():
            place.set_access(access)
            rig.driver.call("cuMemGetAccess", flags, location, place.address)
            assert flags[0] == number, access


def virtual_memory_calls_have_an_order(rig: Rig) -> None:
    call = rig.driver.result
    with (
        cuda.Memory.create(rig.driver, rig.device, 2 * rig.granule) as memory,
        cuda.Reservation(rig.context, 2 * rig.granule) as place,
    ):
        place.map(memory)
        again = call("cuMemMap", place.address, place.nbytes, 0, memory.handle, 0)
        half = call("cuMemUnmap", place.address, rig.granule)
        assert (again, half) == (_INVALID_VALUE, _INVALID_VALUE), (again, half)
        place.unmap()
    assert call("cuMemCreate", ffi.new("CUmemGenericAllocationHandle *"), 1, ffi.NULL, 0) == _INVALID_VALUE


CHECKS: Final[tuple[Callable[[Rig], None], ...]] = (
    device_is_described,
    unknown_device_is_refused,
    errors_have_names_and_texts,
    symbols_are_found_by_name,
    init_is_repeatable,
    primary_context_is_shared,
    contexts_nest,
    memory_is_counted,
    too_much_memory_is_refused,
    copies_keep_every_byte,
    fills_have_a_width,
    bad_addresses_are_refused_by_synchronous_calls,
    streams_keep_their_order,
    events_tell_the_time,
    a_running_kernel_can_be_seen_and_told_to_end,
    affine_is_exact,
    matvec_rounds_once_a_column,
    fill_writes_what_it_has_threads_for,
    addresses_can_be_probed,
    unknown_kernels_and_texts_are_refused,
    memory_can_move_between_addresses,
    one_memory_can_have_two_addresses,
    mapped_memory_outlives_its_handle,
    access_is_told,
    virtual_memory_calls_have_an_order,
)


def outcomes(driver: cuda.Driver, checks: Sequence[Callable[[Rig], None]]) -> dict[str, str]:
    """Runs the checks on one rig: by name "ok", or what was wrong. BadCudaCall where the driver cannot be used."""
    found: dict[str, str] = {}
    driver.init()
    with ExitStack() as stack:
        rig = Rig(driver, stack)
        for check in checks:
            try:
                check(rig)
            except (AssertionError, BadCudaCall) as error:
                at = error.__traceback__.tb_next if error.__traceback__ else None
                found[check.__name__] = f"line {at.tb_lineno if at else 0}: {error!r}"
            else:
                found[check.__name__] = "ok"
    return found


def check_cuda(driver: cuda.Driver) -> dict[str, str]:
    """Runs all checks of this module."""
    return outcomes(driver, CHECKS)


def main() -> int:
    """Checks the library given, or the one that `cuda.load` finds; 1 if anything is wrong."""
    found = check_cuda(cuda.load(*sys.argv[1:2]))
    for name, outcome in found.items():
        sys.stdout.write(f"{name}\t{outcome}\n")
    return 0 if set(found.values()) == {"ok"} else 1


if __name__ == "__main__":
    raise SystemExit(main())
