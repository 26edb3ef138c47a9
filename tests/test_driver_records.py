# SPDX-License-Identifier: Apache-2.0
"""This test will read the driver's records, from the software kernel and from one that misbehaves."""

import asyncio
import contextlib
import os
import select
import signal as signal_module
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from driver_port import UUID, Kernel
from mpsafe.errors import SourceLost
from mpsafe.soft import layouts
from mpsafe.soft.host import SoftwareHost
from mpsafe.soft.machine import Fatal, Process
from mpsafe.soft.records import RecordRing
from mpsafed.driver import Mode, Policy
from mpsafed.driver.records import decode
from mpsafed.driver.software import SoftwareDriver
from mpsafed.signals import Cursor, FaultAbsorbed, FaultPassed, Signal, SignalsLost
from mpsafed.sources import driver_records
from mpsafed.sources.driver_records import DriverRecords
from requires import requires
from tenant_process import Tenant

PATIENCE_S = 60


@pytest.fixture
def kernel(place: Path) -> Iterator[Kernel]:
    opened = Kernel(place / "mpsafe")
    yield opened
    opened.close()


def source(
    path: Path, start: Cursor | None = None, mode: Mode = "absorb", *, stored: int | None = None
) -> DriverRecords:
    return DriverRecords(lambda: SoftwareDriver(path, stored), Policy(mode=mode), start)


def read(
    records: DriverRecords,
    until: Callable[[list[Signal], list[str]], bool],
    *,
    meanwhile: Callable[[], object] = lambda: None,
) -> tuple[list[Signal], list[str]]:
    """What the source emits and tells of itself; `meanwhile` is done once it is connected."""

    async def reading() -> tuple[list[Signal], list[str]]:
        found: list[Signal] = []
        told: list[str] = []
        task = asyncio.ensure_future(records.run(found.append, told.append))
        await asyncio.sleep(0)
        meanwhile()
        while not until(found, told) and not task.done():
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
        return found, told

    return asyncio.run(asyncio.wait_for(reading(), PATIENCE_S))


def never(_found: list[Signal], _told: list[str]) -> bool:
    return False


def of(kernel: Kernel, start: Cursor | None, count: int) -> list[Signal]:
    """The first signals from this kernel."""
    records = source(kernel.path, start)
    found, _ = read(records, lambda signals, _: len(signals) >= count)
    return found


def pids(signals: list[Signal]) -> list[int]:
    return [signal.client.pid for signal in signals if isinstance(signal, FaultAbsorbed)]


def test_records_are_signals(kernel: Kernel) -> None:
    kernel.ring.policy("absorb")
    kernel.absorbed(11)
    who = Process(number=1, pid=12, uid=1000, start_ticks=120, comm="python", role="cuda")
    fatal = Fatal(
        process=who,
        channel=1,
        device=0,
        group=1,
        fault_class="mmu",
        detail="ro",
        va=4096,
        access="write",
        victims=(),
        status=0x40,
    )
    kernel.ring.passed("observe", fatal, UUID)
    kernel.ring.gone("observe", who)
    absorbed, passed = of(kernel, None, 2)
    assert isinstance(absorbed, FaultAbsorbed)
    assert (absorbed.client.pid, absorbed.client.start_ticks, absorbed.uid) == (11, 110, 1000)
    assert (absorbed.address, absorbed.access, absorbed.fault) == (0x5000, "read", "pde")
    assert absorbed.device == "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f"
    assert abs(absorbed.time_ns - time.time_ns()) < 60e9
    assert isinstance(passed, FaultPassed)
    assert (passed.client.pid, passed.fault, passed.access) == (12, "ro", "write")
    assert passed.status != 0


def test_what_was_read_before_a_restart_is_not_read_again(kernel: Kernel) -> None:
    kernel.absorbed(11)
    kernel.absorbed(12)
    first, second = of(kernel, None, 2)
    kernel.absorbed(13)
    assert pids(of(kernel, first.cursor, 2)) == [12, 13]
    assert pids(of(kernel, second.cursor, 1)) == [13]


def test_another_load_of_the_module_counts_from_one(kernel: Kernel) -> None:
    kernel.absorbed(11)
    (first,) = of(kernel, None, 1)
    assert first.cursor is not None
    kernel.ring = RecordRing()
    kernel.absorbed(12)
    (second,) = of(kernel, first.cursor, 1)
    assert pids([second]) == [12]
    assert second.cursor is not None
    assert second.cursor.stream != first.cursor.stream


