# SPDX-License-Identifier: Apache-2.0
"""This test will open the directories of MPS to others in each way, and ask control programs how old they are."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from as_user import as_user
from control_daemon import declared
from control_program import ControlProgram
from doctor_scene import lines
from mpsafe.doctor.directories import directories
from mpsafe.doctor.old_control import old_control
from mpsafe.doctor.processes import Processes
from mpsafe.doctor.scene import Scene
from mpsafe.doctor.told import Told
from mpsafe.soft.host import SoftwareHost
from requires import requires

NOBODY = 65534


@pytest.fixture
def pipes(place: Path) -> Iterator[Path]:
    for name in ("mps", "log"):
        (place / name).mkdir(mode=0o700)
    yield place / "mps"


def seen(pipes: Path, *, uid: int | None = None, as_uid: int = 0) -> Scene:
    return Scene(Told(controls=[declared(pipes, uid=uid)]), Processes(), uid=as_uid)


def about(pipes: Path, *, uid: int | None = None, as_uid: int = 0) -> list[str]:
    return [line for line in lines(directories(seen(pipes, uid=uid, as_uid=as_uid))) if os.fspath(pipes.parent) in line]


@requires("root")
def test_directories_that_are_well(pipes: Path) -> None:
    assert about(pipes) == [f"ok: {pipes}: its directories are its owner's alone"]


@requires("root")
@pytest.mark.parametrize(("mode", "who"), [(0o777, "everybody"), (0o1777, "everybody"), (0o775, "group 0")])
def test_others_may_write(pipes: Path, mode: int, who: str) -> None:
    pipes.chmod(mode)
    pipes.with_name("log").chmod(mode)
    may_write, log = f"can be written by {who}: anyone can", pipes.with_name("log")
    assert about(pipes) == [
        f"warning: the pipe directory {pipes} {may_write} take its sockets away and pose as MPS",
        f"warning: the log directory {log} {may_write} forge what its log says",
    ]


@requires("root")
def test_a_foreign_owner(pipes: Path) -> None:
    os.chown(pipes, NOBODY, NOBODY)
    assert about(pipes)[0].startswith(f"wrong: the pipe directory {pipes} belongs to uid {NOBODY}")
    assert about(pipes, uid=1001)[0].startswith("wrong"), "nor is it uid 1001's"
    assert about(pipes, uid=NOBODY)[0].startswith("ok"), "it is that user's own"


@requires("root")
def test_a_link(pipes: Path) -> None:
    real = pipes.rename(pipes.with_name("real"))
    pipes.symlink_to(real)
    assert f"wrong: the pipe directory {pipes} is a symbolic link to {real}" in about(pipes)


@requires("root")
def test_logs_that_cannot_be_read(pipes: Path) -> None:
    log = pipes.with_name("log")
    (log / "server.log").mkdir()
    assert about(pipes) == [f"wrong: {log}/server.log cannot be read: it is no file"]
    (log / "server.log").rmdir()
    (log / "server.log").touch(0o600)
    log.chmod(0o755)
    with as_user(NOBODY):
        assert about(pipes, as_uid=NOBODY) == [f"note: {log}/server.log cannot be read: Permission denied"]


@requires("root")
def test_what_cannot_be_looked_at_is_said(pipes: Path) -> None:
    pipes.parent.chmod(0o700)
    with as_user(NOBODY):
        told = about(pipes, as_uid=NOBODY)
    pipes.parent.chmod(0o755)
    assert f"note: the pipe directory {pipes} cannot be looked at: Permission denied" in told


@requires("root")
def test_a_log_directory_that_is_not_there(pipes: Path) -> None:
    pipes.with_name("log").rmdir()
    assert about(pipes) == [
        f"note: the log directory {pipes.with_name('log')} cannot be looked at: No such file or directory"
    ]


@requires("soft")
@pytest.mark.parametrize(
    ("answers", "severity"), [({}, "wrong"), ({"get_server_status 1": 'echo "Server 1 not found"'}, "ok")]
)
def test_the_branch_of_an_open_control_daemon_is_asked_for(
    software_host: SoftwareHost,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answers: dict[str, str],
    severity: str,
) -> None:
    """The program of branch 535 answers `Unknown command` to what 550 knows."""
    program = ControlProgram(tmp_path, answers)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    pipes = software_host.pipe_directory
    assert list(old_control(seen(pipes))) == [], "nobody else can enter"
    assert program.commands() == []
    pipes.chmod(0o755)
    (found,) = [finding for finding in old_control(seen(pipes)) if finding.path == os.fspath(pipes)]
    assert found.severity == severity
    assert program.commands() == ["get_server_status 1"]
    software_host.stop_mps()
    assert [f for f in old_control(seen(pipes)) if f.path == os.fspath(pipes)] == [], "there is nobody to ask"


@requires("soft")
def test_the_real_stand_in_is_of_a_new_branch(software_host: SoftwareHost, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PATH", "PYTHONPATH"):
        monkeypatch.setenv(name, software_host.environment[name])
    software_host.pipe_directory.chmod(0o755)
    found = [f for f in old_control(seen(software_host.pipe_directory)) if str(software_host.directory) in f.text]
    assert [finding.severity for finding in found] == ["ok"]
