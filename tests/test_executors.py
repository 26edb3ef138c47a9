# SPDX-License-Identifier: Apache-2.0
"""This test will let several events ask for the same, and have executors refuse what no table has."""

import asyncio
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typing_extensions import override

from control_program import ControlProgram
from engine_host import identity_of, run
from mpsafe.model import Action, ActionState, Event, Identity
from mpsafe.model import Takeover as Timeline
from mpsafed.executors import Executors
from mpsafed.fence import FenceLimits, Surroundings
from mpsafed.freezer import Freezer
from mpsafed.mps.control import Control
from mpsafed.policy import Fence, RestartServer, Takeover
from mpsafed.processes import has_ended
from mpsafed.restart import RestartLimits
from mpsafed.snapshot import Snapshot
from mpsafed.takeover import TakeoverLimits
from mpsafed.takeovers import Takeovers
from vault_rig import vault_of

SERVER = 4_000_001  # nobody has this pid


class Rig:
    """Executors over events in memory; `stream` is every entry as it was written."""

    def __init__(self, control: Control | None) -> None:
        self.events: dict[int, Event] = {}
        self.stream: list[Event] = []
        self.grown = asyncio.Event()
        self.vault = vault_of("chat")
        self.executors = Executors(
            around=Surroundings(
                controls=lambda client, server: [control] if control else [],
                cut=self.cut,
                may_signal=lambda client: True,
                cgroup_of=lambda client: None,
                neighbours=lambda client: [],
                freezer=Freezer(None),
                release=lambda client: None,
            ),
            fence_limits=FenceLimits(60, 60),
            restart_limits=RestartLimits(settle_s=0, grace_s=60, end_s=60, start_s=60),
            control_of=lambda server: control,
            snapshot=Snapshot,
            apply_limits=self.apply_limits,
            takeovers=Takeovers(
                self.vault.epochs,
                remembered={},
                clients={},
                latest=self.events.__getitem__,
                recent=lambda: list(self.events.values()),
                update=self.update,
                stop=lambda event, process: None,
                ended=self.vault.ended,
                limits=TakeoverLimits(received_s=60),
            ),
            latest=self.events.__getitem__,
            update=self.update,
        )

    def cut(self, client: Identity) -> None:
        """Nobody holds anything."""

    async def apply_limits(self, control: Control, server: int | None) -> list[str]:
        return []

    def update(self, event: Event) -> Event:
        self.events[event.id] = event
        self.stream.append(event)
        self.grown.set()
        return event

    def ask(self, number: int, action: Action) -> Event:
        return self.update(Event(number, number, 0, "fault", "open", "", server=SERVER, actions=[action]))

    async def until_closed(self, *numbers: int) -> None:
        while any(self.events[number].phase == "open" for number in numbers):
            self.grown.clear()
            await self.grown.wait()

    def states(self, number: int) -> list[ActionState]:
        return [entry.actions[0].state for entry in self.stream if entry.id == number]


