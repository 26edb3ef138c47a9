# SPDX-License-Identifier: Apache-2.0
"""Device memory as a flat tensor of bytes, without a copy.

On a GPU by the CUDA array interface, version 3. The software GPU's memory is the host's: there it is the allocations
themselves, mapped once more one behind the other, for reading where the region may only be read.
"""

import mmap
import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

import cffi
import torch

from mpsafe import cuda
from mpsafe.vault import Region

__all__ = ["bytes_of", "device_of"]

_MAP_FAILED: Final = 2**64 - 1
_MAP_FIXED: Final = 0x10

_ffi: Any = cffi.FFI()
_ffi.cdef("void *mmap(void *, size_t, int, int, int, long); int munmap(void *, size_t);")
_libc: Any = _ffi.dlopen(None)


class _OnDevice:
    """A range of device addresses as the CUDA array interface tells of it; keeps the region."""

    def __init__(self, region: Region, span: cuda.Span) -> None:
        self.region = region
        self.__cuda_array_interface__ = {
            "shape": (span.nbytes,),
            "typestr": "|u1",
            "data": (span.address, False),
            "strides": None,
            "version": 3,
        }


def device_of(context: cuda.Context) -> torch.device:
    """Where torch has to look for this context's memory: the software GPU's is the host's."""
    device = context.device
    return torch.device("cpu") if "software" in device.name.lower() else torch.device("cuda", device.ordinal)


def bytes_of(region: Region, span: cuda.Span | None = None) -> torch.Tensor:
    """All of a region, or a span inside of it: shape (bytes,), uint8. The region stays open as long as it is used."""
    wanted = span or region
    device = device_of(region.context)
    if device.type == "cuda":
        return torch.as_tensor(_OnDevice(region, wanted), device=device)
    first = wanted.address - region.address
    return torch.frombuffer(_mapped(region), dtype=torch.uint8)[first : first + wanted.nbytes]


def _mapped(region: Region) -> Any:
    """The region's allocations one behind the other in this process; unmapped with the last tensor over them."""
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if region.writable else 0)
    nothing = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    base = _checked(_libc.mmap(_ffi.NULL, region.nbytes, 0, nothing, -1, 0))
    nbytes = region.nbytes

    def unmap(address: object) -> None:
        _libc.munmap(address, nbytes)

    owned = _ffi.gc(_ffi.cast("char *", base), unmap, nbytes)
    for offset, size in region.allocations().items():
        with _exported(region, offset, size) as fd:
            _checked(_libc.mmap(owned + offset, size, protection, mmap.MAP_SHARED | _MAP_FIXED, fd, 0))
    return _ffi.buffer(owned, nbytes)


@contextmanager
def _exported(region: Region, offset: int, nbytes: int) -> Generator[int]:
    with cuda.Memory.at(region.context.driver, region.address + offset, nbytes) as memory:
        fd = memory.export()
        try:
            yield fd
        finally:
            os.close(fd)


def _checked(address: Any) -> Any:
    if int(_ffi.cast("uintptr_t", address)) == _MAP_FAILED:
        raise OSError(_ffi.errno, f"mmap: {os.strerror(_ffi.errno)}")
    return address
