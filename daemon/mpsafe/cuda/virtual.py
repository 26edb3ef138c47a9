# SPDX-License-Identifier: Apache-2.0
"""CUDA's virtual memory management: memory without an address, addresses without memory.

`Memory` is physical and can be given to another process as a file descriptor; it lives as long as
any handle, mapping or descriptor of it does, whoever made it. A `Reservation` is a range of
addresses to map it into. Sizes and offsets are in bytes, multiples of `granularity`.
"""

from typing import ClassVar, Literal, TypeAlias

from typing_extensions import override

from mpsafe.cuda._cuda import ffi
from mpsafe.cuda.context import Context
from mpsafe.cuda.driver import Device, Driver
from mpsafe.cuda.memory import Span
from mpsafe.cuda.owned import Handle, Owned

__all__ = ["Access", "Memory", "Reservation", "granularity"]

Access: TypeAlias = Literal["none", "read", "readwrite"]

_POSIX_FD = ffi.integer_const("CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR")
_ON_DEVICE = ffi.integer_const("CU_MEM_LOCATION_TYPE_DEVICE")
_ACCESS: dict[Access, int] = {
    "none": ffi.integer_const("CU_MEM_ACCESS_FLAGS_PROT_NONE"),
    "read": ffi.integer_const("CU_MEM_ACCESS_FLAGS_PROT_READ"),
    "readwrite": ffi.integer_const("CU_MEM_ACCESS_FLAGS_PROT_READWRITE"),
}


def granularity(driver: Driver, device: Device) -> int:
    """What sizes, offsets and addresses have to be multiples of."""
    return _granularity(driver, device.ordinal)


class Memory(Handle):
    """Physical device memory by handle. Closing drops the handle, not what is mapped or exported."""

    undo: ClassVar[str] = "cuMemRelease"

    def __init__(self, driver: Driver, handle: int, nbytes: int) -> None:
        super().__init__(driver, handle)
        self.nbytes = nbytes

    @classmethod
    def create(cls, driver: Driver, device: Device, nbytes: int) -> "Memory":
        """New memory that can be exported. BadCudaCall 2: the device has not that much left."""
        out = ffi.new("CUmemGenericAllocationHandle *")
        driver.call("cuMemCreate", out, nbytes, _properties(device.ordinal), 0)
        return cls(driver, int(out[0]), nbytes)

    @classmethod
    def import_fd(cls, driver: Driver, fd: int, nbytes: int) -> "Memory":
        """Memory that another process exported; the descriptor stays the caller's.

        The driver has no call that tells the size of a handle: `nbytes` is what the exporter says,
        and mapping more than there is fails.
        """
        out = ffi.new("CUmemGenericAllocationHandle *")
        driver.call("cuMemImportFromShareableHandle", out, ffi.cast("void *", fd), _POSIX_FD)
        return cls(driver, int(out[0]), nbytes)

    @classmethod
    def at(cls, driver: Driver, address: int, nbytes: int) -> "Memory":
        """The memory that is mapped at an address of this process, once more by handle."""
        out = ffi.new("CUmemGenericAllocationHandle *")
        driver.call("cuMemRetainAllocationHandle", out, ffi.cast("void *", address))
        return cls(driver, int(out[0]), nbytes)

    def export(self) -> int:
        """A new file descriptor of it, close-on-exec, which the caller owns."""
        out = ffi.new("int *")
        self.driver.call("cuMemExportToShareableHandle", out, self.handle, _POSIX_FD, 0)
        return int(out[0])

    def is_exact(self) -> bool:
        """Whether it is as big as `nbytes` says: all of that can be mapped, and not one granule more."""
        ordinal = self.device_ordinal()
        more = self.nbytes + _granularity(self.driver, ordinal)
        out = ffi.new("CUdeviceptr *")
        self.driver.call("cuMemAddressReserve", out, more, 0, 0, 0)
        try:
            return self._fits(int(out[0]), self.nbytes) and not self._fits(int(out[0]), more)
        finally:
            self.driver.undo("cuMemAddressFree", out[0], more)

    def _fits(self, address: int, nbytes: int) -> bool:
        fits = self.driver.result("cuMemMap", address, nbytes, 0, self.handle, 0) == 0
        if fits:
            self.driver.undo("cuMemUnmap", address, nbytes)
        return fits

    def device_ordinal(self) -> int:
        """On which device of this process it lies."""
        out = ffi.new("CUmemAllocationProp *")
        self.driver.call("cuMemGetAllocationPropertiesFromHandle", out, self.handle)
        return int(out.location.id)


class Reservation(Span, Owned):
    """A range of device addresses that nothing else gets.

    Memory is mapped into it without access at first. `hint` asks for an address; `address` tells
    which one it became.
    """

    def __init__(self, context: Context, nbytes: int, *, hint: int = 0) -> None:
        out = ffi.new("CUdeviceptr *")
        context.driver.call("cuMemAddressReserve", out, nbytes, 0, hint, 0)
        super().__init__(context, int(out[0]), nbytes)
        self._mapped: dict[int, int] = {}
        self._open = True

    @override
    def close(self) -> None:
        """Unmap what is mapped and give the addresses back."""
        for offset in list(self._mapped):
            self.context.driver.undo("cuMemUnmap", self.address + offset, self._mapped.pop(offset))
        if self._open:
            self._open = False
            self.context.driver.undo("cuMemAddressFree", self.address, self.nbytes)

    def map(self, memory: Memory, *, offset: int = 0) -> None:
        """Map all of the memory at `offset`; nothing may access it before `set_access`."""
        at = self._at(offset, memory.nbytes)
        self.context.driver.call("cuMemMap", at, memory.nbytes, 0, memory.handle, 0)
        self._mapped[offset] = memory.nbytes

    def allocations(self) -> dict[int, int]:
        """The size of what is mapped at each offset."""
        return dict(self._mapped)

    def unmap(self, offset: int = 0) -> None:
        """Undo the `map` at `offset`; KeyError if there was none."""
        self.context.driver.call("cuMemUnmap", self.address + offset, self._mapped[offset])
        del self._mapped[offset]

    def set_access(self, access: Access, *, offset: int = 0) -> None:
        """What this process's device may do with the mapping at `offset`; KeyError if there is none."""
        wanted = ffi.new("CUmemAccessDesc *")
        wanted.location.type = _ON_DEVICE
        wanted.location.id = self.context.device.ordinal
        wanted.flags = _ACCESS[access]
        self.context.driver.call("cuMemSetAccess", self.address + offset, self._mapped[offset], wanted, 1)


def _granularity(driver: Driver, ordinal: int) -> int:
    out = ffi.new("size_t *")
    option = ffi.integer_const("CU_MEM_ALLOC_GRANULARITY_MINIMUM")
    driver.call("cuMemGetAllocationGranularity", out, _properties(ordinal), option)
    return int(out[0])


def _properties(ordinal: int) -> object:
    properties = ffi.new("CUmemAllocationProp *")
    properties.type = ffi.integer_const("CU_MEM_ALLOCATION_TYPE_PINNED")
    properties.requestedHandleTypes = _POSIX_FD
    properties.location.type = _ON_DEVICE
    properties.location.id = ordinal
    return properties