def test_overwritten_records_are_counted(kernel: Kernel) -> None:
    kernel.absorbed(1)
    (first,) = of(kernel, None, 1)
    for pid in range(2, 11):
        kernel.absorbed(pid)
    lost, *rest = of(kernel, first.cursor, 5)
    assert isinstance(lost, SignalsLost)
    assert (lost.source, lost.count) == ("driver", 5)
    assert pids(rest) == [7, 8, 9, 10]


def test_a_daemon_that_dies_between_the_count_and_the_record_reads_the_record_again(kernel: Kernel) -> None:
    """The cursor of what was lost stands before the record that told it."""
    for pid in range(1, 11):
        kernel.absorbed(pid)
    lost, first, *_ = of(kernel, None, 5)
    assert lost.cursor is not None
    assert first.cursor is not None
    assert lost.cursor.position == first.cursor.position - 1
    again = of(kernel, lost.cursor, 4)
    assert pids(again) == [7, 8, 9, 10]
    assert not any(isinstance(signal, SignalsLost) for signal in again)


@pytest.mark.parametrize("packet", [b"short", b"\1" * 400, b"x" * 4096])
def test_what_is_no_record_ends_the_source(kernel: Kernel, packet: bytes) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(SourceLost, match="driver: expected a record of"):
        read(source(kernel.path), never, meanwhile=lambda: kernel.accept().send(packet))
    assert len(os.listdir("/proc/self/fd")) == before + 1, "ours is open, the daemon's is not"


def test_a_kernel_that_goes_away_ends_the_source(kernel: Kernel) -> None:
    with pytest.raises(ConnectionResetError):
        read(source(kernel.path), never, meanwhile=lambda: kernel.accept().close())


