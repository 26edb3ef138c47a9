# SPDX-License-Identifier: Apache-2.0
"""The way from host memory to a GPU: two streams of the driver's, over memory that the driver knows.

What is urgent has a stream of its own, so that it waits for one copy that was begun before at most. A copy waits for
what was computed with the slot that it overwrites, and what is computed next for the copy, by events: the host waits
for nothing. The driver is called directly: a copy costs the host a tenth of what it does through torch.
"""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from mpsafe.cuda import Context, Driver, Event, Registration, Stream, load
from mpsafe.cuda._cuda import ffi
from mpsafe.errors import BadCudaCall
from mpsafe.experts.host import HostExperts
from mpsafe.experts.links import Transfer
from mpsafe.link import Link as LinkPage

__all__ = ["CudaLink", "of_torch_device"]

_log = logging.getLogger(__name__)


class _Copy:
    """A copy in a stream, and the event behind it until it has arrived: then that is among the `free` ones again."""

    def __init__(self, event: Event, free: list[Event], nbytes: int, *, urgent: bool) -> None:
        self.event: Event | None = event
        self.nbytes = nbytes
        self.urgent = urgent
        self._free = free

    @property
    def arrived(self) -> bool:
        if self.event is not None and self.event.reached():
            self._free.append(self.event)
            self.event = None
        return self.event is None


class CudaLink:
    """`host`: its memory is registered with the driver for reading, so that copies go straight from it; on a device
    that does not know that, each copy goes through memory of the driver's own, slower, and `name` says so.

    `compute`: the driver's handle of the stream in which the calling thread computes, 0 for the default one; `page`:
    the device's link page, where other processes load over the same link. It takes over `context`.
    """

    def __init__(
        self, context: Context, host: HostExperts, *, compute: Callable[[], int], page: LinkPage | None = None
    ) -> None:
        self._context = context
        self._driver = context.driver
        self._compute = compute
        self._page = page
        self._on_their_way: list[_Copy] = []
        self._free: list[Event] = []
        self._open = True
        with ExitStack() as stack:
            stack.callback(context.release)
            self._urgent = stack.enter_context(Stream(context))
            self._others = stack.enter_context(Stream(context))
            self._computed = stack.enter_context(Event(context))
            straight = self._register(host, stack)
            self._undo = stack.pop_all()
        self.name = f"PCIe of {context.device.name}{'' if straight else ', through the driver'}"

    def _register(self, host: HostExperts, stack: ExitStack) -> bool:
        """Whether all of it is."""
        for address, nbytes in host.maps():
            try:
                stack.enter_context(Registration(self._driver, address, nbytes, read_only=True))
            except BadCudaCall as error:
                _log.warning("experts go through the driver's memory on their way to the device: %s", error)
                return False
        return True

    def admits(self, nbytes: int) -> bool:
        """Not while another process waits for a load, nor beyond this one's share."""
        self._tell()
        return self._page is None or self._page.prefetch(nbytes)

    def computed(self) -> None:
        self._context.make_current()
        self._driver.call("cuEventRecord", self._computed.handle, self._computing())
        for stream in (self._urgent, self._others):
            stream.wait(self._computed)

    def send(self, source: Tensor, target: Tensor, *, urgent: bool) -> Transfer:
        stream = self._urgent if urgent else self._others
        host = ffi.cast("void *", source.data_ptr())
        self._driver.call("cuMemcpyHtoDAsync_v2", target.data_ptr(), host, len(source), stream.handle)
        self._tell()
        event = self._free.pop() if self._free else self._undo.enter_context(Event(self._context))
        event.record(stream)
        copy = _Copy(event, self._free, len(source), urgent=urgent)
        self._on_their_way.append(copy)
        if urgent and self._page is not None:
            self._page.load(copy.nbytes)
        return copy

    def hurry(self, transfer: Transfer) -> None:
        """It is with the device already: what is computed waits for its event."""

    def wait(self, transfers: list[Transfer]) -> None:
        stream = self._computing()
        for transfer in transfers:
            assert isinstance(transfer, _Copy)
            if transfer.event is not None:
                self._driver.call("cuStreamWaitEvent", stream, transfer.event.handle, 0)

    def abandon(self, transfer: Transfer) -> None:
        assert isinstance(transfer, _Copy)
        if transfer.event is not None:
            transfer.event.synchronize()

    def close(self) -> None:
        """Waits for what is on its way, and lets go of the host's memory. Twice is once."""
        if not self._open:
            return
        self._open = False
        self._context.make_current()
        self._urgent.synchronize()
        self._others.synchronize()
        self._tell()
        self._undo.close()

    def _computing(self) -> Any:
        return ffi.cast("CUstream", self._compute())

    def _tell(self) -> None:
        """What has arrived is not on its way any more; the link page learns of it."""
        arrived = [copy for copy in self._on_their_way if copy.arrived]
        if arrived:
            self._on_their_way = [copy for copy in self._on_their_way if copy.event is not None]
        if self._page is not None:
            for copy in arrived:
                (self._page.loaded if copy.urgent else self._page.prefetched)(copy.nbytes)


def of_torch_device(device: Any, host: HostExperts, *, page: LinkPage | None = None) -> CudaLink:
    """To a device of torch's, whose context it shares."""
    index = torch.device(device).index
    ordinal = torch.cuda.current_device() if index is None else int(index)
    torch.cuda.current_stream(ordinal)
    driver: Driver = load()
    driver.init()
    context = Context(driver, driver.devices()[ordinal])
    return CudaLink(context, host, compute=lambda: torch.cuda.current_stream(ordinal).cuda_stream, page=page)
