# SPDX-License-Identifier: Apache-2.0
"""This test will freeze real processes by a real cgroup, and refuse every path that does not lead to one."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from control_program import ControlProgram
from mpsafe.model import ActionState, Identity
from mpsafed.fence import FenceLimits, Surroundings, fence
from mpsafed.freezer import Freezer, cgroup_root
from mpsafed.processes import identify
from requires import requires

ROOT = cgroup_root()
PATIENCE_S = 60.0


class Cgroup:
    """A cgroup of the test's own, with a process in a cgroup below it."""

    def __init__(self, name: str) -> None:
        assert ROOT is not None
        self.path = Path("/", name)
        self.directory = ROOT / name
        (self.directory / "below").mkdir(parents=True)
        self.process = subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        (self.directory / "below" / "cgroup.procs").write_text(str(self.process.pid))

    @property
    def frozen(self) -> bool:
        return "frozen 1" in (self.directory / "cgroup.events").read_text().splitlines()

    def remove(self) -> None:
        (self.directory / "cgroup.freeze").write_text("0")
        self.process.kill()
        self.process.communicate()
        (self.directory / "below").rmdir()
        self.directory.rmdir()


def _writable() -> bool:
    return ROOT is not None and os.access(ROOT, os.W_OK) and os.access(ROOT / "cgroup.procs", os.W_OK)


real = pytest.mark.skipif(not _writable(), reason="no cgroup v2 hierarchy that this user may write to")


@pytest.fixture
def cgroup() -> Iterator[Cgroup]:
    made = Cgroup(f"mpsafe-test-{os.getpid()}")
    yield made
    made.remove()


def freeze(freezer: Freezer, cgroup: Path, *, member: int, spared: tuple[int, ...] = ()) -> str:
    return asyncio.run(freezer.freeze(cgroup, member=member, spared=spared))


@real
@requires("root")
def test_all_of_a_cgroup_is_frozen_and_thawed(cgroup: Cgroup) -> None:
    freezer = Freezer(ROOT, freeze_s=PATIENCE_S)
    for _ in range(2):
        assert freeze(freezer, cgroup.path, member=cgroup.process.pid) == ""
        assert cgroup.frozen
    os.kill(cgroup.process.pid, 18)
    assert cgroup.frozen, "unlike SIGSTOP nobody within can undo it"
    for _ in range(2):
        assert freezer.thaw(cgroup.path) == ""
    assert cgroup.process.communicate(b"\n", PATIENCE_S)[0] is None
    assert cgroup.process.returncode == 0


@real
@requires("root")
def test_a_cgroup_that_others_are_in_is_not_touched(cgroup: Cgroup) -> None:
    freezer, other = Freezer(ROOT), cgroup.process.pid
    assert freeze(freezer, cgroup.path, member=os.getpid()) == f"process {os.getpid()} is not in cgroup {cgroup.path}"
    said = freeze(freezer, cgroup.path, member=other, spared=(other,))
    assert said == f"process {other} is in cgroup {cgroup.path} too"
    above = PurePosixPath(str(cgroup.path)).parent
    assert "process 1 is in" in freeze(freezer, Path(above), member=other)
    assert not cgroup.frozen


@real
@requires("root")
def test_a_cgroup_that_does_not_freeze_in_time_is_thawed(cgroup: Cgroup) -> None:
    said = freeze(Freezer(ROOT, freeze_s=0), cgroup.path, member=cgroup.process.pid)
    assert said in ("", f"cgroup {cgroup.path}: not frozen within 0 s"), "it may be so at once"
    asked = (cgroup.directory / "cgroup.freeze").read_text().strip()
    assert asked == ("0" if said else "1")


@real
@requires("root")
@pytest.mark.parametrize("reached", ["requested", "frozen", "cut", "terminating"])
@pytest.mark.parametrize("how", ["cgroup", "SIGSTOP"])
def test_a_fence_undoes_what_a_dead_daemon_did(tmp_path: Path, cgroup: Cgroup, reached: ActionState, how: str) -> None:
    """It runs while it is terminated, however it was frozen."""
    pid = cgroup.process.pid
    if how == "cgroup":
        (cgroup.directory / "cgroup.freeze").write_text("1")
    else:
        os.kill(pid, 19)
    state = f"grep -q '^State:.*T ' /proc/{pid}/status || grep -q 'frozen 1' {cgroup.directory}/cgroup.events"
    told, states = walk(tmp_path, cgroup, f"{state} || echo 0", reached=reached)
    assert states[-2:] == ["proven", "killed"]
    assert not cgroup.frozen
    if reached in ("requested", "frozen"):
        assert told[0] == f"cgroup {cgroup.path}: it publishes nothing from here on"


