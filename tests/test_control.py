# SPDX-License-Identifier: Apache-2.0
"""This test will ask control daemons that answer, lie, and are not whose they are to be."""

import os
import signal
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from as_user import as_user
from contract.mps_rig import NOBODY, eventually, finish
from control_daemons import EVERY_PROGRAM, rig, run
from control_program import ControlProgram, control_of
from mpsafe.errors import ControlFailed
from mpsafe.model import Identity, Limits
from mpsafe.soft.host import SoftwareHost
from mpsafed.mps.control import Control
from mpsafed.mps.starting import start_control
from mpsafed.processes import identify
from requires import requires
from tenant_process import Tenant


def answering(directory: Path, words: str) -> Control:
    """A program that answers each command so."""
    return ControlProgram(directory, {"*": words}).control()


def test_lists_of_pids(tmp_path: Path) -> None:
    control = answering(tmp_path, "printf '12\\n 345 \\n'")
    assert run(control.servers()) == [12, 345]
    assert run(control.clients(12)) == [12, 345]
    empty = answering(tmp_path, ":")
    assert run(empty.servers()) == []
    assert run(empty.clients(12)) == []


@pytest.mark.parametrize("words", ["12\\n-3", "1 two", "0x10", "1" * 11, "Error: no", "\\377"])
def test_a_list_that_is_none_is_refused(tmp_path: Path, words: str) -> None:
    control = answering(tmp_path, f"printf '{words}'")
    with pytest.raises(ControlFailed, match="'get_server_list': expected pids, got"):
        run(control.servers())
    with pytest.raises(ControlFailed, match="'get_client_list': expected pids, got"):
        run(control.clients(5))


