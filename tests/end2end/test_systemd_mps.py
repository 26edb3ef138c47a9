# SPDX-License-Identifier: Apache-2.0
"""This test will run MPS and a standby as units of a real systemd, NVIDIA's own program and the stand-in alike."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from end2end.systemd_root import MPSAFE, NEEDS, REPOSITORY, SystemdRoot, daemon, end
from requires import requires

pytestmark = requires(*NEEDS)

USER = 65534
UNIT = f"mpsafe-mps@{USER}.service"
PIPES = f"/run/mpsafe-mps/{USER}"
LOGS = f"/var/log/mpsafe-mps/{USER}"
PROGRAM = Path("/usr/local/bin/nvidia-cuda-mps-control")
CANNOT_FETCH = 77
STAND_IN = """#!/bin/sh
export PYTHONPATH={root}/daemon
exec {python} -S -m mpsafe.soft.control "$@"
"""


def real_program() -> Path:
    """The newest of NVIDIA's own that there is."""
    fetch: list[str | Path] = [REPOSITORY / "tools/packages/unpack", "nvidia-cuda-mps"]
    fetched = subprocess.run(fetch, capture_output=True, text=True, check=False)
    if fetched.returncode == CANNOT_FETCH:
        pytest.skip(fetched.stderr.strip())
    tree = max(line.split(" ", 1) for line in fetched.stdout.splitlines())[1]
    return Path(tree).resolve() / "usr/bin/nvidia-cuda-mps-control"


@pytest.fixture(scope="module", params=["real", "stand-in"])
def mps(host: SystemdRoot, request: pytest.FixtureRequest) -> Iterator[SystemdRoot]:
    """The host with one of the programs, that everybody may run."""
    if request.param == "real":
        program = real_program()
        host.run("ln", "-s", program, PROGRAM)
    else:
        program = Path(sys.base_prefix, "bin", "python3")
        host.write(PROGRAM, STAND_IN.format(root=REPOSITORY, python=program))
        host.run("chmod", "0755", PROGRAM)
    host.run("chmod", "a+x", *list(program.parents)[:-1])
    yield host
    host.run("rm", PROGRAM)


@pytest.fixture
def started(mps: SystemdRoot) -> Iterator[SystemdRoot]:
    """With the user's control daemon, which answers as soon as it is started."""
    mps.run("systemctl", "start", UNIT)
    assert answers(mps)
    yield mps
    mps.run("systemctl", "stop", UNIT)
    mps.run("systemctl", "reset-failed", status=None)


def ask(host: SystemdRoot, command: str) -> str:
    """What the front end says to root, who may enter a user's directory."""
    script = f'echo "{command}" | CUDA_MPS_PIPE_DIRECTORY={PIPES} {PROGRAM}'
    return host.run("sh", "-c", script, status=None)


def answers(host: SystemdRoot) -> bool:
    return ask(host, "get_default_active_thread_percentage") == "100.0\n"


def main_pid(host: SystemdRoot) -> int:
    return int(host.show(UNIT, "MainPID"))


def about(host: SystemdRoot, *paths: str) -> list[str]:
    """Mode and owner."""
    return host.run("stat", "--format=%a %u", *paths).splitlines()


def test_it_runs_as_its_user_in_directories_that_are_its_users_alone(started: SystemdRoot) -> None:
    assert about(started, f"/proc/{main_pid(started)}") == [f"555 {USER}"]
    assert about(started, PIPES, LOGS) == [f"700 {USER}"] * 2
    assert about(started, "/run/mpsafe-mps", "/var/log/mpsafe-mps") == ["755 0"] * 2
    assert "Starting control daemon" in started.run("cat", f"{LOGS}/control.log")


def test_mpsafed_may_choose_other_directories(mps: SystemdRoot) -> None:
    settings = Path(f"/run/mpsafe/mps-{USER}.env")
    mps.write(settings, f'CUDA_MPS_LOG_DIRECTORY="{PIPES}"\n')
    mps.run("systemctl", "start", UNIT)
    assert answers(mps)
    mps.run("test", "-s", f"{PIPES}/control.log")
    mps.run("systemctl", "stop", UNIT)
    mps.run("rm", settings)


