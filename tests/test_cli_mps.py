# SPDX-License-Identifier: Apache-2.0
"""This test will steer MPS control daemons from the command line, and read how far a fault reaches."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from command import Terminal, mpsafe, printed
from control_daemon import declared
from mpsafe.cli.control import limits_text, reach
from mpsafe.model import ControlDaemon, Identity, Limits, Server
from mpsafe.soft.host import SoftwareHost
from requires import requires
from served import Declared, Served

DEVICE = "GPU-8c1ee2d3-27f1-4c5b-9c68-0f5bd2d1a1e7"


@pytest.fixture(scope="module")
def host() -> Iterator[SoftwareHost]:
    with tempfile.TemporaryDirectory(prefix="mpsafe-") as name, SoftwareHost(Path(name)) as host:
        yield host


@pytest.fixture
def supervisor(host: SoftwareHost) -> Declared:
    pipes, limits = host.pipe_directory, Limits(50, 1, {"0": 2048})
    mine = declared(pipes, name="uid-1001", uid=1001, identity=Identity(42, 1), declared=limits)
    return Declared(mine, declared(pipes, interface="v3"))


@pytest.fixture
def served(host: SoftwareHost, supervisor: Declared) -> Iterator[Served]:
    with Served(host, supervisor) as served:
        yield served
    Path(served.socket).unlink()


def found(served: Served, *arguments: str) -> ControlDaemon:
    answer = printed("mps", *arguments, "--socket", served.socket)
    assert answer["shape"] == "mpsafe.control/1"
    return msgspec.convert(answer["control"], ControlDaemon)


@requires("soft")
def test_status_says_what_runs_and_how_far_a_fault_reaches(served: Served, supervisor: Declared) -> None:
    answer = printed("mps", "status", "--socket", served.socket)
    assert answer["shape"] == "mpsafe.controls/1"
    assert msgspec.convert(answer["controls"], list[ControlDaemon]) == supervisor.overview()
    shown = mpsafe("mps", "status", "--socket", served.socket)
    assert "a fault of one client of uid 1001 reaches uid 1001 alone, which has no client now" in shown
    assert "a fault of one client of any user reaches everybody's clients" in shown
    one = mpsafe("mps", "status", "shared", "--socket", served.socket)
    assert "uid-1001" not in one
    assert "no MPS control daemon named 'nowhere'" in mpsafe(
        "mps", "status", "nowhere", "--socket", served.socket, status=1
    )


@requires("soft")
def test_drift_and_trouble_are_shown_by_both_status_commands(served: Served, supervisor: Declared) -> None:
    drift, trouble = "priority: 1 was declared, 0 is in force", "it ended at once"
    supervisor.controls["uid-1001"] = replace(supervisor.controls["uid-1001"], drift=[drift], in_force=Limits(50, 0))
    supervisor.controls["shared"] = replace(supervisor.controls["shared"], state="failed", trouble=trouble)
    for command in (["mps", "status"], ["status"]):
        shown = mpsafe(*command, "--socket", served.socket)
        assert drift in shown
        assert trouble in shown
    answer = printed("status", "--socket", served.socket)
    assert [one["drift"] for one in answer["controls"]] == [[drift], []]


@requires("soft")
def test_stop_and_start(served: Served, supervisor: Declared) -> None:
    assert found(served, "stop", "uid-1001").state == "stopped"
    assert found(served, "start", "uid-1001").wanted
    assert not found(served, "stop", "--force", "uid-1001").wanted
    assert supervisor.forced == [False, True]
    assert (
        mpsafe("mps", "start", "shared", "--socket", served.socket)
        == "shared is running; limits: none: MPS's own defaults\n"
    )


@requires("soft")
def test_limits_that_are_not_named_stay(served: Served) -> None:
    assert found(served, "limits", "uid-1001").declared == Limits(50, 1, {"0": 2048})
    assert found(served, "limits", "uid-1001", "--show").declared == Limits(50, 1, {"0": 2048})
    changed = found(served, "limits", "uid-1001", "--active-thread-percentage", "37.5", "--pinned-mib", "1=512")
    assert changed.declared == Limits(37.5, 1, {"0": 2048, "1": 512})
    assert found(served, "limits", "uid-1001", "--reset", "--client-priority", "0").declared == Limits(None, 0)
    assert found(served, "limits", "uid-1001", "--reset").declared == Limits()
    both = found(served, "limits", "uid-1001", "--pinned-mib", "0=1", "--pinned-mib", "all=2")
    assert both.declared.pinned_mib == {"0": 1, "all": 2}


@requires("soft")
def test_partitions(served: Served) -> None:
    assert found(served, "partition", "shared", DEVICE, "4", "8").declared.partitions == {DEVICE: [4, 8]}
    assert found(served, "partition", "shared", DEVICE).declared.partitions == {DEVICE: []}
    told = mpsafe("mps", "partition", "shared", "0", "4", "--socket", served.socket, status=1)
    assert "parameter device: expected a UUID" in told


@requires("soft")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["limits"], "name one of the control daemons: uid-1001, shared"),
        (["limits", "shared", "--show", "--reset"], "--show changes nothing"),
        (["limits", "shared", "--pinned-mib", "0"], "is not DEVICE=MIB"),
        (["limits", "shared", "--pinned-mib", "32=1"], "is not DEVICE=MIB"),
        (["limits", "shared", "--pinned-mib", "0=0"], "is not DEVICE=MIB"),
        (["limits", "shared", "--active-thread-percentage", "0"], "is not in the range"),
        (["limits", "shared", "--client-priority", "2"], "is not in the range"),
    ],
)
def test_what_makes_no_sense(served: Served, arguments: list[str], told: str) -> None:
    assert told in mpsafe("mps", *arguments, "--socket", served.socket, status=2)


@requires("soft")
@pytest.mark.parametrize("columns", [80, 140])
def test_it_fits_the_terminal(served: Served, columns: int) -> None:
    with Terminal("mps", "status", "--socket", served.socket, columns=columns) as terminal:
        shown = terminal.until(r"(?s)uid-1001.*shared.*logs[^\n]+\n")
        assert max(len(one.rstrip("\r")) for one in shown.splitlines()) <= columns
        assert terminal.ended() == 0


def test_how_far_a_fault_reaches(tmp_path: Path) -> None:
    one = declared(tmp_path, name="c", uid=1001)
    everybody = replace(one, uid=None)
    servers = [Server(1, 1001, "active", 3, "c"), Server(2, 1002, "active", 9, "other")]
    assert reach(one, servers) == "a fault of one client of uid 1001 reaches its 2 other clients, and nobody else's"
    two = [Server(1, 1001, "active", 2, "c")]
    assert reach(one, two) == "a fault of one client of uid 1001 reaches its 1 other client, and nobody else's"
    assert reach(one, []) == "a fault of one client of uid 1001 reaches uid 1001 alone, which has no client now"
    assert reach(everybody, servers) == "a fault of one client of any user reaches everybody's other 2 clients"
    assert reach(everybody, []) == "a fault of one client of any user reaches everybody's clients"


def test_limits_in_words() -> None:
    assert limits_text(None) == "not known"
    assert limits_text(Limits()) == "none: MPS's own defaults"
    assert limits_text(Limits(37.5, 0, {"0": 1, "all": 2}, {"GPU-1": [2, 4]})) == (
        "37.5 % of the SMs a client; priority normal; 1 MiB a client on device 0; 2 MiB a client on all devices; "
        "partitions of 2, 4 chunks on GPU-1"
    )