@given(st.text(max_size=200))
def test_any_answer_is_a_list_or_a_sentence(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    directory = tmp_path_factory.mktemp("any")
    (directory / "answer").write_bytes(text.encode("utf-8", "surrogateescape"))
    control = answering(directory, f"cat '{directory}/answer'")
    try:
        assert all(isinstance(pid, int) for pid in run(control.servers()))
    except ControlFailed as error:
        assert len(str(error)) < 300


@pytest.mark.parametrize(
    ("words", "state"),
    [
        ("ACTIVE", "active"),
        ("FAULT", "fault"),
        ("INITIALIZING", "initializing"),
        ("Server 5 not found", "gone"),
        ('Unknown command "get_server_status 5"', "unknown"),
        ("active", "unknown"),
        ("", "unknown"),
    ],
)
def test_states_of_a_server(tmp_path: Path, words: str, state: str) -> None:
    assert run(answering(tmp_path, f"echo '{words}'").server_state(5)) == state


def test_clients_of_a_server_that_is_gone(tmp_path: Path) -> None:
    assert run(answering(tmp_path, "echo Server 5 not found").clients(5)) == []


@pytest.mark.parametrize(
    ("words", "proven"),
    [("0", True), (" 0 ", True), ("201", False), ("", False), ("0\\n0", False), ("00", False), ("1", False)],
)
def test_only_a_zero_proves_that_work_has_stopped(tmp_path: Path, words: str, proven: bool) -> None:
    program = ControlProgram(tmp_path, {"terminate_client*": f"printf '{words}\\n'; exit 0"})
    assert run(program.control().terminate_client(5, 77, deadline_s=60)) is proven
    assert program.commands() == ["terminate_client 5 77"]


def test_a_server_is_started_and_ended_by_its_names(tmp_path: Path) -> None:
    program = ControlProgram(tmp_path, {"start_server*": ":", "shutdown_server*": ":"})
    run(program.control().start_server(1000))
    run(program.control().shutdown_server(5))
    assert program.commands() == ["start_server -uid 1000", "shutdown_server 5 -f"]


def test_a_start_that_is_answered_has_failed(tmp_path: Path) -> None:
    with pytest.raises(ControlFailed, match="'start_server': Insufficient privileges for UID 1000"):
        run(answering(tmp_path, "echo Insufficient privileges for UID 1000").start_server(5))


@requires("soft")
def test_the_stand_in_answers_in_forms_that_are_known(software_host: SoftwareHost) -> None:
    control = control_of(software_host.control_program, software_host.environment)
    assert run(control.servers()) == []
    with Tenant(software_host, "chat") as chat:
        (server,) = run(control.servers())
        assert run(control.server_state(server)) == "active"
        assert run(control.clients(server)) == [chat.pid]
        assert run(control.terminate_client(server, 1, deadline_s=60)) is False
        assert run(control.terminate_client(server, chat.pid, deadline_s=60)) is True
        assert chat.do("work") == "error 810"
    run(control.shutdown_server(server))
    assert run(control.server_state(server)) == "gone"
    assert run(control.clients(server)) == []
    software_host.stop_mps()
    with pytest.raises(ControlFailed, match="no MPS control daemon"):
        run(control.servers())


@pytest.mark.parametrize("which", EVERY_PROGRAM)
def test_a_socket_file_proves_nothing(which: str, place: Path) -> None:
    """Only a process that listens is a control daemon, and each life of it is another."""

    async def check() -> None:
        with rig(which, place) as programs:
            control = programs.control(programs.declare())
            assert control.identity() is None
            lives: list[Identity] = []
            for _ in range(2):
                await start_control(control, Limits())
                found = control.identity()
                assert found is not None
                assert found == identify(found.pid)
                lives.append(found)
                finish(found.pid, signal.SIGKILL)
                assert (control.declared.pipe_directory / "control").is_socket()
                assert control.identity() is None
            assert lives[0] != lives[1]
            assert control.trouble == ""

    run(check())


def listener(path: Path) -> socket.socket:
    path.parent.mkdir(parents=True, exist_ok=True)
    found = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    found.bind(os.fspath(path))
    found.listen(1)
    return found


def own(place: Path, uid: int | None) -> Control:
    pipes = {"CUDA_MPS_PIPE_DIRECTORY": os.fspath(place / "pipes")}
    return control_of("true", pipes, uid=uid)


def test_a_link_to_somebody_elses_socket_is_not_followed(place: Path) -> None:
    with listener(place / "other" / "control"):
        (place / "pipes").mkdir()
        (place / "pipes" / "control").symlink_to("../other/control")
        assert own(place, None).identity() is None
        (place / "pipes" / "control").unlink()
        (place / "pipes" / "control").touch()
        assert own(place, None).identity() is None


def test_a_path_that_is_too_long_for_a_socket(place: Path) -> None:
    long = place / ("x" * 120)
    with listener(place / "pipes" / "control"):
        (place / "pipes").rename(long)
        found = control_of("true", {"CUDA_MPS_PIPE_DIRECTORY": os.fspath(long)}).identity()
    assert found == identify(os.getpid())


def test_a_listener_that_takes_nobody_is_not_waited_for(place: Path) -> None:
    with listener(place / "pipes" / "control"), ExitStack() as stack:
        for _ in range(2):
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            waiting.connect(os.fspath(place / "pipes" / "control"))
        assert own(place, None).identity() is None


@requires("root")
def test_whoever_else_listens_is_not_believed(place: Path) -> None:
    (place / "pipes").mkdir()
    (place / "pipes").chmod(0o777)
    with as_user(NOBODY):
        sock = listener(place / "pipes" / "control")
    with sock:
        child = os.fork()
        if child == 0:
            os.setuid(NOBODY)
            sock.listen(100)
            signal.pause()
        try:
            users = own(place, NOBODY)
            eventually(lambda: users.identity() == identify(child), "the user's own is taken")
            assert users.trouble == ""
            shared = own(place, None)
            assert shared.identity() is None
            assert shared.trouble.startswith(f"process {child} of uid {NOBODY} listens on {place}/pipes/control, ")
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


@requires("root")
def test_a_user_cannot_name_another_users_process(place: Path) -> None:
    """We signal whom a control daemon names: a user's own may name the user's own processes."""
    theirs = subprocess.Popen(["sleep", "1000"], user=NOBODY, group=NOBODY, extra_groups=[])
    answers = {"*": f"echo {os.getpid()}; echo {theirs.pid}; echo 4000001"}
    program = ControlProgram(place, answers)
    program.log.chmod(0o666)
    try:
        control = control_of(program.path, os.environ, uid=NOBODY)
        assert run(control.servers()) == [theirs.pid]
        named = f"it names process {os.getpid()} of uid 0 as a server"
        assert control.trouble == f"{named}, and may name those of uid {NOBODY}"
        assert run(control.clients(theirs.pid)) == [theirs.pid]
        assert "as a client" in control.trouble
        program.answer({"*": f"echo {theirs.pid}"})
        assert run(control.servers()) == run(control.clients(1)) == [theirs.pid]
        assert control.trouble == ""
        assert run(program.control().servers()) == [theirs.pid], "of one that is everybody's all are taken"
    finally:
        theirs.kill()
        theirs.wait()


def test_it_is_asked_anew_what_it_speaks(tmp_path: Path) -> None:
    program = ControlProgram(tmp_path, {"get_server_list": "echo 12"})
    control = program.control()
    assert run(control.servers()) == [12]
    assert [control.interface] == ["v2"]
    other = ControlProgram(tmp_path, {"server list --format=csv,noheader": "echo s,0,13,Ready,/run/s,-,-"}, protocol=3)
    with pytest.raises(ControlFailed):
        run(control.servers())
    control.forget()
    assert run(control.servers()) == [13]
    assert [control.interface] == ["v3"]
    assert other.commands()[-1] == "server list --format=csv,noheader"


def test_a_language_that_is_neither(tmp_path: Path) -> None:
    with pytest.raises(ControlFailed, match="a language that is neither MPS v2 nor v3"):
        run(control_of("true", os.environ).servers())
