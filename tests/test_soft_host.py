# SPDX-License-Identifier: Apache-2.0
"""This test will start and stop software hosts, gently and not, and look for what they leave behind."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from contract.mps_client import MpsClient
from contract.mps_rig import eventually
from mpsafe.errors import SoftwareGpuFailed
from mpsafe.soft import host as host_module
from mpsafe.soft.host import SoftwareHost
from requires import requires

pytestmark = requires("soft")

PATIENCE_S = 60.0

# A user of a software host: says which processes it has started, and ends as its last argument says.
# `stop`: it is killed, and a server is stopped.
USER = """
import os, signal, sys
from pathlib import Path
from mpsafe.soft.host import SoftwareHost

with SoftwareHost(Path(sys.argv[1])) as host:
    daemon = host.start_mps()
    host.control(f"start_server -uid {os.geteuid()}")
    print(host.kernel_pid, daemon, host.control("get_server_list").strip(), flush=True)
    if sys.argv[2] == "stop":
        os.kill(int(host.control("get_server_list")), signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGKILL)
    if sys.argv[2] == "raise":
        raise RuntimeError("something else went wrong")
    signal.pause()
"""


@contextmanager
def watched(*pids: int) -> Generator[list[int]]:
    """A pidfd for each process."""
    with ExitStack() as stack:
        fds = [os.pidfd_open(pid) for pid in pids]
        for fd in fds:
            stack.callback(os.close, fd)
        yield fds


def have_ended(fds: list[int]) -> bool:
    """Whether all of them end, in time."""
    return all(select.select([fd], [], [], PATIENCE_S)[0] for fd in fds)


def test_it_starts_and_ends_all_it_has(place: Path) -> None:
    with SoftwareHost(place) as host:
        daemon = host.start_mps()
        assert daemon == host.mps_pid() == int((host.pipe_directory / "nvidia-cuda-mps-control.pid").read_text())
        with MpsClient(host.environment) as client:
            assert [client.ask("init"), client.ask("open 0"), client.ask("work 0")] == [0, 0, 0]
            server = int(host.control("get_server_list"))
            with watched(host.kernel_pid, daemon, server) as fds:
                host.close()
                assert have_ended(fds), "a client is no reason to stay"
            assert client.ask("end 0") != 0
    assert not (place / "alive").exists()


def test_its_processes_are_sessions_of_their_own(place: Path) -> None:
    with SoftwareHost(place) as host:
        daemon = host.start_mps()
        assert {os.getsid(host.kernel_pid), os.getsid(daemon)} == {host.kernel_pid, daemon}


def test_mps_stops_and_starts_again(place: Path) -> None:
    with SoftwareHost(place) as host:
        assert host.mps_pid() is None
        host.stop_mps()
        first = host.start_mps()
        host.stop_mps()
        assert host.mps_pid() is None
        second = host.start_mps()
        assert second != first
        with pytest.raises(SoftwareGpuFailed, match="An instance of this daemon is already running"):
            host.start_mps()
        assert host.mps_pid() == second


def test_what_others_start_on_it_ends_with_it(place: Path) -> None:
    with SoftwareHost(place) as host:
        host.start_mps()
        host.stop_mps()
        subprocess.run([host.control_program, "-d"], env=host.environment, check=True)
        daemon = host.mps_pid()
        assert daemon is not None
        with watched(daemon) as fds:
            host.close()
            assert have_ended(fds)


def test_a_stopped_daemon_and_server_are_ended_too(place: Path) -> None:
    with SoftwareHost(place) as host:
        daemon = host.start_mps()
        host.control(f"start_server -uid {os.geteuid()}")
        server = int(host.control("get_server_list"))
        with watched(daemon, server) as fds:
            for pid in (daemon, server):
                os.kill(pid, signal.SIGSTOP)
            host.close()
            assert have_ended(fds)


def test_a_kernel_that_has_died_is_no_obstacle(place: Path) -> None:
    with SoftwareHost(place) as host:
        host.start_mps()
        os.kill(host.kernel_pid, signal.SIGKILL)
    assert host.mps_pid() is None


@pytest.mark.parametrize("how", ["interrupt", "kill", "raise", "stop"])
def test_nothing_is_left_when_its_user_ends(place: Path, how: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", USER, place, how],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as user:
        assert user.stdout is not None
        pids = [int(word) for word in user.stdout.readline().split()]
        with watched(*pids) as fds:
            if how in ("interrupt", "kill"):
                os.killpg(user.pid, signal.SIGINT if how == "interrupt" else signal.SIGKILL)
            assert user.wait(PATIENCE_S) != 0
            assert len(fds) == 3 and have_ended(fds), "kernel, control daemon, server"


def test_a_killed_host_is_no_obstacle_to_the_next(place: Path) -> None:
    command = [sys.executable, "-c", USER, os.fspath(place), "wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout is not None
        user.stdout.readline()
        user.kill()
    with SoftwareHost(place) as host:
        eventually(lambda: host.mps_pid() is None, "the end of the daemon of before")
        host.start_mps()
        with MpsClient(host.environment) as client:
            assert [client.ask("init"), client.ask("open 0"), client.ask("work 0")] == [0, 0, 0]


def test_a_program_started_by_hand_needs_no_host(place: Path) -> None:
    command = [sys.executable, "-S", "-m", "mpsafe.soft.kernel", "--dir", os.fspath(place)]
    env = {**os.environ, "PYTHONPATH": os.fspath(Path(host_module.__file__).parents[2])}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as kernel:
        assert kernel.stdout is not None
        assert kernel.stdout.readline() == "ready\n"
        assert kernel.poll() is None
        kernel.terminate()
    assert kernel.returncode == -signal.SIGTERM


def test_a_kernel_that_cannot_start_is_told(place: Path) -> None:
    place.mkdir(exist_ok=True)
    (place / "kmsg").mkdir()
    with pytest.raises(SoftwareGpuFailed, match="the software kernel ended with status 1"):
        SoftwareHost(place)
    assert not (place / "alive").exists()


def test_without_libraries_it_says_so(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "LIBRARIES", place)
    with pytest.raises(SoftwareGpuFailed, match=r"libcuda\.so\.1"):
        SoftwareHost(place)
