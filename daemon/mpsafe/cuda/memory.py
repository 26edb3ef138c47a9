# SPDX-License-Identifier: Apache-2.0
"""Device memory by address, and page-locked host memory. Sizes and offsets are in bytes."""

from typing import ClassVar, TypeAlias

from typing_extensions import override

from mpsafe.cuda._cuda import ffi
from mpsafe.cuda.context import Context, Stream, stream_handle
from mpsafe.cuda.driver import Driver
from mpsafe.cuda.owned import Handle, Owned

__all__ = ["Buffer", "HostBuffer", "Registration", "Span"]

Bytes: TypeAlias = bytes | bytearray | memoryview


class HostBuffer(Handle):
    """Page-locked host memory: what an asynchronous copy reads or writes while Python goes on."""

    undo: ClassVar[str] = "cuMemFreeHost"

    def __init__(self, context: Context, nbytes: int) -> None:
        out = ffi.new("void **")
        context.driver.call("cuMemHostAlloc", out, nbytes, 0)
        super().__init__(context.driver, out[0])
        self.nbytes = nbytes

    def view(self) -> memoryview:
        """The memory itself; good until `close`."""
        return memoryview(ffi.buffer(ffi.cast("char *", self.handle), self.nbytes))


class Registration(Handle):
    """Host memory that somebody else owns, page-locked by the driver: copies from it go straight to the device.

    Memory that this process may not write to, a map of a sealed memfd for one, has to be registered `read_only`: an
    H100 answers INVALID_VALUE otherwise. Where the device does not know that (READ_ONLY_HOST_REGISTER_SUPPORTED) it is
    NOT_SUPPORTED.
    """

    undo: ClassVar[str] = "cuMemHostUnregister"

    def __init__(self, driver: Driver, address: int, nbytes: int, *, read_only: bool) -> None:
        """`address`: of a whole page; the calling thread has a context. BadCudaCall."""
        flags = ffi.integer_const("CU_MEMHOSTREGISTER_READ_ONLY") if read_only else 0
        host = ffi.cast("void *", address)
        driver.call("cuMemHostRegister_v2", host, nbytes, flags)
        super().__init__(driver, host)


class Span:
    """A range of device addresses. Somebody else sees to it that memory is there."""

    def __init__(self, context: Context, address: int, nbytes: int) -> None:
        self.context = context
        self.address = address
        self.nbytes = nbytes

    def write(self, data: Bytes, *, offset: int = 0) -> None:
        """Copy bytes in, and wait until they are there, also for other processes.

        The copy alone may end before: from pageable memory it does when the bytes are on their way (CUDA driver API,
        "API synchronization behavior"; an H100 has shown it to a reader in another process).
        """
        source = ffi.from_buffer("char[]", data)
        nbytes = len(memoryview(data).cast("B"))
        self.context.driver.call("cuMemcpyHtoD_v2", self._at(offset, nbytes), source, nbytes)
        self.context.driver.call("cuStreamSynchronize", ffi.NULL)

    def read(self, nbytes: int | None = None, *, offset: int = 0) -> bytes:
        """Copy bytes out, all from `offset` on unless told how many, and wait for it."""
        wanted = self.nbytes - offset if nbytes is None else nbytes
        at = self._at(offset, wanted)
        target = bytearray(wanted)
        self.context.driver.call("cuMemcpyDtoH_v2", ffi.from_buffer("char[]", target, True), at, wanted)
        return bytes(target)

    def write_async(self, source: HostBuffer, *, stream: Stream | None = None, offset: int = 0) -> None:
        """Put a copy of the whole host buffer to `offset` into the stream."""
        at = self._at(offset, source.nbytes)
        self.context.driver.call("cuMemcpyHtoDAsync_v2", at, source.handle, source.nbytes, stream_handle(stream))

    def read_async(self, target: HostBuffer, *, stream: Stream | None = None, offset: int = 0) -> None:
        """Put a copy from `offset` that fills the host buffer into the stream."""
        at = self._at(offset, target.nbytes)
        self.context.driver.call("cuMemcpyDtoHAsync_v2", target.handle, at, target.nbytes, stream_handle(stream))

    def copy_from(self, source: "Span", *, stream: Stream | None = None) -> None:
        """Put a copy of all of `source` to the start of this one into the stream."""
        at = self._at(0, source.nbytes)
        self.context.driver.call("cuMemcpyDtoDAsync_v2", at, source.address, source.nbytes, stream_handle(stream))

    def fill(self, value: int, *, stream: Stream | None = None) -> None:
        """Put a fill of all of it with one byte value into the stream."""
        self.context.driver.call("cuMemsetD8Async", self.address, value, self.nbytes, stream_handle(stream))

    def _at(self, offset: int, nbytes: int) -> int:
        if offset < 0 or nbytes < 0 or offset + nbytes > self.nbytes:
            raise ValueError(f"bytes {offset} to {offset + nbytes} are not inside {self.nbytes} bytes of device memory")
        return self.address + offset


class Buffer(Span, Owned):
    """Device memory of this process alone, by cuMemAlloc."""

    def __init__(self, context: Context, nbytes: int) -> None:
        out = ffi.new("CUdeviceptr *")
        context.driver.call("cuMemAlloc_v2", out, nbytes)
        super().__init__(context, int(out[0]), nbytes)
        self._open = True

    @override
    def close(self) -> None:
        if self._open:
            self._open = False
            self.context.driver.undo("cuMemFree_v2", self.address)
