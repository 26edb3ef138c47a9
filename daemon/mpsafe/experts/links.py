# SPDX-License-Identifier: Apache-2.0
"""The way from host memory to the device, with what is needed now before what may be needed soon.

`EmulatedLink` is for machines without a GPU: a thread that copies at a stated bandwidth, in pieces, so that an urgent
transfer waits for one piece of another at most. It is no measure of any GPU, and says so.
"""

import threading
import time
from collections import deque
from typing import Final, Protocol

from torch import Tensor

from mpsafe.link import Link as LinkPage

__all__ = ["EmulatedLink", "Link", "Transfer"]

PIECE_BYTES: Final = 256 << 10
REFUSED_S: Final = 0.001
TICK_S: Final = 0.0005
CATCH_UP_S: Final = 0.002


class Transfer(Protocol):
    """One expert on its way. `urgent`: somebody waits for it."""

    urgent: bool

    @property
    def arrived(self) -> bool:
        """Whether the device has all of it, or it was abandoned."""
        ...


class Link(Protocol):
    """`name`: what it is, for reports; an emulated one says so."""

    name: str

    def admits(self, nbytes: int) -> bool:
        """Whether something that is not urgent may be sent now."""
        ...

    def computed(self) -> None:
        """What is sent from here on may overwrite whatever has been computed with so far. First call of a thread."""
        ...

    def send(self, source: Tensor, target: Tensor, *, urgent: bool) -> Transfer: ...
    def hurry(self, transfer: Transfer) -> None:
        """It is needed now."""
        ...

    def wait(self, transfers: list[Transfer]) -> None:
        """What is computed next has them."""
        ...

    def abandon(self, transfer: Transfer) -> None:
        """Nobody wants it any more; returns when nothing more is written to its target."""
        ...

    def close(self) -> None: ...


class _Pieces:
    """A transfer of the emulated link."""

    def __init__(self, source: Tensor, target: Tensor, *, urgent: bool) -> None:
        self.source = source
        self.target = target
        self.urgent = urgent
        self.moved = 0
        self.abandoned = False
        self._arrived = threading.Event()

    @property
    def arrived(self) -> bool:
        return self._arrived.is_set()

    def arrive(self) -> None:
        """All of it is there, or it was abandoned."""
        self._arrived.set()

    def wait(self) -> None:
        """Until it has arrived."""
        self._arrived.wait()


class EmulatedLink:
    """`bandwidth`: bytes a second, one transfer at a time.

    `page`: the device's link page, where other processes load over the same link. Then nothing that is not urgent
    moves while somebody waits, and those who move something share the bandwidth.
    """

    def __init__(self, bandwidth: float, *, page: LinkPage | None = None) -> None:
        self.name = f"emulated link of {bandwidth / 1e9:g} GB/s"
        self._bandwidth = bandwidth
        self._page = page
        self._urgent: deque[_Pieces] = deque()
        self._others: deque[_Pieces] = deque()
        self._wake = threading.Condition()
        self._moving: _Pieces | None = None
        self._open = True
        self._thread = threading.Thread(target=self._run, name="mpsafe-link", daemon=True)
        self._thread.start()

    def admits(self, nbytes: int) -> bool:
        """Each piece is asked for when it is its turn."""
        return True

    def computed(self) -> None:
        """A CPU has computed whatever it was told to."""

    def send(self, source: Tensor, target: Tensor, *, urgent: bool) -> Transfer:
        transfer = _Pieces(source, target, urgent=urgent)
        with self._wake:
            (self._urgent if transfer.urgent else self._others).append(transfer)
            if transfer.urgent and self._page is not None:
                self._page.load(len(source))
            self._wake.notify_all()
        return transfer

    def hurry(self, transfer: Transfer) -> None:
        assert isinstance(transfer, _Pieces)
        with self._wake:
            if not transfer.urgent and not transfer.arrived:
                transfer.urgent = True
                if self._page is not None:
                    self._page.load(len(transfer.source))
                if transfer in self._others:
                    self._others.remove(transfer)
                    self._urgent.append(transfer)
                self._wake.notify_all()

    def wait(self, transfers: list[Transfer]) -> None:
        for transfer in transfers:
            assert isinstance(transfer, _Pieces)
            transfer.wait()

    def abandon(self, transfer: Transfer) -> None:
        assert isinstance(transfer, _Pieces)
        with self._wake:
            transfer.abandoned = True
            for queue in (self._urgent, self._others):
                if transfer in queue:
                    queue.remove(transfer)
                    self._end(transfer)
            self._wake.wait_for(lambda: self._moving is not transfer)

    def close(self) -> None:
        """Whatever is on its way is abandoned."""
        with self._wake:
            self._open = False
            for transfer in (*self._urgent, *self._others):
                transfer.abandoned = True
                self._end(transfer)
            self._urgent.clear()
            self._others.clear()
            self._wake.notify_all()
        self._thread.join()

    def _run(self) -> None:
        free_at = time.monotonic()
        while (transfer := self._next()) is not None:
            nbytes = min(PIECE_BYTES, len(transfer.source) - transfer.moved)
            ahead, sharers = self._sharers(transfer, nbytes)
            if not sharers:
                time.sleep(REFUSED_S)
            else:
                end = transfer.moved + nbytes
                transfer.target[transfer.moved : end].copy_(transfer.source[transfer.moved : end])
                free_at = max(free_at, time.monotonic() - CATCH_UP_S) + nbytes * sharers / self._bandwidth
                if (early := free_at - time.monotonic()) > TICK_S:
                    time.sleep(early)
                transfer.moved = end
            self._put_back(transfer, nbytes if ahead and sharers else 0)
            del transfer

    def _next(self) -> _Pieces | None:
        with self._wake:
            self._wake.wait_for(lambda: self._urgent or self._others or not self._open)
            queue = self._urgent or self._others
            self._moving = queue.popleft() if queue else None
            return self._moving

    def _sharers(self, transfer: _Pieces, nbytes: int) -> tuple[bool, int]:
        """Whether this piece moves before anybody waits for it, and how many processes move something over this link
        now; 0 if it has to wait for them."""
        with self._wake:
            ahead = not transfer.urgent
            if self._page is None:
                return ahead, 1
            if ahead and not self._page.prefetch(nbytes):
                return ahead, 0
            if not ahead:
                self._page.update()
            now_ns = time.monotonic_ns()
            busy = [cell.on_demand_bytes or cell.prefetch_bytes for _, cell in self._page.cells() if cell.fresh(now_ns)]
        return ahead, max(1, sum(map(bool, busy)))

    def _end(self, transfer: _Pieces) -> None:
        if transfer.urgent and self._page is not None:
            self._page.loaded(len(transfer.source))
        transfer.arrive()

    def _put_back(self, transfer: _Pieces, prefetched: int) -> None:
        """In front of its queue, unless it is through."""
        with self._wake:
            self._moving = None
            if prefetched and self._page is not None:
                self._page.prefetched(prefetched)
            if transfer.abandoned or transfer.moved == len(transfer.source) or not self._open:
                self._end(transfer)
            else:
                (self._urgent if transfer.urgent else self._others).appendleft(transfer)
            self._wake.notify_all()
