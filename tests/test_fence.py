# SPDX-License-Identifier: Apache-2.0
"""This test will fence real clients that work, are stopped or end by themselves, with control programs that fail."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from control_program import ControlProgram, control_of
from mpsafe.model import ActionState, Identity
from mpsafe.soft.host import SoftwareHost
from mpsafed.fence import FenceLimits, Surroundings, fence
from mpsafed.freezer import Freezer
from mpsafed.mps.control import Control
from mpsafed.processes import identify
from mpsafed.steps import legal
from requires import requires
from tenant_process import Tenant

SERVER = 4_000_001  # nobody has this pid
PATIENT = FenceLimits(terminate_s=60, end_s=60)
STEPS: list[ActionState] = ["frozen", "cut", "terminating", "proven", "killed"]


class Walk:
    """One fence and what it told, with what was true of the client's process at each step."""

    def __init__(self, client: Identity) -> None:
        self.client = client
        self.states: list[ActionState] = []
        self.details: list[str] = []
        self.cuts: list[Identity] = []
        self.released: list[Identity] = []
        self.frozen_at: list[ActionState] = []
        self.ours = True

    def progress(self, state: ActionState, detail: str) -> None:
        self.states.append(state)
        self.details.append(detail)
        if psutil.pid_exists(self.client.pid) and _stopped(self.client.pid):
            self.frozen_at.append(state)

    def around(self, *controls: Control) -> Surroundings:
        return Surroundings(
            controls=lambda client, server: controls,
            cut=self.cuts.append,
            may_signal=lambda client: self.ours,
            cgroup_of=lambda client: None,
            neighbours=lambda client: [],
            freezer=Freezer(None),
            release=self.released.append,
        )

    def run(
        self,
        *controls: Control,
        server: int | None = SERVER,
        limits: FenceLimits = PATIENT,
        reached: ActionState = "requested",
        around: Surroundings | None = None,
    ) -> None:
        around = around or self.around(*controls)
        work = fence(self.client, server, around=around, limits=limits, progress=self.progress, reached=reached)
        asyncio.run(asyncio.wait_for(work, 120))
        walked: list[ActionState] = [reached, *self.states]
        assert all(legal("fence", old, new) for old, new in pairwise(walked)), walked


def _stopped(pid: int) -> bool:
    """Stops are carried out by the process itself: it has to get there first."""
    process = psutil.Process(pid)
    for _ in range(1000):
        if process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
            break
        os.sched_yield()
    return process.status() == psutil.STATUS_STOPPED


def _stopped_at_once(pid: int) -> bool:
    """SIGCONT counts when it is sent: who was continued is not stopped any more."""
    return psutil.Process(pid).status() == psutil.STATUS_STOPPED


@pytest.fixture
def client() -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends only when it is told to."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    yield process
    process.kill()
    process.communicate()


def identity_of(process: subprocess.Popen[bytes]) -> Identity:
    found = identify(process.pid)
    assert found is not None
    return found


def answering(directory: Path, words: str) -> ControlProgram:
    return ControlProgram(directory, {"terminate_client*": words})


def test_the_whole_walk(tmp_path: Path, client: subprocess.Popen[bytes]) -> None:
    program, walk = answering(tmp_path, "echo 0"), Walk(identity_of(client))
    walk.run(program.control())
    assert walk.states == STEPS
    assert walk.cuts == [walk.client]
    assert walk.released == [walk.client], "its work has stopped, so nothing of it is to be kept"
    assert walk.frozen_at == ["frozen", "cut"], "it publishes nothing while it is cut, and MPS needs its threads after"
    assert program.commands() == [f"terminate_client {SERVER} {client.pid}"]
    assert client.wait() == -signal.SIGKILL


