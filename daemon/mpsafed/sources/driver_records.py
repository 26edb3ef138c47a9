# SPDX-License-Identifier: Apache-2.0
"""The patched driver's records. While this source runs, the policy is in force; it beats the heart."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Final

from mpsafe.errors import NoInjection, SourceLost, UnknownClient
from mpsafe.model import Identity
from mpsafed.driver import Driver, Policy
from mpsafed.driver.records import HEARTBEAT_SECONDS, Record, decode
from mpsafed.signals import Cursor, FaultAbsorbed, FaultPassed, Signal, SignalsLost
from mpsafed.sources import Emit, monotonic_to_realtime_ns, now_ns

__all__ = ["DriverRecords"]

BEATS_PER_LIMIT: Final = 4
WILD_ADDRESS: Final = 0x5000_0000_0000

_log = logging.getLogger(__name__)


class DriverRecords:
    """Emits FaultAbsorbed and FaultPassed. `open_driver` opens the device, `policy` is what it is told."""

    name = "driver"

    def __init__(self, open_driver: Callable[[], Driver], policy: Policy, start: Cursor | None) -> None:
        self._open = open_driver
        self._policy = policy
        self._driver: Driver | None = None
        self._ready = asyncio.Event()
        self._cursor = start or Cursor(self.name, "no load yet", 0)
        self.beat_ns: int | None = None
        """When the heart was beaten last, CLOCK_MONOTONIC."""

    @property
    def cursor(self) -> Cursor:
        """Where this source has read to."""
        return self._cursor

    async def run(self, emit: Emit, alive: Callable[[str], None]) -> None:
        """Reads until the device is gone."""
        loop = asyncio.get_running_loop()
        with contextlib.closing(self._open()) as driver:
            driver.set_policy(self._policy)
            alive(f"mode {driver.policy().in_force}")
            loop.add_reader(driver.fileno(), self._ready.set)
            self._driver = driver
            try:
                beat = loop.time()
                while True:
                    if loop.time() >= beat:
                        driver.heartbeat()
                        self.beat_ns = time.monotonic_ns()
                        beat = loop.time() + HEARTBEAT_SECONDS / BEATS_PER_LIMIT
                    self._ready.clear()
                    found = driver.read()
                    for raw in found:
                        self._emit(decode(raw), emit, alive)
                    if found:
                        await asyncio.sleep(0)
                        continue
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout_at(beat):
                            await self._ready.wait()
            finally:
                self._driver = None
                loop.remove_reader(driver.fileno())

    def release(self, client: Identity) -> None:
        """Tells the driver that a client's work is proven stopped. One that cannot be told holds it for a while."""
        if self._driver is None:
            return
        try:
            for one in self._driver.clients():
                if one.identity == client and one.state == "doomed":
                    self._driver.release(one.number)
        except (OSError, SourceLost) as error:
            _log.warning("the driver was not told that the work of process %d has stopped: %s", client.pid, error)
        self._ready.set()  # a request may have met records on its way

    def inject(self, client: Identity) -> None:
        """A write of a client to nowhere. UnknownClient, or NoInjection where the driver does not let us."""
        if self._driver is None:
            raise NoInjection("the patched driver's device is not open")
        try:
            if "inject" not in self._driver.describe().features:
                raise NoInjection("the driver was loaded without mpsafe_inject=1")
            number = next((one.number for one in self._driver.clients() if one.identity == client), None)
            if number is None:
                raise UnknownClient(client.pid)
            self._driver.inject(number, WILD_ADDRESS, access="write", fault="pte", unit="sm", place="unknown")
        except (OSError, SourceLost) as error:
            raise NoInjection(str(error)) from error
        self._ready.set()  # a request may have met records on its way

    def _emit(self, record: Record, emit: Emit, alive: Callable[[str], None]) -> None:
        if record.kind == "policy":
            alive(f"mode {record.mode}")
        for signal in self._signals(record):
            emit(signal)

    def _signals(self, record: Record) -> list[Signal]:
        stream = f"{record.load:016x}"
        seen = self._cursor.position if self._cursor.stream == stream else 0
        if record.seq <= seen:
            return []
        self._cursor = Cursor(self.name, stream, record.seq)
        signals: list[Signal] = []
        if record.seq > seen + 1:
            lost = record.seq - seen - 1
            before = Cursor(self.name, stream, record.seq - 1)
            signals.append(SignalsLost(time_ns=now_ns(), cursor=before, source=self.name, count=lost))
        when = monotonic_to_realtime_ns(record.time_ns)
        match record.kind:
            case "absorbed":
                signals.append(
                    FaultAbsorbed(
                        time_ns=when,
                        cursor=self._cursor,
                        client=record.client,
                        uid=record.uid,
                        name=record.name,
                        device=record.device,
                        address=record.address,
                        access=record.access,
                        fault=record.fault,
                    )
                )
            case "passed":
                signals.append(
                    FaultPassed(
                        time_ns=when,
                        cursor=self._cursor,
                        client=record.client,
                        uid=record.uid,
                        name=record.name,
                        device=record.device,
                        address=record.address,
                        access=record.access,
                        fault=record.fault,
                        status=record.status,
                    )
                )
            case "orphan":
                _log.warning("a fault of a client whose address space is gone: what its group runs on the device ends")
            case "killed":
                _log.warning("the driver's own deadline has ended process %d (%s)", record.client.pid, record.name)
            case "policy" | "gone":
                pass
        return signals
