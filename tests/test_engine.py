# SPDX-License-Identifier: Apache-2.0
"""This test will carry signals through a whole engine, over real processes and a control program of its own."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine_host import Host, absorbed, closed, identity_of, in_fault, run, sm_xid, told, until
from mpsafe.errors import UnknownClient
from mpsafe.model import Action, ActionState, Event, Fault, Server
from mpsafe.status import StatusPage
from mpsafed import actions, fuse
from mpsafed import engine as module
from mpsafed.engine import QUEUE_MAX
from mpsafed.peer import Peer
from mpsafed.policy import Policy, TenantPolicy
from mpsafed.signals import (
    ClientConnected,
    ClientGone,
    Cursor,
    ServerChanged,
    Signal,
    SignalsLost,
)
from mpsafed.state import Line, State

ADMIN = Peer(1, 0, True, None)


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    """A server and two clients."""
    started = [
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for _ in range(3)
    ]
    yield started
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def host(tmp_path: Path, processes: list[subprocess.Popen[bytes]]) -> Host:
    return Host(tmp_path, processes)


def test_an_absorbed_fault_is_fenced(host: Host) -> None:
    async def check() -> None:
        async with host.engine() as engine:
            engine.attach("embed", Peer(host.guilty.pid, 0, False, identity_of(host.guilty)))
            engine.emit(absorbed(host.guilty))
            event = await until(engine, closed())
            assert told(event) == [("fence", "killed")]
            assert event.blame.tenant == "embed"
            assert host.cut == [host.guilty.pid]
        states = [entry.actions[0].state for entry in engine.state.stream if entry.actions]
        assert list(dict.fromkeys(states)) == ["requested", "frozen", "cut", "terminating", "proven", "killed"]

    run(check())
    assert host.guilty.wait() == -9
    assert host.other.poll() is None


def test_a_fatal_fault_restarts_the_server(host: Host) -> None:
    async def check() -> None:
        async with host.engine() as engine:
            host.breaks()
            engine.emit(sm_xid(host.guilty))
            event = await until(engine, closed())
            assert told(event) == [("restart_server", "done")]
            assert event.blame.client == identity_of(host.guilty) or host.guilty.poll() is not None

    run(check())
    assert [process.wait() for process in (host.server, host.guilty, host.other)] == [-15, -15, -15]


def test_a_server_that_faults_after_its_kernel_line_is_restarted_all_the_same(host: Host) -> None:
    """The kernel log is read before the server knows of its fault."""

    async def check() -> None:
        async with host.engine() as engine:
            engine.emit(sm_xid(host.guilty))
            while f"get_server_status {host.server.pid}" not in host.program.commands()[3:]:
                await asyncio.sleep(0)
            host.breaks()
            engine.emit(in_fault(host.server))
            assert told(await until(engine, closed())) == [("restart_server", "done")]

    run(check())
    assert host.server.wait() == -15


def test_a_fault_that_only_the_control_program_tells_of(host: Host) -> None:
    """The logs may be blind: everybody who may enter a pipe directory can end their thread."""

    async def check() -> None:
        async with host.engine() as engine:
            host.breaks()
            engine.inventory.invalidate()
            event = await until(engine, closed())
            assert told(event) == [("restart_server", "done")]
            assert event.blame.client is None
            assert host.limited == [("default", None), ("default", 777)]

    run(check())
    assert host.server.wait() == -15


def test_a_dry_run_acts_on_nothing(host: Host) -> None:
    async def check() -> None:
        async with host.engine(Policy(act=False)) as engine:
            for signal in (absorbed(host.guilty), sm_xid(host.other), in_fault(host.server)):
                engine.emit(signal)
            first = await until(engine, lambda e: told(e) == [("note", "done")] and e.id == 1)
            events = [first, await until(engine, lambda e: told(e) == [("note", "done")] and e.id == 3)]
            assert [event.actions[0].detail for event in events] == [
                f"dry run: would fence process {host.guilty.pid}",
                f"dry run: would restart MPS server {host.server.pid}",
            ]

    run(check())
    assert [process.poll() for process in (host.server, host.guilty, host.other)] == [None] * 3
    assert not any(command.startswith(("terminate", "shutdown", "start")) for command in host.program.commands())


def test_a_tenant_that_is_to_be_left_alone(host: Host) -> None:
    async def check() -> None:
        async with host.engine(Policy(tenants={"embed": TenantPolicy("note")})) as engine:
            engine.attach("embed", Peer(host.guilty.pid, 0, False, identity_of(host.guilty)))
            engine.emit(absorbed(host.guilty))
            event = await until(engine, lambda event: bool(event.actions))
            assert told(event) == [("note", "done")]

    run(check())
    assert host.guilty.poll() is None


def test_what_is_only_noted_is_closed_once_its_window_is_over(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "WINDOW_NS", 0)

    async def check() -> None:
        async with host.engine(Policy(act=False)) as engine:
            engine.emit(absorbed(host.guilty))
            assert told(await until(engine, closed())) == [("note", "done")]

    run(check())


def test_what_was_only_noted_is_closed_also_by_the_next_daemon(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """It died before the window was over."""

    async def check() -> None:
        async with host.engine(Policy(act=False)) as engine:
            engine.emit(absorbed(host.guilty))
            await until(engine, lambda event: bool(event.actions))
        monkeypatch.setattr(actions, "WINDOW_NS", 0)
        async with host.engine(Policy(act=False)) as engine:
            await until(engine, closed())

    run(check())


def test_an_event_and_what_led_to_it_are_one_line(host: Host) -> None:
    """So that a signal is in the stream or is read again, whenever the daemon dies."""

    async def check() -> None:
        async with host.engine(Policy(act=False)) as engine:
            engine.emit(sm_xid(host.guilty, position=41))
            engine.emit(absorbed(host.other))
            engine.emit(ServerChanged(time_ns=1, cursor=Cursor("log", "x", 7), server=5, state="active", text=""))
            await until(engine, lambda event: event.id == 3 and bool(event.actions))
            await asyncio.sleep(0)

    run(check())
    raw = (host.directory / "state" / "state.jsonl").read_bytes().splitlines()
    lines = [msgspec.json.decode(line, type=Line) for line in raw]
    for line in lines:
        if line.event is not None and line.event.seq == line.event.id and line.event.kind == "fault":
            assert line.cursors
    positions = {cursor.source: cursor.position for line in lines for cursor in line.cursors}
    assert positions == {"kernel-log": 41, "driver": 1, "log": 7}, "also of a signal that is no event"


def test_signals_that_find_no_room_are_counted(host: Host) -> None:
    async def check() -> None:
        async with host.engine() as engine:
            signal = ServerChanged(time_ns=1, server=5, state="active", text="")
            for _ in range(QUEUE_MAX + 123):
                engine.emit(signal)
            event = await until(engine, lambda event: event.lost_signals > 0)
            assert (event.lost_signals, engine.lost_signals) == (123, 123)
            engine.emit(SignalsLost(time_ns=1, source="kernel-log", count=5))
            await until(engine, lambda event: event.lost_signals == 5)
            assert engine.lost_signals == 128

    run(check())


def test_a_flood_leaves_the_loop_time_for_others(host: Host) -> None:
    async def check() -> None:
        async with host.engine() as engine:
            signal = ServerChanged(time_ns=1, cursor=Cursor("log", "x", 1), server=5, state="active", text="")
            for _ in range(10 * module.BATCH):
                engine.emit(signal)
            turns = 0
            while engine._queue:  # pyright: ignore[reportPrivateUsage] -- nobody else asks how many wait
                await asyncio.sleep(0)
                turns += 1
            assert turns >= 9

    run(check())


def test_one_bad_signal_costs_itself_only(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:

    def failing(signal: Signal, *rest: Any) -> Event | None:
        if isinstance(signal, ClientConnected):
            raise RuntimeError("a bug of ours")
        return fuse.fuse(signal, *rest)

    monkeypatch.setattr(module, "fuse", failing)

    async def check() -> None:
        async with host.engine(Policy(act=False)) as engine:
            engine.emit(ClientConnected(time_ns=time.time_ns(), server=host.server.pid, pid=host.other.pid))
            engine.emit(absorbed(host.guilty))
            await until(engine, lambda event: event.kind == "fault")

    run(check())


def test_the_end_of_a_client_is_told_once(host: Host) -> None:
    async def check() -> None:
        async with host.engine() as engine:
            host.other.kill()
            event = await until(engine, closed("exit"))
            assert [evidence.pid for evidence in event.blame.evidence] == [host.other.pid]
        host.other.wait()
        async with host.engine() as engine:
            await engine.inventory.refresh()
            await asyncio.sleep(0)
            assert len([event for event in engine.state.events() if event.kind == "exit"]) == 1

    run(check())


def test_the_end_of_a_client_while_there_is_no_daemon_is_told(host: Host) -> None:
    async def check() -> None:
        async with host.engine():
            pass
        host.other.kill()
        host.other.wait()
        async with host.engine() as engine:
            event = await until(engine, closed("exit"))
            assert [evidence.pid for evidence in event.blame.evidence] == [host.other.pid]

    run(check())


def test_what_a_client_did_is_told_of_its_server_after_its_end(host: Host) -> None:
    """Its end is seen first, by this daemon or by the one before."""

    async def check() -> None:
        async with host.engine(Policy(act=False)) as engine:
            identity = identity_of(host.guilty)
            host.guilty.kill()
            await until(engine, closed("exit"))
            assert identity not in [c.identity for c in engine.snapshot().clients_of(host.server.pid)]
            with pytest.raises(UnknownClient):
                engine.fence_by_hand(host.guilty.pid, ADMIN)
            host.guilty.wait()
            engine.emit(sm_xid(host.guilty))
            event = await until(engine, lambda event: event.kind == "fault")
            assert (event.server, event.blame.client) == (host.server.pid, None)
        async with host.engine(Policy(act=False)) as engine:
            engine.emit(replace(sm_xid(host.guilty, position=2), text="another line"))
            again = await until(engine, lambda e: e.kind == "fault" and len(e.blame.evidence) > 1)
            assert (again.id, again.server) == (event.id, host.server.pid)

    run(check())


def test_a_client_that_has_ended_is_forgotten_after_a_while(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEMORY_SECONDS", 0)

    async def check() -> None:
        async with host.engine() as engine:
            identity = identity_of(host.other)
            host.other.kill()
            await until(engine, closed("exit"))
            while identity in engine.inventory.clients:
                await asyncio.sleep(0)
            assert identity not in engine.state.clients

    run(check())


def test_a_fence_by_hand(host: Host) -> None:
    async def check() -> None:
        async with host.engine() as engine:
            with pytest.raises(UnknownClient):
                engine.fence_by_hand(2**22 + 1, ADMIN)
            number = engine.fence_by_hand(host.other.pid, Peer(1, 1234, True, None))
            event = await until(engine, lambda event: event.id == number and event.phase == "closed")
            assert told(event) == [("fence", "killed")]
            assert "asked for by uid 1234" in event.blame.evidence[0].text

    run(check())
    assert host.other.wait() == -9
    assert host.guilty.poll() is None


@pytest.mark.parametrize("reached", ["requested", "frozen", "cut", "terminating", "proven", "assumed"])
def test_a_fence_that_a_dead_daemon_left_is_taken_up(host: Host, reached: ActionState) -> None:
    async def check() -> None:
        state = State(host.directory / "state")
        action = Action("fence", identity_of(host.guilty), reached, "")
        fault = Fault("mmu", absorbed=True)
        state.record(Event(0, 0, 1, "fault", "open", "x", server=host.server.pid, fault=fault, actions=[action]))
        state.close()
        async with host.engine() as engine:
            assert told(await until(engine, closed())) == [("fence", "killed")]

    run(check())
    assert host.guilty.wait() == -9


@pytest.mark.parametrize("reached", ["requested", "terminating", "killed"])
def test_a_restart_that_a_dead_daemon_left_is_taken_up(host: Host, reached: ActionState) -> None:
    """Also one whose server and clients are gone, and nobody has started another."""
    host.breaks()
    if reached == "killed":
        for process in (host.server, host.guilty, host.other):
            process.kill()
            process.wait()
        host.program.path.with_name(host.program.path.name + ".ended").touch()

    async def check() -> None:
        state = State(host.directory / "state")
        state.append(Line(server=Server(host.server.pid, 0, "fault", 2)))
        action, fault = Action("restart_server", None, reached, ""), Fault("sm", absorbed=False)
        state.record(Event(0, 0, 1, "fault", "open", "x", server=host.server.pid, fault=fault, actions=[action]))
        state.close()
        async with host.engine() as engine:
            assert told(await until(engine, closed())) == [("restart_server", "done")]

    run(check())
    assert "start_server -uid 0" in host.program.commands()


def test_an_event_that_was_written_and_not_decided_is_decided_later(host: Host) -> None:
    async def check() -> None:
        async with host.engine(Policy(act=False)) as engine:
            engine.emit(absorbed(host.guilty))
            entry = await until(engine, lambda event: event.kind == "fault")
        lines = (host.directory / "state" / "state.jsonl").read_bytes().splitlines(keepends=True)
        undecided = next(i for i, line in enumerate(lines) if b'"kind":"fault"' in line)
        (host.directory / "state" / "state.jsonl").write_bytes(b"".join(lines[: undecided + 1]))
        async with host.engine() as engine:
            event = await until(engine, closed())
            assert (event.id, told(event)) == (entry.id, [("fence", "killed")])

    run(check())


def test_the_page_and_its_readers_are_told(host: Host) -> None:
    async def check() -> None:
        host.breaks()
        async with host.engine(Policy(act=False)) as engine:
            await until(engine, lambda event: event.kind == "fault" and bool(event.actions))
            wake = os.eventfd(0, os.EFD_NONBLOCK)
            engine.board.wakes.add(wake)
            with StatusPage(os.dup(engine.board.page.fd)) as page:
                engine.attach("embed", Peer(host.guilty.pid, 0, False, identity_of(host.guilty)))
                engine.emit(ClientGone(time_ns=1, client=identity_of(host.other)))
                await until(engine, closed("exit"))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                assert os.eventfd_read(wake) >= 1
                assert page.header().last_event == engine.state.next_seq - 1
                assert {tenant.name: tenant.health for tenant in page.tenants()} == {"chat": "absent", "embed": "lost"}
            engine.board.wakes.clear()
            os.close(wake)

    run(check())
