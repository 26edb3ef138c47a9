# SPDX-License-Identifier: Apache-2.0
"""This test will make directories for control daemons, find traps in their places, and ask who can write in them."""

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from contract.mps_rig import NOBODY, eventually
from control_daemons import BRANCHES, rig, run
from mpsafe.errors import ControlFailed
from mpsafe.model import Limits
from mpsafed.child import group_of
from mpsafed.declared import Declared
from mpsafed.mps.directories import make_directories, writer
from mpsafed.mps.starting import start_control
from requires import requires

SOMEBODY = NOBODY - 1


def declared(place: Path, uid: int | None = None) -> Declared:
    return Declared("one", uid, "program", place / "pipes" / "one", place / "logs" / "one", "session")


def about(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)


def test_one_for_everybody_lets_everybody_in_and_nobody_read(place: Path) -> None:
    one = declared(place)
    make_directories(one)
    make_directories(one)
    assert about(one.pipe_directory) == (os.geteuid(), os.getegid(), 0o711)
    assert about(one.log_directory) == (os.geteuid(), os.getegid(), 0o700)
    assert about(one.pipe_directory.parent)[2] == 0o755 & ~current_umask()


@requires("root")
def test_a_users_own_is_the_users_alone(place: Path) -> None:
    one = declared(place, NOBODY)
    make_directories(one)
    make_directories(one)
    for path in (one.pipe_directory, one.log_directory):
        assert about(path) == (NOBODY, group_of(NOBODY), 0o700)


@requires("root")
def test_what_a_dead_run_left_half_made_is_finished(place: Path) -> None:
    one = declared(place, NOBODY)
    one.pipe_directory.mkdir(mode=0o700, parents=True)
    make_directories(one)
    assert about(one.pipe_directory) == (NOBODY, group_of(NOBODY), 0o700)


def a_link(path: Path) -> None:
    (path.parent / "elsewhere").mkdir(mode=0o700)
    path.symlink_to("elsewhere")


def a_link_to_nowhere(path: Path) -> None:
    path.symlink_to("nowhere")


def a_file(path: Path) -> None:
    path.touch()


def one_for_everybody(path: Path) -> None:
    path.mkdir()
    path.chmod(0o777)


def one_for_a_group(path: Path) -> None:
    path.mkdir()
    path.chmod(0o770)


def another_users(path: Path) -> None:
    path.mkdir(mode=0o700)
    os.chown(path, SOMEBODY, SOMEBODY)


@requires("root")
@pytest.mark.parametrize("uid", [None, NOBODY])
@pytest.mark.parametrize("kind", ["pipes", "logs"])
@pytest.mark.parametrize(
    ("trap", "sentence"),
    [
        (a_link, "a file or a symbolic link is there, expected a directory; remove it"),
        (a_link_to_nowhere, "a file or a symbolic link is there, expected a directory; remove it"),
        (a_file, "a file or a symbolic link is there, expected a directory; remove it"),
        (one_for_everybody, r"others may write in it \(mode 0777\); remove it"),
        (one_for_a_group, r"others may write in it \(mode 0770\); remove it"),
        (another_users, f"it belongs to uid {SOMEBODY}, expected uid"),
    ],
)
def test_traps_are_refused_and_left_alone(
    place: Path, uid: int | None, kind: str, trap: Callable[[Path], None], sentence: str
) -> None:
    one = declared(place, uid)
    path = place / kind / "one"
    path.parent.mkdir()
    trap(path)
    before = path.lstat()
    with pytest.raises(ControlFailed, match=f"{path}: {sentence}"):
        make_directories(one)
    after = path.lstat()
    assert (after.st_mode, after.st_uid, after.st_ino) == (before.st_mode, before.st_uid, before.st_ino)
    if path.is_symlink() and path.exists():
        assert about(path)[0] == os.geteuid(), "what a link leads to is not given away"


@requires("root")
@pytest.mark.parametrize(("owner", "mode"), [(0, 0o777), (SOMEBODY, 0o755)])
def test_a_parent_that_others_rule_is_refused(place: Path, owner: int, mode: int) -> None:
    parent = place / "pipes"
    parent.mkdir()
    parent.chmod(mode)
    os.chown(parent, owner, owner)
    with pytest.raises(ControlFailed, match=f"{parent} can be written by others than root; choose another"):
        make_directories(declared(place, NOBODY))


def test_a_place_that_cannot_be(place: Path) -> None:
    (place / "pipes").touch()
    with pytest.raises(ControlFailed, match=r"pipes/one: .*; "):
        make_directories(declared(place))


def test_a_shared_ones_logs_can_be_anybodys(place: Path) -> None:
    one = declared(place)
    assert writer(one) is None, "what is not there yet can become anybody's"
    make_directories(one)
    assert writer(one) is None, "the FIFO in the pipe directory takes lines from everybody who can enter"


def test_what_nobody_else_can_enter_is_its_owners(place: Path) -> None:
    one = declared(place)
    make_directories(one)
    one.pipe_directory.chmod(0o700)
    assert writer(one) == (os.geteuid() or 0)
    one.log_directory.chmod(0o733)
    assert writer(one) is None


def test_a_log_that_others_may_write_to_is_anybodys(place: Path) -> None:
    one = declared(place)
    make_directories(one)
    one.pipe_directory.chmod(0o700)
    log = one.log_directory / "server.log"
    log.touch(0o666)
    log.chmod(0o666)
    assert writer(one) == (os.geteuid() or 0), "as long as nobody can enter"
    one.log_directory.chmod(0o755)
    assert writer(one) is None
    log.chmod(0o644)
    assert writer(one) == (os.geteuid() or 0)


@requires("root")
def test_a_users_own_logs_are_the_users(place: Path) -> None:
    one = declared(place, NOBODY)
    make_directories(one)
    assert writer(one) == NOBODY
    os.chown(one.log_directory, 0, 0)
    assert writer(one) == NOBODY
    os.chown(one.log_directory, SOMEBODY, SOMEBODY)
    assert writer(one) is None, "two users"
    os.chown(one.log_directory, NOBODY, NOBODY)
    one.pipe_directory.parent.chmod(0o777)
    assert writer(one) is None, "anybody can put another in its place"


@requires("root")
@pytest.mark.parametrize("which", BRANCHES)
def test_who_may_enter_a_pipe_directory_can_silence_the_logs(which: str, place: Path) -> None:
    """The reason why the lines of one that serves everybody are nobody's word."""
    with rig(which, place) as programs:
        one = programs.declare()
        run(start_control(programs.control(one), Limits()))
        found = programs.control(one).identity()
        assert found is not None
        assert len(os.listdir(f"/proc/{found.pid}/task")) == 2
        nonsense = f"head -c 60 /dev/zero >'{one.pipe_directory}/log'"
        subprocess.run(["sh", "-c", nonsense], user=NOBODY, group=NOBODY, extra_groups=[], check=True)
        eventually(
            lambda: len(os.listdir(f"/proc/{found.pid}/task")) == 1, "the end of the thread that writes the logs"
        )
        before = (one.log_directory / "control.log").read_text()
        assert programs.front_end(one, typed="get_default_client_priority") == "0\n"
        assert (one.log_directory / "control.log").read_text() == before
        assert writer(one) is None


def current_umask() -> int:
    old = os.umask(0)
    os.umask(old)
    return old
