# SPDX-License-Identifier: Apache-2.0
"""The way from host memory to a GPU: two streams of torch's, over memory that the driver knows. Not on hardware yet.

What is urgent has a stream of its own, of higher priority, so that it waits for no copy that was begun before; a copy
waits for what is computed with the slot that it overwrites, and what is computed next for the copy, by events: the host
waits for nothing.
"""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from mpsafe.experts.host import HostExperts
from mpsafe.experts.links import Transfer
from mpsafe.link import Link as LinkPage

__all__ = ["CudaLink"]


class _Copy:
    """A copy on a stream."""

    def __init__(self, event: Any, nbytes: int, *, urgent: bool) -> None:
        self.event = event
        self.nbytes = nbytes
        self.urgent = urgent

    @property
    def arrived(self) -> bool:
        return bool(self.event.query())

    def wait(self) -> None:
        self.event.wait()


class CudaLink:
    """`host`: its memory is registered with the driver (cudaHostRegister), so that copies do not go through another.

    `page`: the device's link page, where other processes load over the same link.
    """

    def __init__(self, device: Any, host: HostExperts, *, page: LinkPage | None = None) -> None:
        self.name = f"PCIe of {torch.cuda.get_device_name(device)}"
        self._page = page
        self._urgent: Any = torch.cuda.Stream(device, priority=-1)
        self._others: Any = torch.cuda.Stream(device)
        self._on_their_way: list[_Copy] = []
        with ExitStack() as stack:
            for address, nbytes in host.maps():
                cudart: Any = torch.cuda.cudart()
                if (result := int(cudart.cudaHostRegister(address, nbytes, 0))) != 0:
                    raise RuntimeError(f"cudaHostRegister of {nbytes} bytes: error {result}")
                stack.callback(cudart.cudaHostUnregister, address)
            self._undo = stack.pop_all()

    def admits(self, nbytes: int) -> bool:
        """Not while another process waits for a load, nor beyond this one's share."""
        self._tell()
        return self._page is None or self._page.prefetch(nbytes)

    def send(self, source: Tensor, target: Tensor, *, urgent: bool) -> Transfer:
        stream = self._urgent if urgent else self._others
        stream.wait_stream(torch.cuda.current_stream(target.device))
        with torch.cuda.stream(stream):
            target.copy_(source, non_blocking=True)
        copy = _Copy(stream.record_event(), len(source), urgent=urgent)
        self._tell()
        if self._page is not None:
            self._on_their_way.append(copy)
            if urgent:
                self._page.load(copy.nbytes)
        return copy

    def hurry(self, transfer: Transfer) -> None:
        """It is with the device already: what is computed waits for its event."""

    def abandon(self, transfer: Transfer) -> None:
        assert isinstance(transfer, _Copy)
        transfer.event.synchronize()

    def close(self) -> None:
        """Waits for what is on its way, and lets go of the host's memory."""
        self._urgent.synchronize()
        self._others.synchronize()
        self._tell()
        self._undo.close()

    def _tell(self) -> None:
        """The link page learns of what has arrived."""
        if self._page is None:
            return
        for copy in [copy for copy in self._on_their_way if copy.arrived]:
            self._on_their_way.remove(copy)
            (self._page.loaded if copy.urgent else self._page.prefetched)(copy.nbytes)