@pytest.mark.parametrize("reached", ["requested", *STEPS[:-1], "assumed"])
def test_it_goes_on_from_each_step(tmp_path: Path, client: subprocess.Popen[bytes], reached: ActionState) -> None:
    """The daemon died there: the client is as that daemon left it."""
    if reached in ("frozen", "cut"):
        client.send_signal(signal.SIGSTOP)
    program, walk = answering(tmp_path, "echo 0"), Walk(identity_of(client))
    walk.run(program.control(), reached=reached)
    todo: dict[ActionState, list[ActionState]] = {
        "requested": STEPS,
        "frozen": STEPS,
        "cut": STEPS[1:],
        "terminating": STEPS[2:],
        "proven": STEPS[4:],
        "assumed": STEPS[4:],
    }
    assert walk.states == todo[reached]
    asked = [f"terminate_client {SERVER} {client.pid}"] if "terminating" in walk.states else []
    assert program.commands() == asked
    assert walk.released == ([] if reached == "assumed" else [walk.client]), "what is not proven is not released"
    assert client.wait() == -signal.SIGKILL


@pytest.mark.parametrize("words", ["echo 201", ":", "echo Server not found", "exit 1", "kill -ABRT $$"])
def test_what_proves_nothing_is_assumed(tmp_path: Path, client: subprocess.Popen[bytes], words: str) -> None:
    walk = Walk(identity_of(client))
    walk.run(answering(tmp_path, words).control(), server=os.getpid())
    assert walk.states == ["frozen", "cut", "terminating", "assumed", "killed"]
    assert client.wait() == -signal.SIGKILL


