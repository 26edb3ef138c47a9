# SPDX-License-Identifier: Apache-2.0
"""This test will run programs that answer, hang, flood, crash and are not there, also as another user."""

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

from contract.mps_rig import NOBODY
from mpsafe.errors import ControlFailed
from mpsafed.child import NOBODYS_GROUP, group_of
from mpsafed.mps.front_end import OUTPUT_MAX, FrontEnd
from requires import requires

T = TypeVar("T")

NO_SUCH_USER = 4_000_000_000


def run(work: Awaitable[T]) -> T:
    async def bounded() -> T:
        return await asyncio.wait_for(work, 60)

    return asyncio.run(bounded())


def program(directory: Path, words: str, *, deadline_s: float = 60.0, uid: int | None = None) -> FrontEnd:
    """A shell script of these words."""
    path = directory / "program"
    path.write_text(f"#!/bin/sh\n{words}\n")
    path.chmod(0o755)
    return FrontEnd(os.fspath(path), os.environ, deadline_s=deadline_s, uid=uid)


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


def test_a_line_and_arguments(tmp_path: Path) -> None:
    front_end = program(tmp_path, 'read -r line; echo "$# $* $line"')
    assert run(front_end.ask("get_server_list")) == "0  get_server_list\n"
    assert run(front_end.call("server", "list", "--all")) == "3 server list --all \n"


def test_no_control_daemon(tmp_path: Path) -> None:
    front_end = program(tmp_path, "echo Cannot find MPS control daemon process >&2; exit 1")
    with pytest.raises(ControlFailed, match="'ps': no MPS control daemon answers in the pipe directory"):
        run(front_end.ask("ps"))


HANGS_UP = """
read -r line
echo "$line" >>asked
[ $(wc -l <asked) -ge 3 ] || exit 1
echo ACTIVE
"""


def test_a_daemon_that_hangs_up_is_asked_again_what_only_asks(tmp_path: Path) -> None:
    """As that of 580.159.04 does while a server comes up. What does something is done once, or nobody knows."""
    asked = tmp_path / "asked"
    front_end = program(tmp_path, HANGS_UP.replace("asked", os.fspath(asked)))
    assert run(front_end.ask("get_server_status 7")) == "ACTIVE\n"
    assert asked.read_text().splitlines() == ["get_server_status 7"] * 3
    asked.unlink()
    with pytest.raises(ControlFailed):
        run(front_end.ask("shutdown_server 7 -f"))
    assert asked.read_text().splitlines() == ["shutdown_server 7 -f"]


def test_a_command_that_is_refused(tmp_path: Path) -> None:
    """v3 says by its status that it failed, and why on its standard output."""
    front_end = program(tmp_path, "echo Insufficient privileges; exit 1")
    with pytest.raises(ControlFailed, match="'server list': it ended with status 1: Insufficient privileges"):
        run(front_end.call("server", "list"))


def test_a_program_that_crashes(tmp_path: Path) -> None:
    with pytest.raises(ControlFailed, match="it ended with status -6"):
        run(program(tmp_path, "echo 12; kill -ABRT $$").ask("ps"))


def test_no_program(tmp_path: Path) -> None:
    front_end = FrontEnd(os.fspath(tmp_path / "missing"), os.environ)
    with pytest.raises(ControlFailed, match="missing cannot be run: No such file or directory"):
        run(front_end.ask("ps"))
    (tmp_path / "missing").write_text("no program")
    with pytest.raises(ControlFailed, match="missing cannot be run: Permission denied"):
        run(front_end.ask("ps"))


def test_a_program_that_does_not_read_its_command() -> None:
    assert run(FrontEnd("true", os.environ).ask("ps")) == ""


def test_a_program_that_hangs_is_ended_with_all_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    front_end = program(tmp_path, f"sleep 1000 & echo $$ $! >'{pids}'; sleep 1000", deadline_s=0.3)
    with pytest.raises(ControlFailed, match=r"no answer within 0.3 s"):
        run(front_end.ask("ps"))
    found = [int(pid) for pid in pids.read_text().split()] if pids.exists() else []
    assert all(map(ends, found))


