# SPDX-License-Identifier: Apache-2.0
"""This test will ask control programs that answer, lie, hang, flood and are not there."""

import asyncio
import os
import select
import signal
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_program import ControlProgram
from mpsafe.errors import ControlFailed
from mpsafe.soft.host import SoftwareHost
from mpsafed.mps.control import OUTPUT_MAX, Control
from requires import requires
from tenant_process import Tenant

T = TypeVar("T")

ABSENT = "Cannot find MPS control daemon process"


def run(work: Awaitable[T]) -> T:
    async def bounded() -> T:
        return await asyncio.wait_for(work, 60)

    return asyncio.run(bounded())


def ends(pid: int) -> bool:
    """Whether the process has ended, or does now."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], 60)[0])
    finally:
        os.close(pidfd)


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


def test_no_control_daemon(tmp_path: Path) -> None:
    with pytest.raises(ControlFailed, match="no MPS control daemon answers in the pipe directory"):
        run(answering(tmp_path, f"echo {ABSENT} >&2; exit 1").servers())


def test_a_program_that_crashes(tmp_path: Path) -> None:
    with pytest.raises(ControlFailed, match="it ended with status -6"):
        run(answering(tmp_path, "echo 12; kill -ABRT $$").servers())


def test_no_program(tmp_path: Path) -> None:
    control = Control(os.fspath(tmp_path / "missing"), os.environ)
    with pytest.raises(ControlFailed, match="missing cannot be run: No such file or directory"):
        run(control.servers())
    (tmp_path / "missing").write_text("no program")
    with pytest.raises(ControlFailed, match="missing cannot be run: Permission denied"):
        run(control.servers())


def test_a_program_that_does_not_read_its_command(tmp_path: Path) -> None:
    control = Control("true", os.environ)
    assert run(control.servers()) == []


def test_a_program_that_hangs_is_ended_with_all_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    program = ControlProgram(tmp_path, {"*": f"sleep 1000 & echo $$ $! >'{pids}'; sleep 1000"})

    async def asked() -> None:
        control = program.control(deadline_s=0.3)
        with pytest.raises(ControlFailed, match=r"no answer within 0.3 s"):
            await control.servers()

    run(asked())
    found = [int(pid) for pid in pids.read_text().split()] if pids.exists() else []
    assert all(map(ends, found))


def test_a_program_that_answers_and_does_not_end_is_late(tmp_path: Path) -> None:
    with pytest.raises(ControlFailed, match=r"no answer within 0.3 s"):
        run(ControlProgram(tmp_path, {"*": "echo 5; sleep 1000"}).control(deadline_s=0.3).servers())


def test_a_program_that_floods_is_bounded(tmp_path: Path) -> None:
    """It is ended once it has said too much, and its words are not kept until then."""
    program = ControlProgram(tmp_path, {"*": "exec yes 1"})
    before = psutil.Process().memory_info().rss
    with pytest.raises(ControlFailed, match="it prints more than"):
        run(program.control(deadline_s=60).servers())
    assert psutil.Process().memory_info().rss - before < 16 * OUTPUT_MAX


def test_a_child_that_escapes_does_not_hold_the_answer(tmp_path: Path) -> None:
    """It has a session of its own and the program's standard output."""
    pid_file = tmp_path / "pid"
    escape = f"setsid sleep 1000 & echo $! >'{pid_file}'; sleep 1000"
    try:
        with pytest.raises(ControlFailed, match=r"no answer within 1 s"):
            run(ControlProgram(tmp_path, {"*": escape}).control(deadline_s=1).servers())
    finally:
        os.kill(int(pid_file.read_text()), signal.SIGKILL)


def test_noise_on_standard_error_is_no_answer(tmp_path: Path) -> None:
    assert run(answering(tmp_path, "echo 'setlocale: No such file' >&2; echo 12").servers()) == [12]


def test_the_language_of_the_host_does_not_matter(tmp_path: Path) -> None:
    program = ControlProgram(tmp_path, {"*": 'test "$LC_ALL" = C && echo 12'})
    assert run(program.control().servers()) == [12]


def test_asking_can_be_given_up(tmp_path: Path) -> None:
    """When the daemon stops, no program of it stays behind."""
    pid_file = tmp_path / "pid"
    program = ControlProgram(
        tmp_path, {"*": f"echo $$ >'{pid_file}.new'; mv '{pid_file}.new' '{pid_file}'; sleep 1000"}
    )

    async def given_up() -> int:
        task = asyncio.ensure_future(program.control().servers())
        while not pid_file.exists():
            await asyncio.sleep(0)
        pid = int(pid_file.read_text())
        task.cancel()
        await asyncio.wait([task])
        return pid

    assert ends(run(given_up()))


def test_a_stopped_program_is_late_too(tmp_path: Path) -> None:
    code = f"import os; os.kill(os.getpid(), {int(signal.SIGSTOP)})"
    with pytest.raises(ControlFailed, match="no answer"):
        run(ControlProgram(tmp_path, {"*": f'exec {sys.executable} -c "{code}"'}).control(deadline_s=0.3).servers())


@requires("soft")
def test_the_stand_in_answers_in_forms_that_are_known(software_host: SoftwareHost) -> None:
    control = Control(os.fspath(software_host.control_program), software_host.environment)
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
