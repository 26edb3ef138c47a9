# SPDX-License-Identifier: Apache-2.0
"""This test will restart real servers that have faulted, and leave alone those that have not."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from control_program import ControlProgram, control_of
from mpsafe.errors import ControlFailed
from mpsafe.model import ActionState, Identity
from mpsafe.soft.host import SoftwareHost
from mpsafed.processes import identify
from mpsafed.restart import RestartLimits
from requires import requires
from restart_walk import SERVER, STEPS, Walk
from tenant_process import Tenant


def process(code: str = "input()") -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )


@pytest.fixture
def client() -> Iterator[subprocess.Popen[bytes]]:
    started = process()
    yield started
    started.kill()
    started.communicate()


@pytest.fixture
def server() -> Iterator[subprocess.Popen[bytes]]:
    """A process that could be an MPS server."""
    started = process()
    yield started
    started.kill()
    started.communicate()


def identity_of(process: subprocess.Popen[bytes]) -> Identity:
    found = identify(process.pid)
    assert found is not None
    return found


def answers(old: int, *, state: str = "FAULT", end: str = ":", fresh: int = 777) -> dict[str, str]:
    """Of a control daemon whose server `old` ends by `end`, and which then has server `fresh`."""
    return {
        f"get_server_status {old}": f"echo {state}",
        f"get_client_list {old}": ":",
        f"shutdown_server {old} -f": f"{end}; : >$0.ended",
        "get_server_list": f"if test -e $0.started; then echo {fresh}; elif ! test -e $0.ended; then echo {old}; fi",
        "start_server -uid *": ": >$0.started",
        f"get_server_status {fresh}": "echo ACTIVE",
    }


def gone(directory: Path, more: dict[str, str] | None = None) -> ControlProgram:
    """A control daemon that has noticed that its server has ended."""
    program = ControlProgram(directory, answers(SERVER) | (more or {}))
    program.path.with_name(program.path.name + ".ended").touch()
    return program


def test_who_came_while_the_server_was_ended_is_lost_with_it(
    tmp_path: Path, server: subprocess.Popen[bytes], client: subprocess.Popen[bytes]
) -> None:
    program = ControlProgram(tmp_path, answers(server.pid, end=f"kill {server.pid}"))
    assert Walk().run(program.control(), server=server.pid, clients=[], late=[identity_of(client)]) == STEPS
    assert client.wait() == -signal.SIGTERM


def test_a_server_that_recovers_while_it_is_asked_for_its_clients_is_left_alone(
    tmp_path: Path, server: subprocess.Popen[bytes], client: subprocess.Popen[bytes]
) -> None:
    more = {
        f"get_client_list {server.pid}": ":>$0.asked",
        f"get_server_status {server.pid}": "if test -e $0.asked; then echo ACTIVE; else echo FAULT; fi",
    }
    program, walk = ControlProgram(tmp_path, answers(server.pid) | more), Walk()
    assert walk.run(program.control(), server=server.pid, clients=[identity_of(client)]) == ["done"]
    assert "recovered by itself" in walk.details[0]
    assert server.poll() is None and client.poll() is None


def test_the_whole_walk(tmp_path: Path, server: subprocess.Popen[bytes], client: subprocess.Popen[bytes]) -> None:
    program = ControlProgram(tmp_path, answers(server.pid, end=f"kill {server.pid}"))
    walk = Walk()
    states = walk.run(program.control(), server=server.pid, clients=[identity_of(client)])
    assert states == STEPS
    assert walk.details[1:] == [
        "1 lost clients have ended, 0 of them by SIGKILL",
        f"server 777 is ACTIVE for uid {os.geteuid()}",
        "limits of server 777 are in force",
        f"server 777 is ACTIVE for uid {os.geteuid()} and takes clients",
    ]
    assert walk.limited == [None, 777], "the default limits count for a server that starts, so they come first"
    assert server.wait() == -signal.SIGTERM
    assert client.wait() == -signal.SIGTERM
    commands = program.commands()
    assert commands.index(f"shutdown_server {server.pid} -f") < commands.index(f"start_server -uid {os.geteuid()}")


def test_the_server_ends_before_its_clients(
    tmp_path: Path, server: subprocess.Popen[bytes], client: subprocess.Popen[bytes]
) -> None:
    """Its end is the proof that their work has stopped."""
    seen = tmp_path / "client"
    end = f"kill -0 {client.pid} && echo lives >'{seen}'; kill {server.pid}"
    program = ControlProgram(tmp_path, answers(server.pid, end=end))
    assert Walk().run(program.control(), server=server.pid, clients=[identity_of(client)])[-1] == "done"
    assert seen.read_text() == "lives\n"


def test_a_server_that_is_active_again_is_left_alone(
    tmp_path: Path, server: subprocess.Popen[bytes], client: subprocess.Popen[bytes]
) -> None:
    program, walk = ControlProgram(tmp_path, answers(server.pid, state="ACTIVE")), Walk()
    quick = RestartLimits(settle_s=0.1)
    assert walk.run(program.control(), server=server.pid, clients=[identity_of(client)], limits=quick) == ["done"]
    assert "recovered by itself" in walk.details[0]
    assert (server.poll(), client.poll()) == (None, None)
    assert not any(command.startswith(("shutdown", "start")) for command in program.commands())


def test_a_server_that_does_not_know_of_the_fault_yet_is_waited_for(
    tmp_path: Path, server: subprocess.Popen[bytes]
) -> None:
    """The kernel log tells of a fault before the server does."""
    late = {
        f"get_server_status {server.pid}": "if test -e $0.asked; then echo FAULT; else : >$0.asked; echo ACTIVE; fi"
    }
    program = ControlProgram(tmp_path, answers(server.pid, end=f"kill {server.pid}") | late)
    assert Walk().run(program.control(), server=server.pid, clients=[]) == STEPS


def test_clients_that_only_the_program_knows_are_ended_too(
    tmp_path: Path, server: subprocess.Popen[bytes], client: subprocess.Popen[bytes]
) -> None:
    known = answers(server.pid, end=f"kill {server.pid}") | {f"get_client_list {server.pid}": f"echo {client.pid}"}
    walk = Walk()
    assert walk.run(ControlProgram(tmp_path, known).control(), server=server.pid, clients=[])[-1] == "done"
    assert client.wait() == -signal.SIGTERM


@pytest.mark.parametrize("stopped", [False, True])
def test_a_client_that_does_not_listen_is_killed(
    tmp_path: Path, server: subprocess.Popen[bytes], stopped: bool
) -> None:
    deaf = process("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); input()")
    assert deaf.stdout is not None
    deaf.stdout.readline()
    if stopped:
        deaf.send_signal(signal.SIGSTOP)
    walk = Walk()
    limits = RestartLimits(grace_s=0.05, end_s=60, start_s=60)
    program = ControlProgram(tmp_path, answers(server.pid, end=f"kill {server.pid}"))
    states = walk.run(program.control(), server=server.pid, clients=[identity_of(deaf)], limits=limits)
    assert states == STEPS
    assert walk.details[1] == "1 lost clients have ended, 1 of them by SIGKILL"
    assert deaf.wait() == -signal.SIGKILL
    deaf.communicate()


def test_clients_that_have_ended_or_are_others_are_not_touched(
    tmp_path: Path, server: subprocess.Popen[bytes], client: subprocess.Popen[bytes]
) -> None:
    found = identity_of(client)
    others = [Identity(found.pid, found.start_ticks - 1), Identity(4_000_002, 1)]
    program = ControlProgram(tmp_path, answers(server.pid, end=f"kill {server.pid}"))
    assert Walk().run(program.control(), server=server.pid, clients=others)[-1] == "done"
    assert client.poll() is None


def test_a_server_that_does_not_end_is_killed(tmp_path: Path, server: subprocess.Popen[bytes]) -> None:
    program = ControlProgram(tmp_path, answers(server.pid))
    limits = RestartLimits(grace_s=60, end_s=0.05, start_s=60)
    assert Walk().run(program.control(), server=server.pid, clients=[], limits=limits)[-1] == "done"
    assert server.wait() == -signal.SIGKILL


@pytest.mark.parametrize("state", ["echo Server not found", "echo 'Unknown command'"])
def test_a_process_that_got_the_pid_of_a_server_is_not_touched(
    tmp_path: Path, server: subprocess.Popen[bytes], state: str
) -> None:
    """The daemon was down for long: the server is gone, and its pid belongs to somebody else."""
    known = answers(server.pid) | {
        f"get_server_status {server.pid}": state,
        f"get_client_list {server.pid}": "echo Server not found",
        f"shutdown_server {server.pid} -f": "echo Server not found",
        "get_server_list": "if test -e $0.started; then echo 777; fi",
    }
    limits = RestartLimits(grace_s=60, end_s=0.05, start_s=60)
    walks: list[tuple[ActionState, list[ActionState]]] = [("requested", STEPS[2:]), ("terminating", STEPS)]
    for reached, walked in walks:
        control = ControlProgram(tmp_path, known).control()
        assert Walk().run(control, server=server.pid, clients=[], limits=limits, reached=reached) == walked
    assert server.poll() is None


def test_a_server_that_a_dead_daemon_has_ended_still_costs_its_clients(
    tmp_path: Path, client: subprocess.Popen[bytes]
) -> None:
    """It died between the end of the server and that of its clients."""
    walk = Walk()
    assert walk.run(gone(tmp_path).control(), clients=[identity_of(client)], reached="terminating") == STEPS
    assert client.wait() == -signal.SIGTERM


def test_a_server_that_only_a_log_tells_of_costs_nobody(tmp_path: Path, client: subprocess.Popen[bytes]) -> None:
    """A user who can write that log names the server, and the clients as well."""
    walk = Walk()
    assert walk.run(gone(tmp_path).control(), clients=[identity_of(client)]) == STEPS[2:]
    assert walk.details[0].startswith(f"server {SERVER} was gone, nobody was ended for it; server 777 is ACTIVE")
    assert client.poll() is None


def test_a_server_that_another_started_meanwhile_is_taken(tmp_path: Path) -> None:
    program = ControlProgram(tmp_path, answers(SERVER) | {"get_server_list": "echo 777"})
    walk = Walk()
    assert walk.run(program.control(), clients=[])[-1] == "done"
    assert not any(command.startswith("start_server") for command in program.commands())


def test_a_server_that_has_ended_and_is_listed_a_little_longer(tmp_path: Path, server: subprocess.Popen[bytes]) -> None:
    """The control daemon has not noticed yet; a server is started all the same."""
    listed = (
        f"if test -e $0.started; then echo 777; elif ! test -e $0.ended || ! test -e $0.seen; then echo {server.pid}; "
        "if test -e $0.ended; then : >$0.seen; fi; fi"
    )
    program = ControlProgram(tmp_path, answers(server.pid, end=f"kill {server.pid}") | {"get_server_list": listed})
    assert Walk().run(program.control(), server=server.pid, clients=[])[-1] == "done"


@pytest.mark.parametrize("reached", ["killed", "started", "limited"])
@pytest.mark.parametrize("there", [False, True])
def test_it_goes_on_behind_the_end_of_the_server(tmp_path: Path, reached: ActionState, there: bool) -> None:
    """The daemon died there; another server may have been started, or it died with the daemon."""
    program = gone(tmp_path, {"get_server_list": "echo 777"} if there else {})
    walk = Walk()
    todo: dict[ActionState, list[ActionState]] = {"killed": STEPS[2:], "started": STEPS[2:], "limited": STEPS[3:]}
    assert walk.run(program.control(), clients=[], reached=reached) == todo[reached]
    assert walk.limited == ([777] if there else [None, 777])
    assert not any(command.startswith("shutdown") for command in program.commands())


@pytest.mark.parametrize("said", ["50 and not 20", "no answer", "could not be set within 0.1 s", "front end died"])
def test_limits_that_are_not_in_force_are_told_and_stop_nothing(tmp_path: Path, said: str) -> None:
    async def apply(server: int | None) -> list[str]:
        match said:
            case "50 and not 20":
                return [f"the thread percentage is {said}"]
            case "no answer":
                raise ControlFailed("set_default_active_thread_percentage", "no answer within 5 s")
            case "front end died":
                raise BrokenPipeError("the front end died")
            case _:
                await asyncio.Event().wait()
                return []

    walk = Walk()
    walk.apply_limits = apply
    limits = RestartLimits(grace_s=60, end_s=60, start_s=60, limit_s=0.1)
    assert walk.run(gone(tmp_path).control(), clients=[], limits=limits) == STEPS[2:]
    assert all(said in detail for detail in walk.details[:2])


def test_clients_that_are_not_ours_are_left_alone(
    tmp_path: Path, server: subprocess.Popen[bytes], client: subprocess.Popen[bytes]
) -> None:
    walk = Walk()
    walk.foreign = [identity_of(client)]
    program = ControlProgram(tmp_path, answers(server.pid, end=f"kill {server.pid}"))
    assert walk.run(program.control(), server=server.pid, clients=walk.foreign) == STEPS
    assert walk.details[1] == "0 lost clients have ended, 0 of them by SIGKILL; 1 could not be ended"
    assert client.poll() is None


def test_clients_are_not_killed_before_a_server_that_does_not_end(
    tmp_path: Path, server: subprocess.Popen[bytes], client: subprocess.Popen[bytes]
) -> None:
    """It is not ours to kill, and as long as it lives nobody knows what their work does."""
    walk = Walk()
    walk.foreign = [identity_of(server)]
    limits = RestartLimits(grace_s=60, end_s=0.05, start_s=60)
    program = ControlProgram(tmp_path, answers(server.pid))
    states = walk.run(program.control(), server=server.pid, clients=[identity_of(client)], limits=limits)
    assert states == ["terminating", "failed"]
    assert (server.poll(), client.poll()) == (None, None)


def test_a_server_beside_it_is_not_taken_for_the_new_one(tmp_path: Path, server: subprocess.Popen[bytes]) -> None:
    """Where MPS has several servers at a time, one of them stays, and another is started all the same."""
    listed = f"echo 555; if test -e $0.started; then echo 777; elif ! test -e $0.ended; then echo {server.pid}; fi"
    known = {"get_server_list": listed, "get_server_status 555": "echo ACTIVE"}
    program = ControlProgram(tmp_path, answers(server.pid, end=f"kill {server.pid}") | known)
    walk = Walk()
    assert walk.run(program.control(), server=server.pid, clients=[]) == STEPS
    assert walk.limited == [None, 777]


def test_a_server_that_faults_again_at_once_is_a_failure(tmp_path: Path) -> None:
    again = "if test -e $0.once; then echo FAULT; else : >$0.once; echo ACTIVE; fi"
    walk = Walk()
    program = gone(tmp_path, {"get_server_status 777": again})
    assert walk.run(program.control(), clients=[]) == ["started", "limited", "failed"]
    assert walk.details[-1] == "server 777 was ACTIVE and is fault now"


def test_a_server_that_does_not_come_is_a_failure(tmp_path: Path) -> None:
    walk = Walk()
    limits = RestartLimits(grace_s=60, end_s=60, start_s=0.3)
    program = ControlProgram(tmp_path, answers(SERVER) | {"start_server -uid *": ":", "get_server_list": ":"})
    assert walk.run(program.control(), clients=[], limits=limits)[-1] == "failed"
    assert walk.details[-1] == f"no server for uid {os.geteuid()} within 0.3 s"


def test_a_start_that_is_refused_is_a_failure(tmp_path: Path) -> None:
    walk = Walk()
    refused = {"start_server -uid *": "echo Insufficient privileges for UID 0", "get_server_list": ":"}
    assert walk.run(ControlProgram(tmp_path, answers(SERVER) | refused).control(), clients=[])[-1] == "failed"
    assert "Insufficient privileges" in walk.details[-1]


@pytest.mark.parametrize("words", ["sleep 1000", "exit 1", "echo nonsense"])
def test_a_program_of_no_use_ends_nobody(
    tmp_path: Path, server: subprocess.Popen[bytes], client: subprocess.Popen[bytes], words: str
) -> None:
    known = {"get_client_list*": ":", "get_server_status*": "echo FAULT", "get_server_list": f"echo {server.pid}"}
    for asked in ("get_client_list*", "get_server_list") if words == "echo nonsense" else known:
        control = ControlProgram(tmp_path, known | {asked: words}).control(deadline_s=0.3)
        states = Walk().run(control, server=server.pid, clients=[identity_of(client)])
        assert states == ["failed"]
        assert (server.poll(), client.poll()) == (None, None)


def test_no_program(tmp_path: Path) -> None:
    walk = Walk()
    assert walk.run(control_of(tmp_path / "missing", os.environ), clients=[]) == ["failed"]
    assert "cannot be run" in walk.details[0]


@requires("soft")
def test_a_real_server_in_fault(software_host: SoftwareHost) -> None:
    control = control_of(software_host.control_program, software_host.environment)
    with Tenant(software_host, "chat") as chat, Tenant(software_host, "embed") as embed:
        assert embed.do("trap") == "error 719"
        (old,) = asyncio.run(control.servers())
        assert asyncio.run(control.server_state(old)) == "fault"
        walk = Walk()
        assert walk.run(control, server=old, clients=[chat.identity]) == STEPS
        assert chat.wait() == -signal.SIGTERM
        (fresh,) = asyncio.run(control.servers())
        assert fresh != old
        assert identify(old) is None
    with Tenant(software_host, "chat") as again:
        assert again.do("work") == "ok"
        quick = RestartLimits(settle_s=0.1)
        assert Walk().run(control, server=fresh, clients=[again.identity], limits=quick) == ["done"]
        assert again.do("work") == "ok", "a healthy server is not ended"