@pytest.mark.parametrize("words", ["echo 5; sleep 1000", "kill -STOP $$"])
def test_a_program_that_does_not_end_is_late(tmp_path: Path, words: str) -> None:
    with pytest.raises(ControlFailed, match=r"no answer within 0.3 s"):
        run(program(tmp_path, words, deadline_s=0.3).ask("ps"))


def test_a_program_that_floods_is_bounded(tmp_path: Path) -> None:
    """It is ended once it has said too much, and its words are not kept until then."""
    before = psutil.Process().memory_info().rss
    with pytest.raises(ControlFailed, match="it prints more than"):
        run(program(tmp_path, "exec yes 1").ask("ps"))
    assert psutil.Process().memory_info().rss - before < 16 * OUTPUT_MAX


def test_a_child_that_escapes_does_not_hold_the_answer(tmp_path: Path) -> None:
    """It has a session of its own and the program's standard output."""
    pid_file = tmp_path / "pid"
    words = f"setsid sleep 1000 & echo $! >'{pid_file}'; sleep 1000"
    try:
        with pytest.raises(ControlFailed, match=r"no answer within 1 s"):
            run(program(tmp_path, words, deadline_s=1).ask("ps"))
    finally:
        os.kill(int(pid_file.read_text()), signal.SIGKILL)


def test_noise_on_standard_error_is_no_answer(tmp_path: Path) -> None:
    assert run(program(tmp_path, "echo 'setlocale: No such file' >&2; echo 12").ask("ps")) == "12\n"


def test_the_language_of_the_host_does_not_matter(tmp_path: Path) -> None:
    assert run(program(tmp_path, 'echo "$LC_ALL"').ask("ps")) == "C\n"


def test_asking_can_be_given_up(tmp_path: Path) -> None:
    """When the daemon stops, no program of it stays behind."""
    pid_file = tmp_path / "pid"
    front_end = program(tmp_path, f"echo $$ >'{pid_file}.new'; mv '{pid_file}.new' '{pid_file}'; sleep 1000")

    async def given_up() -> int:
        task = asyncio.ensure_future(front_end.ask("ps"))
        while not pid_file.exists():
            await asyncio.sleep(0)
        pid = int(pid_file.read_text())
        task.cancel()
        await asyncio.wait([task])
        return pid

    assert ends(run(given_up()))


@requires("root")
@pytest.mark.parametrize("uid", [NOBODY, NO_SUCH_USER])
def test_it_runs_as_the_user_and_nothing_of_root_is_left(place: Path, uid: int) -> None:
    words = "grep -E '^(Uid|Gid|Groups|CapEff):' /proc/self/status"
    said = run(program(place, words, uid=uid).ask("ps")).split()
    gid = group_of(uid)
    expected = ["Uid:", *[str(uid)] * 4, "Gid:", *[str(gid)] * 4, "Groups:", "CapEff:", "0" * 16]
    assert said == expected


@requires("root")
def test_a_program_that_the_user_may_not_run(tmp_path: Path) -> None:
    with pytest.raises(ControlFailed, match="cannot be run: Permission denied"):
        tmp_path.chmod(0o700)
        run(program(tmp_path, ":", uid=NOBODY).ask("ps"))


def test_who_is_no_user_of_the_host_is_in_nobodys_group() -> None:
    assert group_of(NO_SUCH_USER) == NOBODYS_GROUP
    assert group_of(os.getuid()) == os.getgid()


def test_no_descriptor_is_left_for_a_program(tmp_path: Path) -> None:
    """A host that is out of descriptors is a sentence, not the end of the daemon."""
    code = """
import asyncio, os, resource
from mpsafed.mps.front_end import FrontEnd
async def main():
    front_end = FrontEnd("true", os.environ)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, 4096))
    try:
        await front_end.ask("ps")
    except Exception as error:
        print(type(error).__name__, error)
asyncio.run(main())
"""
    (tmp_path / "child.py").write_text(code)

    async def said() -> str:
        child = await asyncio.create_subprocess_exec(
            sys.executable, tmp_path / "child.py", stdout=asyncio.subprocess.PIPE
        )
        return (await child.communicate())[0].decode()

    assert "ControlFailed nvidia-cuda-mps-control, 'ps': true cannot be run: Too many open files" in run(said())