@real
@requires("root")
def test_a_client_that_ends_while_it_is_frozen_leaves_nobody_frozen(tmp_path: Path, cgroup: Cgroup) -> None:
    """The others of its cgroup are the same tenant's and have done nothing."""
    sibling = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    (cgroup.directory / "cgroup.procs").write_text(str(sibling.pid))
    (cgroup.directory / "cgroup.freeze").write_text("1")
    identity = identify(cgroup.process.pid)
    cgroup.process.kill()
    cgroup.process.wait()
    _, states = walk(tmp_path, cgroup, "echo 0", reached="frozen", identity=identity)
    assert states == ["assumed", "killed"]
    sibling.communicate(b"\n", PATIENCE_S)
    assert sibling.returncode == 0


@real
@requires("root")
def test_without_the_cgroup_there_is_sigstop(tmp_path: Path, cgroup: Cgroup) -> None:
    told, states = walk(tmp_path, cgroup, "echo 0", path=Path("/not/there"))
    assert states == ["frozen", "cut", "terminating", "proven", "killed"]
    assert told[0].startswith("SIGSTOP: ")
    assert "not in cgroup /not/there" in told[0]


def walk(
    tmp_path: Path,
    cgroup: Cgroup,
    answer: str,
    *,
    reached: ActionState = "requested",
    identity: Identity | None = None,
    path: Path | None = None,
) -> tuple[list[str], list[ActionState]]:
    """A fence of the process in the cgroup: what it told."""
    identity = identity or identify(cgroup.process.pid)
    assert identity is not None
    told: list[str] = []
    states: list[ActionState] = []

    def progress(state: ActionState, detail: str) -> None:
        states.append(state)
        told.append(detail)

    control = ControlProgram(tmp_path, {"terminate_client*": answer}).control()
    around = Surroundings(
        controls=lambda client, server: [control],
        cut=lambda client: None,
        may_signal=lambda client: True,
        cgroup_of=lambda client: path or cgroup.path,
        neighbours=lambda client: [],
        freezer=Freezer(ROOT, freeze_s=PATIENCE_S),
        release=lambda client: None,
    )
    limits = FenceLimits(PATIENCE_S, PATIENCE_S)
    asyncio.run(fence(identity, 1, around=around, limits=limits, progress=progress, reached=reached))
    return told, states


def hierarchy(directory: Path) -> Freezer:
    (directory / "root" / "tenant").mkdir(parents=True)
    (directory / "elsewhere").mkdir()
    for folder in ("root/tenant", "elsewhere"):
        (directory / folder / "cgroup.freeze").write_text("0")
    (directory / "root" / "link").symlink_to(directory / "elsewhere")
    (directory / "root" / "linked").mkdir()
    (directory / "root" / "linked" / "cgroup.freeze").symlink_to(directory / "elsewhere" / "cgroup.freeze")
    return Freezer(directory / "root")


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/link", "Not a directory"),
        ("/linked", "Too many levels of symbolic links"),
        ("/tenant/../../elsewhere", "is no path below the root"),
        ("/", "is no path below the root"),
        ("tenant", "is no path below the root"),
        ("/missing", "No such file or directory"),
    ],
)
def test_no_way_leads_out_of_the_hierarchy(tmp_path: Path, path: str, why: str) -> None:
    freezer = hierarchy(tmp_path)
    (tmp_path / "elsewhere" / "cgroup.freeze").write_text("as it was")
    assert why in freezer.thaw(Path(path))
    assert (tmp_path / "elsewhere" / "cgroup.freeze").read_text() == "as it was"
    assert freezer.thaw(Path("/tenant")) == ""


def test_the_hierarchy_is_found_where_it_is_mounted(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    v1 = "32 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n33 32 0:34 / /f rw - cgroup cgroup rw\n"
    part = "40 31 0:38 /a/part /mnt rw,relatime - cgroup2 cgroup2 rw\n"
    mounts.write_text(v1 + part)
    assert cgroup_root(mounts) is None, "a part of it does not have the paths that processes tell"
    mounts.write_text(v1 + part + "41 31 0:38 / /sys/fs/cgroup/unified rw shared:5 - cgroup2 cgroup2 rw\n")
    assert cgroup_root(mounts) == Path("/sys/fs/cgroup/unified")


def test_without_a_hierarchy_it_says_so() -> None:
    assert Freezer(None).thaw(Path("/tenant")) == "cgroup /tenant: no cgroup v2 hierarchy is mounted"
