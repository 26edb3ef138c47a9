# SPDX-License-Identifier: Apache-2.0
"""The patched driver's records. While this source runs, the policy is in force; it beats the heart."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final

from mpsafed.driver import Driver, Mode
from mpsafed.driver.records import HEARTBEAT_SECONDS, Record, decode
from mpsafed.signals import Cursor, FaultAbsorbed, FaultPassed, Signal, SignalsLost
from mpsafed.sources import Emit, monotonic_to_realtime_ns, now_ns

__all__ = ["DriverRecords"]

BEATS_PER_LIMIT: Final = 4


class DriverRecords:
    """Emits FaultAbsorbed and FaultPassed. `open_driver` opens the device."""

    name = "driver"

    def __init__(self, open_driver: Callable[[], Driver], mode: Mode, start: Cursor | None) -> None:
        self._open = open_driver
        self._mode: Mode = mode
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
        ready = asyncio.Event()
        with contextlib.closing(self._open()) as driver:
            driver.set_mode(self._mode)
            loop.add_reader(driver.fileno(), ready.set)
            try:
                beat = loop.time()
                while True:
                    if loop.time() >= beat:
                        driver.heartbeat()
                        self.beat_ns = time.monotonic_ns()
                        beat = loop.time() + HEARTBEAT_SECONDS / BEATS_PER_LIMIT
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout_at(beat):
                            await ready.wait()
                    ready.clear()
                    for raw in driver.read():
                        self._emit(decode(raw), emit, alive)
            finally:
                loop.remove_reader(driver.fileno())

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
            case "policy" | "gone":
                pass
        return signals