@pytest.fixture
def server() -> Iterator[subprocess.Popen[bytes]]:
    """A process that could be an MPS server, waited for as soon as it ends."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    parent = threading.Thread(target=process.wait)
    parent.start()
    yield process
    process.kill()
    parent.join()
    process.communicate()


def test_the_end_of_the_server_is_a_proof(
    tmp_path: Path, client: subprocess.Popen[bytes], server: subprocess.Popen[bytes]
) -> None:
    walk = Walk(identity_of(client))
    gone = f"kill -KILL {server.pid}; while kill -0 {server.pid} 2>/dev/null; do :; done; echo Server not found"
    walk.run(answering(tmp_path, gone).control(), server=server.pid)
    assert walk.states[-2:] == ["proven", "killed"]
    assert walk.details[-2] == f"server {server.pid} has ended"


def test_a_server_that_nobody_saw_cannot_prove_by_its_end(tmp_path: Path, client: subprocess.Popen[bytes]) -> None:
    """A line that a user can write named it."""
    walk = Walk(identity_of(client))
    walk.run(answering(tmp_path, "echo Server not found").control(), server=SERVER)
    assert walk.states[-2:] == ["assumed", "killed"]


def test_a_control_program_that_hangs_costs_its_deadline_only(tmp_path: Path, client: subprocess.Popen[bytes]) -> None:
    walk = Walk(identity_of(client))
    limits = FenceLimits(terminate_s=0.3, end_s=60)
    walk.run(answering(tmp_path, "sleep 1000").control(), server=os.getpid(), limits=limits)
    assert walk.states[-2:] == ["assumed", "killed"]
    assert "no answer within 0.3 s" in walk.details[-2]


def test_no_control_program(tmp_path: Path, client: subprocess.Popen[bytes]) -> None:
    walk = Walk(identity_of(client))
    walk.run(control_of(tmp_path / "missing", os.environ), server=os.getpid())
    assert walk.states[-2:] == ["assumed", "killed"]
    assert "cannot be run" in walk.details[-2]


def test_a_client_that_is_stopped_already(tmp_path: Path, client: subprocess.Popen[bytes]) -> None:
    client.send_signal(signal.SIGSTOP)
    walk = Walk(identity_of(client))
    walk.run(answering(tmp_path, f"grep -q '^State:.*[TZ] ' /proc/{client.pid}/status || echo 0").control())
    assert walk.states == STEPS, "it runs while it is terminated"


def test_a_client_that_has_ended_before(tmp_path: Path, client: subprocess.Popen[bytes]) -> None:
    walk = Walk(identity_of(client))
    client.kill()
    client.wait()
    program = answering(tmp_path, "echo 0")
    walk.run(program.control())
    assert walk.states == ["assumed", "killed"]
    assert program.commands() == []


@pytest.mark.parametrize("reached", ["proven", "assumed"])
def test_what_was_proven_stays_proven(tmp_path: Path, client: subprocess.Popen[bytes], reached: ActionState) -> None:
    """The daemon died between the proof and the kill, and the process has ended since."""
    walk = Walk(identity_of(client))
    client.kill()
    client.wait()
    walk.run(answering(tmp_path, "echo 0").control(), reached=reached)
    assert walk.states == ["killed"]


def test_a_process_that_is_not_ours_is_not_signalled(tmp_path: Path, client: subprocess.Popen[bytes]) -> None:
    walk, program = Walk(identity_of(client)), answering(tmp_path, "echo 0")
    walk.ours = False
    walk.run(program.control())
    assert walk.states == ["failed"]
    assert "not ours to stop" in walk.details[0]
    assert (walk.cuts, program.commands(), client.poll()) == ([], [], None)
    assert not _stopped_at_once(client.pid)


def test_a_process_that_is_not_ours_any_more_is_not_left_stopped(
    tmp_path: Path, client: subprocess.Popen[bytes]
) -> None:
    """The daemon that stopped it is dead, and this one does not know its control daemon."""
    walk = Walk(identity_of(client))
    walk.ours = False
    client.send_signal(signal.SIGSTOP)
    assert _stopped(client.pid)
    walk.run(answering(tmp_path, "echo 0").control(), reached="cut")
    assert walk.states == ["failed"]
    assert client.poll() is None
    assert not _stopped_at_once(client.pid)


def test_an_error_of_ours_leaves_nobody_stopped(tmp_path: Path, client: subprocess.Popen[bytes]) -> None:
    walk = Walk(identity_of(client))

    def failing(client: Identity) -> None:
        raise OSError("the other end is gone")

    with pytest.raises(OSError, match="the other end"):
        walk.run(around=replace(walk.around(answering(tmp_path, "echo 0").control()), cut=failing))
    assert walk.states == ["frozen"]
    assert walk.frozen_at == ["frozen"]
    assert client.poll() is None
    assert not _stopped_at_once(client.pid)


def test_another_process_with_that_pid_is_not_touched(tmp_path: Path, client: subprocess.Popen[bytes]) -> None:
    found = identity_of(client)
    walk = Walk(Identity(found.pid, found.start_ticks - 1))
    walk.run(answering(tmp_path, "echo 0").control())
    assert walk.states == ["assumed", "killed"]
    assert client.poll() is None
    assert identify(client.pid) == found


@pytest.mark.parametrize("answer", ["0", "201"])
def test_a_client_that_ends_by_itself_while_it_is_terminated(
    tmp_path: Path, client: subprocess.Popen[bytes], answer: str
) -> None:
    """Its work was stopped, so it gives up; and its parent waits for it at once."""
    parent = threading.Thread(target=client.wait)
    parent.start()
    gone = f"kill -KILL {client.pid}; while kill -0 {client.pid} 2>/dev/null; do :; done; echo {answer}"
    walk = Walk(identity_of(client))
    walk.run(answering(tmp_path, gone).control(), server=os.getpid())
    parent.join()
    assert walk.states == ["frozen", "cut", "terminating", "proven" if answer == "0" else "assumed", "killed"]


def test_a_process_that_cannot_be_held_is_not_said_to_be_gone(tmp_path: Path, client: subprocess.Popen[bytes]) -> None:
    """No descriptor is left for a pidfd: the client lives, and nobody may believe it does not."""
    identity, told = identity_of(client), list[tuple[ActionState, str]]()
    control = answering(tmp_path, "echo 0").control()

    def progress(state: ActionState, detail: str) -> None:
        told.append((state, detail))

    async def starved() -> None:
        old = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = os.open("/", os.O_RDONLY)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, old[1]))
        try:
            await fence(identity, SERVER, around=Walk(identity).around(control), limits=PATIENT, progress=progress)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, old)

    asyncio.run(starved())
    assert told == [("failed", "the process cannot be held: Too many open files")]
    assert client.poll() is None


def test_a_client_whose_server_is_not_known_is_found_in_the_lists(
    tmp_path: Path, client: subprocess.Popen[bytes]
) -> None:
    """The kernel's record may be read before the log line that tells of the client: never SIGKILL first."""
    program = ControlProgram(
        tmp_path,
        {
            "get_server_list": f"echo {SERVER}; echo {SERVER + 1}",
            f"get_client_list {SERVER + 1}": f"echo {client.pid}",
            "get_client_list*": ":",
            f"terminate_client {SERVER + 1} {client.pid}": "echo 0",
        },
    )
    walk = Walk(identity_of(client))
    walk.run(program.control(), server=None)
    assert walk.states == STEPS


