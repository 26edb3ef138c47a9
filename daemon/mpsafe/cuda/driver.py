# SPDX-License-Identifier: Apache-2.0
"""One libcuda: the real one or the software one. The path is the only difference."""

import os
from collections.abc import Callable
from dataclasses import dataclass

from mpsafe.cuda._cuda import ffi
from mpsafe.errors import BadCudaCall, NoCudaDriver

__all__ = ["Device", "Driver", "load"]

# What a context answers for ever once it has failed; then nothing can be undone, and the driver
# frees all when the process ends (CUDA driver API manual, CUresult: "must be terminated").
_STICKY = frozenset({4, 214, 220, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 805, 806, 807, 810, 999})


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU as the driver API describes it. Memory in bytes; `uuid` is written as NVML does.

    `ordinal` is only good for calls of the process that asked: it depends on CUDA_VISIBLE_DEVICES.
    """

    uuid: str
    ordinal: int
    name: str
    pci: str
    total_bytes: int
    sms: int
    compute_capability: tuple[int, int]


class Driver:
    """The driver API behind one library. `load` makes one; `init` comes before all else.

    It holds no lock: libcuda is safe to call from several threads, but the current context belongs
    to a thread (`Context.make_current`). Do not fork after `init`: the child cannot use it.
    """

    def __init__(self, path: str) -> None:
        """Open the library. NoCudaDriver, with the loader's sentence, where that fails."""
        self.path = path
        try:
            self._library = ffi.dlopen(path)
        except OSError as error:
            raise NoCudaDriver(path, str(error)) from error

    def result(self, name: str, *arguments: object) -> int:
        """Call the symbol `name` of ffi/cuda.cdef.h and return its CUresult."""
        call: Callable[..., int] = getattr(self._library, name)
        return call(*arguments)

    def call(self, name: str, *arguments: object) -> None:
        """Call the symbol `name`; BadCudaCall if it returns anything but CUDA_SUCCESS."""
        result = self.result(name, *arguments)
        if result != 0:
            raise self._bad(name, result)

    def ready(self, name: str, *arguments: object) -> bool:
        """Call a query, `name`: False where it answers CUDA_ERROR_NOT_READY."""
        result = self.result(name, *arguments)
        if result not in (0, ffi.integer_const("CUDA_ERROR_NOT_READY")):
            raise self._bad(name, result)
        return result == 0

    def undo(self, name: str, *arguments: object) -> None:
        """Like `call`, but silent where the context or the driver has failed for good.

        So a `with` block ends quietly after a fault, and the error that was raised inside it stays
        the one that is seen.
        """
        result = self.result(name, *arguments)
        if result != 0 and result not in _STICKY:
            raise self._bad(name, result)

    def error_name(self, result: int) -> str:
        """The name of a CUresult, such as CUDA_ERROR_ILLEGAL_ADDRESS."""
        return self._error("cuGetErrorName", result, unknown="CUDA_ERROR")

    def error_text(self, result: int) -> str:
        """The driver's own words for a CUresult."""
        return self._error("cuGetErrorString", result, unknown="the driver has no text for it")

    def _bad(self, name: str, result: int) -> BadCudaCall:
        return BadCudaCall(call=name, result=result, name=self.error_name(result), text=self.error_text(result))

    def _error(self, name: str, result: int, *, unknown: str) -> str:
        text = ffi.new("const char **")
        return ffi.string(text[0]).decode() if self.result(name, result, text) == 0 else unknown

    def init(self) -> None:
        """Initialise the driver for this process. 100: no device; 805 to 808: MPS refused (`BadCudaCall.result`)."""
        self.call("cuInit", 0)

    def version(self) -> int:
        """The CUDA version that the driver serves: 12040 is 12.4. Needs no `init`."""
        version = ffi.new("int *")
        self.call("cuDriverGetVersion", version)
        return int(version[0])

    def devices(self) -> list[Device]:
        """Each device that this process may use, by ordinal."""
        count = ffi.new("int *")
        self.call("cuDeviceGetCount", count)
        return [self._device(ordinal) for ordinal in range(count[0])]

    def device(self, uuid: str) -> Device:
        """The device of that UUID; LookupError, which names those there are, if this process has none such."""
        found = self.devices()
        for device in found:
            if device.uuid == uuid:
                return device
        there = ", ".join(device.uuid for device in found) or "none"
        raise LookupError(f"no device has the UUID {uuid}; there are: {there}")

    def attribute(self, name: str, ordinal: int) -> int:
        """A device attribute by its name after CU_DEVICE_ATTRIBUTE_; MPS_ENABLED tells a client from a bypasser."""
        value = ffi.new("int *")
        self.call("cuDeviceGetAttribute", value, ffi.integer_const(f"CU_DEVICE_ATTRIBUTE_{name}"), ordinal)
        return int(value[0])

    def _device(self, ordinal: int) -> Device:
        handle = ffi.new("CUdevice *")
        self.call("cuDeviceGet", handle, ordinal)
        uuid = ffi.new("CUuuid *")
        self.call("cuDeviceGetUuid_v2", uuid, handle[0])
        name = ffi.new("char[256]")
        self.call("cuDeviceGetName", name, 256, handle[0])
        pci = ffi.new("char[32]")
        self.call("cuDeviceGetPCIBusId", pci, 32, handle[0])
        total = ffi.new("size_t *")
        self.call("cuDeviceTotalMem_v2", total, handle[0])
        return Device(
            uuid=_uuid(bytes(ffi.buffer(uuid))),
            ordinal=ordinal,
            name=ffi.string(name).decode(),
            pci=ffi.string(pci).decode(),
            total_bytes=int(total[0]),
            sms=self.attribute("MULTIPROCESSOR_COUNT", ordinal),
            compute_capability=(
                self.attribute("COMPUTE_CAPABILITY_MAJOR", ordinal),
                self.attribute("COMPUTE_CAPABILITY_MINOR", ordinal),
            ),
        )


def _uuid(value: bytes) -> str:
    digits = value.hex()
    return f"GPU-{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def load(path: str | None = None) -> Driver:
    """Open libcuda: `path`, else $MPSAFE_LIBCUDA, else what the loader finds as libcuda.so.1."""
    return Driver(path or os.environ.get("MPSAFE_LIBCUDA") or "libcuda.so.1")