def test_it_lives_on_whatever_becomes_of_mpsafed(started: SystemdRoot) -> None:
    pid = main_pid(started)
    end(started, daemon(started), signal.SIGKILL)
    started.run("systemctl", "restart", "mpsafed.service")
    started.run("systemctl", "stop", "mpsafed.service", "mpsafed.socket")
    assert main_pid(started) == pid
    assert answers(started)
    started.run("systemctl", "start", "mpsafed.socket")


def test_it_comes_back_after_a_kill(started: SystemdRoot) -> None:
    pid = main_pid(started)
    started.run("systemctl", "kill", "--signal=KILL", "--kill-whom=main", UNIT)
    started.run("tail", f"--pid={pid}", "--follow", "/dev/null")
    while (state := started.show(UNIT, "ActiveState")) != "active":
        assert state == "activating"
    assert answers(started)
    assert main_pid(started) not in (0, pid)
    assert started.show(UNIT, "NRestarts") == "1"


def test_stop_asks_it_to_quit(started: SystemdRoot) -> None:
    started.run("systemctl", "stop", UNIT)
    assert started.show(UNIT, "ActiveState") == "inactive"
    assert started.show(UNIT, "Result") == "success"
    log = started.run("cat", f"{LOGS}/control.log")
    assert "quit -t 30" in log
    assert "Exit with status 0" in log
    assert about(started, PIPES) == [f"700 {USER}"], "a client that finds no directory would run without MPS"


def test_quit_by_hand_is_no_failure(started: SystemdRoot) -> None:
    pid = main_pid(started)
    ask(started, "quit")
    started.run("tail", f"--pid={pid}", "--follow", "/dev/null")
    started.run("systemctl", "stop", UNIT)
    assert (started.show(UNIT, "Result"), started.show(UNIT, "NRestarts")) == ("success", "0")


def test_beside_one_that_runs_it_says_that_it_cannot_start(mps: SystemdRoot) -> None:
    directories = f"CUDA_MPS_PIPE_DIRECTORY={PIPES} CUDA_MPS_LOG_DIRECTORY=/tmp"
    mps.run("sh", "-c", f"{directories} {PROGRAM} -d </dev/null >/dev/null 2>&1")
    mps.run("systemctl", "start", UNIT, status=1)
    mps.run("systemctl", "stop", UNIT)
    assert answers(mps), "the first one serves on"
    ask(mps, "quit")
    mps.run("systemctl", "reset-failed", status=None)


def test_roots_own_serves_everybody(mps: SystemdRoot) -> None:
    mps.run("systemctl", "start", "mpsafe-mps@0.service")
    assert about(mps, "/run/mpsafe-mps/0") == ["711 0"]
    mps.run("systemctl", "stop", "mpsafe-mps@0.service")


def test_a_standby_is_its_tenants_and_outside_mps(host: SystemdRoot) -> None:
    settings, program, unit = "/etc/mpsafe/standby/chat.env", "/usr/local/bin/standby", "mpsafe-standby@chat.service"
    host.write(
        Path(program), '#!/bin/sh\nenv >/tmp/standby\nid -u >>/tmp/standby\nid -G >>/tmp/standby\nexec sleep "$1"\n'
    )
    host.run("chmod", "0755", program)
    host.run("systemctl", "start", unit)
    assert host.show(unit, "ConditionResult") == "no", "no file, no standby"
    host.run("mkdir", "/etc/mpsafe/standby")
    host.write(Path(settings), f"STANDBY_COMMAND={program} infinity\n")
    host.run("systemctl", "start", unit)
    host.write(Path(settings), f"STANDBY_USER=nobody\nSTANDBY_GROUP=nogroup\nSTANDBY_COMMAND={program} infinity\n")
    host.run("systemctl", "restart", unit)
    pid = int(host.show(unit, "MainPID"))
    while host.run("cat", f"/proc/{pid}/comm").strip() != "sleep":
        assert host.show(unit, "MainPID") == str(pid)
    told = host.run("cat", "/tmp/standby").splitlines()
    assert "CUDA_MPS_PIPE_DIRECTORY=/run/mpsafe/no-mps" in told
    assert told[-2:] == [str(USER), str(USER)]
    host.run("systemctl", "stop", "mpsafed.service")
    assert host.show(unit, "MainPID") == str(pid)
    assert host.run(MPSAFE, "status", "--json")
    host.run("systemctl", "stop", unit)
    host.run("rm", "-r", "/etc/mpsafe/standby", program)