@pytest.fixture
def client() -> Iterator[Identity]:
    """A process that ends only when it is told to, and is waited for at once."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    parent = threading.Thread(target=process.wait)
    parent.start()
    yield identity_of(process)
    process.kill()
    parent.join()
    process.communicate()


WALK: list[ActionState] = ["requested", "frozen", "cut", "terminating", "proven", "killed"]


def test_two_events_that_want_one_client_stopped_have_one_fence(tmp_path: Path, client: Identity) -> None:
    program = ControlProgram(tmp_path, {"terminate_client*": "echo 0"})

    async def check() -> None:
        rig = Rig(program.control())
        for number in (1, 2, 3):
            rig.ask(number, Action("fence", client, "requested", ""))
            rig.executors.fence(number, Fence(client, SERVER))
        await rig.until_closed(1, 2, 3)
        assert [rig.states(number) for number in (1, 2, 3)] == [WALK, ["requested", "killed"], ["requested", "killed"]]
        assert rig.events[3].actions[0].detail == "event 2 asked for the same before"
        await rig.executors.close()

    run(check())
    assert program.commands() == [f"terminate_client {SERVER} {client.pid}"]


def test_a_fence_that_a_dead_daemon_had_begun_is_walked_behind_another(tmp_path: Path, client: Identity) -> None:
    program = ControlProgram(tmp_path, {"terminate_client*": "echo 0"})

    async def check() -> None:
        rig = Rig(program.control())
        states: list[tuple[int, ActionState]] = [(1, "requested"), (2, "cut")]
        for number, reached in states:
            rig.ask(number, Action("fence", client, reached, ""))
            rig.executors.fence(number, Fence(client, SERVER))
        await rig.until_closed(1, 2)
        assert rig.states(1) == WALK
        assert rig.states(2)[0] == "cut"
        assert rig.states(2)[-1] == "killed"
        assert "requested" not in rig.states(2)
        await rig.executors.close()

    run(check())


def test_what_failed_for_one_event_has_failed_for_the_next(tmp_path: Path) -> None:
    """And a restart that nobody can do says so: no control daemon is known."""

    async def check() -> None:
        rig = Rig(None)
        for number in (1, 2):
            rig.ask(number, Action("restart_server", None, "requested", ""))
            rig.executors.restart(number, RestartServer(SERVER, 0, ()))
        await rig.until_closed(1, 2)
        assert [rig.states(number) for number in (1, 2)] == [["requested", "failed"]] * 2
        assert "no MPS control daemon is known" in rig.events[1].actions[0].detail
        await rig.executors.close()

    run(check())


def test_a_takeover_that_another_event_has_done_costs_nobody(client: Identity) -> None:
    """The end of a process was told twice, and a daemon finds the second event as the first is over."""
    victim = Identity(SERVER, 1)

    async def check() -> None:
        rig = Rig(None)
        rig.vault.epochs.claim("chat", victim)
        rig.vault.epochs.move("chat", client)
        done, asked = (Action("takeover", victim, state, "") for state in ("done", "requested"))
        over = Event(1, 1, 0, "exit", "closed", "", actions=[done], takeovers=[Timeline("chat", victim, client)])
        rig.update(over)
        rig.ask(2, asked)
        rig.executors.take_over(2, Takeover("chat", victim))
        await rig.until_closed(2)
        assert rig.states(2) == ["requested", "done"]
        assert rig.events[2].actions[0].detail == "event 1 has done it"
        assert not has_ended(client), "it serves"
        await rig.executors.close()

    run(check())


def test_a_step_that_no_table_has_is_told_and_not_written(
    tmp_path: Path, client: Identity, caplog: pytest.LogCaptureFixture
) -> None:
    """The event was closed under the fence's feet; everything else goes on."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    program = ControlProgram(tmp_path, {"terminate_client*": f"cat {gate} >/dev/null; echo 0"})

    async def check() -> None:
        rig = Rig(program.control())
        event = rig.ask(1, Action("fence", client, "requested", ""))
        rig.executors.fence(1, Fence(client, SERVER))
        while rig.states(1)[-1] != "terminating":
            rig.grown.clear()
            await rig.grown.wait()
        rig.update(replace(event, actions=[Action("fence", client, "failed", "by another hand")]))
        with caplog.at_level(logging.ERROR):
            await asyncio.to_thread(gate.write_bytes, b"")
            while "a defect: event 1, fence is failed and was to be killed" not in caplog.text:
                await asyncio.sleep(0)
        assert rig.states(1)[-1] == "failed"
        await rig.executors.close()

    run(check())


@pytest.mark.parametrize("error", [RuntimeError("a bug of ours"), OSError("the kernel refuses")])
def test_whatever_stops_an_action_ends_it(tmp_path: Path, client: Identity, error: Exception) -> None:
    class Failing(Rig):
        @override
        def cut(self, client: Identity) -> None:
            raise error

    async def check() -> None:
        rig = Failing(ControlProgram(tmp_path, {}).control())
        rig.ask(1, Action("fence", client, "requested", ""))
        rig.executors.fence(1, Fence(client, SERVER))
        await rig.until_closed(1)
        assert rig.states(1) == ["requested", "frozen", "failed"]
        assert str(error) in rig.events[1].actions[0].detail
        await rig.executors.close()

    run(check())
