# SPDX-License-Identifier: Apache-2.0
"""A lease as a serving process keeps it: acquired once, renewed and acquired again in the background.

    >>> from mpsafe.leases import HeldLease
    >>> from mpsafe.protocol.leases import Span
    >>> def shrink(nbytes, deadline_ns):
    ...     pass    # free what is over nbytes, and return
    >>> with HeldLease(socket, "chat", device, memory=Span(1 << 30, 2 << 30, 3 << 30), on_pressure=shrink) as lease:
    ...     lease.granted_bytes     # on the path of each token: a plain attribute, no call
    3221225472

What is over `granted_bytes` is to be freed. Under pressure that number goes down first; then `on_pressure` is called,
in the thread of the lease, and what it has freed when it returns is acknowledged.
"""

import contextlib
import logging
import os
import select
import threading
import time
from collections.abc import Callable
from typing import Final, Self, TypeAlias

from mpsafe.client import Client
from mpsafe.client.calls import Told
from mpsafe.client.wire import Wire
from mpsafe.errors import MpsafeError, UnknownLease
from mpsafe.protocol.leases import Lease, LeaseWord, Span

__all__ = ["HeldLease", "OnPressure"]

RETRY_S: Final = 0.1
# A lease is renewed so many times before it would end.
RENEWALS: Final = 4

_log = logging.getLogger(__name__)

OnPressure: TypeAlias = Callable[[int, int], None]


class HeldLease:
    """Raises NoRoom, or what else keeps it from being acquired; afterwards it only tells of it in `problem`.

    `granted_bytes` and `sm_percent` are what it has; `late`: it has not freed in time what it was asked for. While the
    daemon is away, or refuses the lease to who comes back, `granted_bytes` stays: what is allocated is not taken.
    `on_pressure` is called with the bytes to go down to and the time until which, CLOCK_MONOTONIC ns; without it,
    `freed` is to be called. `on_return` is called when the lease was acquired again, of another daemon mostly.
    """

    def __init__(
        self,
        socket: str,
        tenant: str,
        device: str,
        *,
        memory: Span | None = None,
        sm: Span | None = None,
        on_pressure: OnPressure | None = None,
        on_return: Callable[[], None] | None = None,
        ttl_ms: int = 10_000,
    ) -> None:
        self.granted_bytes = 0
        self.sm_percent = 0
        self.late = False
        self.problem = ""
        self._socket = socket
        self._tenant = tenant
        self._device = device
        self._memory = memory
        self._sm = sm
        self._on_pressure = on_pressure
        self._on_return = on_return
        self._ttl_ms = ttl_ms
        self._calling = threading.RLock()
        self._client = Client(socket)
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._version = 0
        try:
            self._id = self._acquire()
        except MpsafeError:
            self._client.close()
            os.close(self._stop)
            raise
        self._thread = threading.Thread(target=self._keep, name=f"lease-{self._id}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives the lease back."""
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        self._client.close()
        os.close(self._stop)

    def freed(self) -> None:
        """Says that this process is down to `granted_bytes`. Raises what the daemon answers, or DaemonUnreachable."""
        with self._calling:
            self._take(self._client.renew(self._id, self.granted_bytes))

    def resize(self, *, memory: Span) -> None:
        """Other wishes for memory, also for when it is acquired again. NoRoom, LeasePressed."""
        with self._calling:
            self._take(self._client.resize(self._id, memory=memory).lease)
            self._memory = memory

    def _acquire(self) -> int:
        with self._calling:
            self._client.attach(self._tenant).close()
            lease = self._client.acquire(
                self._tenant,
                self._device,
                memory=self._memory,
                sm=self._sm,
                resident_bytes=self.granted_bytes,
                ttl_ms=self._ttl_ms,
            )
            self._version = 0
            self._take(lease)
            self.problem = ""
            return lease.id

    def _take(self, lease: Lease) -> None:
        """What is newer counts."""
        if lease.version >= self._version:
            self._version = lease.version
            self.granted_bytes = lease.asked_bytes
            self.sm_percent = lease.sm_percent
            self.late = lease.state == "late"

    def _keep(self) -> None:
        """Until it is closed."""
        while True:
            try:
                with Wire(self._socket, timeout_s=None) as wire:
                    wire.send("io.mpsafe.Leases.Watch", {}, more=True)
                    if self._follow(wire):
                        return
            except MpsafeError as error:
                self.problem = str(error)
                if self._back():
                    return

    def _follow(self, wire: Wire) -> bool:
        """Listens and renews until it is closed (True), or the lease is lost."""
        pause_s = self._ttl_ms / 1000 / RENEWALS
        renew_at = time.monotonic() + pause_s
        while True:
            ready = [] if wire.pending else self._wait(wire, renew_at - time.monotonic())
            if self._stop in ready:
                with contextlib.suppress(MpsafeError):
                    self._client.release(self._id)
                return True
            if wire.pending or wire.fileno() in ready:
                self._hear(wire.receive(Told)[0].told)
            if time.monotonic() >= renew_at:
                with self._calling:
                    self._take(self._client.renew(self._id))
                renew_at = time.monotonic() + pause_s

    def _wait(self, wire: Wire, seconds: float) -> list[int]:
        return select.select([wire.fileno(), self._stop], [], [], max(0.0, seconds))[0]

    def _hear(self, word: LeaseWord) -> None:
        with self._calling:
            if word.lease != self._id or word.version < self._version:
                return
            if word.word == "ended":
                raise UnknownLease(self._id)
            self._version = word.version
            self.granted_bytes = word.granted_bytes
            self.late = word.word == "late"
        if word.word in ("shrink", "late") and self._on_pressure is not None:
            try:
                self._on_pressure(word.granted_bytes, word.deadline_ns)
            except Exception:
                _log.exception("lease %d: what is asked for was not freed", self._id)
                return
            with self._calling:
                self._take(self._client.renew(self._id, word.granted_bytes))

    def _back(self) -> bool:
        """Acquires again, until it has or is closed (True)."""
        while not select.select([self._stop], [], [], RETRY_S)[0]:
            try:
                with self._calling:
                    self._client.close()
                    self._id = self._acquire()
                if self._on_return is not None:
                    self._on_return()
            except MpsafeError as error:
                self.problem = str(error)
            else:
                return False
        return True