def test_a_device_that_is_not_there_ends_the_source(place: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(source(place / "nothing"), never)


def test_the_heart_beats_while_the_source_runs(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_records, "HEARTBEAT_SECONDS", 0.01)
    read(source(kernel.path, mode="observe"), lambda _found, _told: kernel.said.count(layouts.HEARTBEAT_NUMBER) >= 5)
    assert kernel.said[:2] == [layouts.HELLO_NUMBER, layouts.POLICY_SET_NUMBER]
    assert set(kernel.said[3:]) == {layouts.HEARTBEAT_NUMBER}


def test_every_record_of_a_flood_is_read(kernel: Kernel) -> None:
    owner: list[socket.socket] = []
    flood = [kernel.absorbed(pid) for pid in range(1, 1001)]
    waiting = flood.copy()
    kernel.ring = RecordRing()

    def accept() -> None:
        owner.append(kernel.accept())

    def send(signals: list[Signal], _: list[str]) -> bool:
        try:
            while waiting:
                owner[0].send(waiting[0], socket.MSG_DONTWAIT)
                del waiting[0]
        except BlockingIOError:
            pass
        return len(signals) >= len(flood)

    found, _ = read(source(kernel.path), send, meanwhile=accept)
    assert pids(found) == list(range(1, 1001))


@requires("soft")
@pytest.mark.parametrize("mode", ["off", "observe", "absorb"])
def test_the_software_kernel_says_what_is_in_force(place: Path, mode: Mode) -> None:
    with SoftwareHost(place) as host:
        signals, told = read(source(host.driver, mode=mode), lambda _, told: f"mode {mode}" in told)
        assert signals == []
        assert told[-1] == f"mode {mode}"


@requires("soft")
def test_one_owner_at_a_time(place: Path) -> None:
    with SoftwareHost(place) as host:
        owner = SoftwareDriver(host.driver)
        try:
            owner.set_policy(Policy(mode="observe"))
            # "busy" may be overtaken by the end of the connection, which follows it at once.
            with pytest.raises((SourceLost, ConnectionError)):
                read(source(host.driver), never)
            owner.heartbeat()
            found = read_until(owner, 1)
            assert [decode(raw).mode for raw in found] == ["observe"], "nothing was changed by the second"
        finally:
            owner.close()


def absorbing(path: Path) -> SoftwareDriver:
    """An owner whose policy is in force; the record of it is still to be read."""
    owner = SoftwareDriver(path)
    owner.set_policy(Policy(mode="absorb"))
    return owner


@requires("soft")
def test_a_fault_of_a_real_tenant_is_read_also_by_the_next_owner(software_host: SoftwareHost) -> None:
    """An owner that dies loses nothing: the next one starts at the oldest record."""
    with Tenant(software_host, "embed") as tenant:
        owner = absorbing(software_host.driver)
        assert [tenant.do("wild_read") for _ in range(2)] == ["ok", "ok"]
        owner.close()
        records = source(software_host.driver)
        (signal,), _ = read(records, lambda signals, _: bool(signals))
    assert isinstance(signal, FaultAbsorbed)
    assert signal.client == tenant.identity
    assert (signal.access, signal.fault, signal.uid) == ("read", "pde", os.geteuid())


@requires("soft")
def test_whose_work_is_proven_stopped_is_released(software_host: SoftwareHost) -> None:
    """Once told by an owner that names a process; one that is not doomed has nothing to be released from."""
    with Tenant(software_host, "embed") as tenant, Tenant(software_host, "chat") as other:
        records = source(software_host.driver)
        read(records, lambda _, told: "mode absorb" in told, meanwhile=lambda: records.release(other.identity))

        def released(signals: list[Signal], _told: list[str]) -> bool:
            if signals:
                records.release(tenant.identity)
                records.release(other.identity)
            return bool(signals)

        (signal,), _ = read(records, released, meanwhile=lambda: tenant.say("wild_read"))
        assert isinstance(signal, FaultAbsorbed)
        records.release(tenant.identity)  # of a driver that is not open there is nothing to say
        with contextlib.closing(SoftwareDriver(software_host.driver)) as owner:
            states = {client.identity: client.state for client in owner.clients()}
        assert (states[tenant.identity], states[other.identity]) == ("released", "live")


def left(owner: SoftwareDriver) -> int:
    """An owner ends as by SIGKILL, and a keeper holds its descriptor."""
    kept = os.dup(owner.fileno())
    owner.close()
    return kept


def read_until(owner: SoftwareDriver, count: int) -> list[bytes]:
    """Records as they come, at least `count`."""
    found: list[bytes] = []
    while len(found) < count:
        new = owner.read()
        assert new or select.select([owner], [], [], PATIENCE_S)[0], f"{len(found)} of {count} records"
        found += new
    return found


@requires("soft")
@pytest.mark.parametrize("had_read", [False, True])
def test_whoever_takes_over_misses_no_record(software_host: SoftwareHost, had_read: bool) -> None:
    """A fault while only a keeper holds the device is absorbed; what the last owner had read is read again."""
    with Tenant(software_host, "embed") as tenant, Tenant(software_host, "chat") as other:
        owner = absorbing(software_host.driver)
        assert tenant.do("wild_read") == "ok"
        if had_read:
            read_until(owner, 2)
        kept = left(owner)
        assert other.do("wild_write") == "ok", "absorbed while no daemon runs"
        found, _ = read(source(software_host.driver, stored=kept), lambda signals, _: len(signals) >= 2)
        assert pids(found) == [tenant.pid, other.pid]


@requires("soft")
def test_rewinding_may_be_done_twice(software_host: SoftwareHost) -> None:
    """As after a daemon that died between its rewind and what answers it."""
    with Tenant(software_host, "embed") as tenant:
        owner = absorbing(software_host.driver)
        assert tenant.do("wild_read") == "ok"
        kept = left(SoftwareDriver(software_host.driver, left(owner)))
        records = source(software_host.driver, stored=kept)
        (signal, *more), told = read(records, lambda _, told: told.count("mode absorb") >= 2)
    assert (pids([signal]), more) == ([tenant.pid], [])
    assert set(told) == {"mode absorb"}


@requires("soft")
def test_a_kept_device_whose_kernel_was_started_anew_is_dead(place: Path) -> None:
    with SoftwareHost(place / "host") as host:
        kept = left(SoftwareDriver(host.driver))
        os.kill(host.kernel_pid, signal_module.SIGKILL)
        with SoftwareHost(place / "host") as again, pytest.raises(OSError):
            SoftwareDriver(again.driver, kept)
    with pytest.raises(OSError):
        os.fstat(kept)


def test_what_is_kept_must_lead_to_the_device(kernel: Kernel, place: Path) -> None:
    other = Kernel(place / "other")
    kept = left(SoftwareDriver(other.path))
    with pytest.raises(ConnectionError, match=r"it leads to '.*/other', expected '.*/mpsafe'"):
        SoftwareDriver(kernel.path, kept)
    other.close()
    no_socket = os.open(os.devnull, os.O_RDONLY)
    with pytest.raises(OSError, match="Socket operation on non-socket"):
        SoftwareDriver(kernel.path, no_socket)
    for fd in (kept, no_socket):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


@requires("soft")
def test_a_keeper_alone_does_not_keep_the_policy(place: Path) -> None:
    with SoftwareHost(place, heartbeat_ms=50) as host:
        owner = SoftwareDriver(host.driver)
        owner.set_policy(Policy(mode="absorb"))
        copy = SoftwareDriver(host.driver, left(owner))
        assert [decode(raw).mode for raw in read_until(copy, 2)] == ["absorb", "off"]
        copy.close()