def test_all_control_daemons_are_asked_for_it(tmp_path: Path, client: subprocess.Popen[bytes]) -> None:
    """Also where one of them does not answer."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    hung = ControlProgram(tmp_path / "one", {"get_server_list": "exit 1"})
    has = {"get_server_list": f"echo {SERVER}", f"get_client_list {SERVER}": f"echo {client.pid}"}
    program = ControlProgram(tmp_path / "two", has | {f"terminate_client {SERVER} {client.pid}": "echo 0"})
    walk = Walk(identity_of(client))
    walk.run(hung.control(), program.control(), server=None)
    assert walk.states == STEPS


def test_no_control_daemon_is_known(client: subprocess.Popen[bytes]) -> None:
    walk = Walk(identity_of(client))
    walk.run()
    assert walk.states == ["frozen", "cut", "terminating", "assumed", "killed"]


def test_a_client_that_its_user_stops_meanwhile(tmp_path: Path, client: subprocess.Popen[bytes]) -> None:
    """MPS waits for its threads in vain: nothing is proven, and it is killed all the same."""
    walk = Walk(identity_of(client))
    stops = answering(tmp_path, f"kill -STOP {client.pid}; sleep 1000").control()
    walk.run(stops, server=os.getpid(), limits=FenceLimits(terminate_s=0.3, end_s=60))
    assert walk.states == ["frozen", "cut", "terminating", "assumed", "killed"]
    assert client.wait() == -signal.SIGKILL


def test_a_client_of_no_server(tmp_path: Path, client: subprocess.Popen[bytes]) -> None:
    walk = Walk(identity_of(client))
    walk.run(ControlProgram(tmp_path, {"get_server_list": ":"}).control(), server=None)
    assert walk.states == ["frozen", "cut", "terminating", "assumed", "killed"]


@requires("soft")
def test_a_real_client_loses_its_work_and_nobody_else_does(software_host: SoftwareHost) -> None:
    control = control_of(software_host.control_program, software_host.environment)
    with Tenant(software_host, "chat") as chat, Tenant(software_host, "embed") as embed:
        assert embed.do("serve") == "ok"
        (server,) = asyncio.run(control.servers())
        walk = Walk(embed.identity)
        walk.run(control, server=server)
        assert walk.states == STEPS, walk.details
        assert embed.wait() in (1, -signal.SIGKILL), "by the error of its stopped work, or killed"
        assert asyncio.run(control.clients(server)) == [chat.pid]
        assert chat.do("work") == "ok"
        with Tenant(software_host, "embed") as again:
            assert again.do("work") == "ok"


@requires("soft")
def test_a_real_client_that_was_stopped(software_host: SoftwareHost) -> None:
    """MPS cannot terminate a stopped client: the fence thaws it."""
    control = control_of(software_host.control_program, software_host.environment)
    with Tenant(software_host, "embed") as embed:
        (server,) = asyncio.run(control.servers())
        os.kill(embed.pid, signal.SIGSTOP)
        walk = Walk(embed.identity)
        walk.run(control, server=server, reached="terminating")
        assert walk.states == ["terminating", "proven", "killed"]
