# SPDX-License-Identifier: Apache-2.0
"""Where work runs: a context of a device, its streams, and events in them."""

from typing import ClassVar

from typing_extensions import override

from mpsafe.cuda._cuda import ffi
from mpsafe.cuda.driver import Device, Driver
from mpsafe.cuda.owned import Handle, Owned

__all__ = ["Context", "Event", "Stream", "stream_handle"]


class Context(Owned):
    """The primary context of one device, shared with whatever else this process runs on it.

    Current for the thread that made it; another thread calls `make_current` first. An error of work
    that runs asynchronously is raised by a later call, `synchronize` at the latest, and by each
    call from then on.
    """

    def __init__(self, driver: Driver, device: Device) -> None:
        """Retain the device's primary context. Under MPS this is where 807 says: the server has faulted."""
        self.driver = driver
        self.device = device
        out = ffi.new("CUcontext *")
        driver.call("cuDevicePrimaryCtxRetain", out, device.ordinal)
        self._handle: object | None = out[0]
        self.make_current()

    @override
    def close(self) -> None:
        """Release it; the driver destroys it with its last user. The calling thread has no context then."""
        if self._handle is not None:
            self.driver.undo("cuCtxSetCurrent", ffi.NULL)
        self.release()

    def release(self) -> None:
        """The same with the calling thread left as it is: for threads of a library that has the context current too."""
        handle, self._handle = self._handle, None
        if handle is not None:
            self.driver.undo("cuDevicePrimaryCtxRelease_v2", self.device.ordinal)

    def make_current(self) -> None:
        """Make it the calling thread's."""
        if self._handle is None:
            raise ValueError("this Context is closed")
        self.driver.call("cuCtxSetCurrent", self._handle)

    def synchronize(self) -> None:
        """Wait for all work of all streams; BadCudaCall with the error of any of it."""
        self.driver.call("cuCtxSynchronize")

    def free_bytes(self) -> int:
        """How much memory of the device is free, over all processes."""
        free = ffi.new("size_t *")
        total = ffi.new("size_t *")
        self.driver.call("cuMemGetInfo_v2", free, total)
        return int(free[0])


class Stream(Handle):
    """Work in order. None in its place means the context's default stream."""

    undo: ClassVar[str] = "cuStreamDestroy_v2"

    def __init__(self, context: Context) -> None:
        out = ffi.new("CUstream *")
        context.driver.call("cuStreamCreate", out, ffi.integer_const("CU_STREAM_NON_BLOCKING"))
        super().__init__(context.driver, out[0])

    def synchronize(self) -> None:
        """Wait for all that was put in; BadCudaCall with the error of any of it."""
        self.driver.call("cuStreamSynchronize", self.handle)

    def idle(self) -> bool:
        """Whether all that was put in has ended; BadCudaCall with the error of any of it."""
        return self.driver.ready("cuStreamQuery", self.handle)

    def wait(self, event: "Event") -> None:
        """Let what is put in from now on wait for the event."""
        self.driver.call("cuStreamWaitEvent", self.handle, event.handle, 0)


class Event(Handle):
    """A point in a stream, with the time at which it was reached."""

    undo: ClassVar[str] = "cuEventDestroy_v2"

    def __init__(self, context: Context) -> None:
        out = ffi.new("CUevent *")
        context.driver.call("cuEventCreate", out, ffi.integer_const("CU_EVENT_DEFAULT"))
        super().__init__(context.driver, out[0])

    def record(self, stream: Stream | None = None) -> None:
        """Set it behind all that is in the stream now."""
        self.driver.call("cuEventRecord", self.handle, stream_handle(stream))

    def synchronize(self) -> None:
        """Wait until it is reached."""
        self.driver.call("cuEventSynchronize", self.handle)

    def reached(self) -> bool:
        """Whether it has been reached; an event that was never recorded has."""
        return self.driver.ready("cuEventQuery", self.handle)

    def elapsed_ms(self, start: "Event") -> float:
        """Milliseconds from `start` to this event; both must have been recorded and reached."""
        milliseconds = ffi.new("float *")
        self.driver.call("cuEventElapsedTime", milliseconds, start.handle, self.handle)
        return float(milliseconds[0])


def stream_handle(stream: Stream | None) -> object:
    """The driver's own handle of a stream; NULL, the default stream, for None."""
    return ffi.NULL if stream is None else stream.handle
