# SPDX-License-Identifier: Apache-2.0
"""This test will hold each check against a host that is well and one that is not, and run the command."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from command import mpsafe
from control_daemon import declared
from daemon_process import Mpsafed
from doctor_scene import cuda_program, lines, of, scene, tree
from mpsafe.doctor import CHECKS, examine
from mpsafe.doctor.client_limits import client_limits
from mpsafe.doctor.compute_mode import compute_mode
from mpsafe.doctor.daemon import daemon
from mpsafe.doctor.declared_limits import declared_limits
from mpsafe.doctor.finding import Finding
from mpsafe.doctor.group import group
from mpsafe.doctor.processes import Processes
from mpsafe.doctor.scene import Scene
from mpsafe.doctor.told import Told, ask
from mpsafe.doctor.versions import versions
from mpsafe.errors import DaemonUnreachable, MpsafeError
from mpsafe.model import Device, SourceState
from mpsafe.protocol.host import Description
from mpsafe.soft.host import SoftwareHost
from requires import requires
from served import Declared, Served

HOST = Description("1.0", 5, 1, ["mps"], True, "none", [], "", [], 0, 0)
DEVICE = Device("GPU-1", 0, "a device", "0000:01:00.0", "550.163.01", 1, 0, False, "default")
MODULE = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.163.01  Tue Apr  8 12:41:17 UTC 2025\nGCC version:  gcc 12\n"
)
OPEN_MODULE = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.163.01  Release Build  (root@host)\n"
REFUSED: list[MpsafeError] = [DaemonUnreachable("/run/mpsafe/mpsafe.varlink", "Connection refused")]
LIBRARIES = "/usr/lib/x86_64-linux-gnu"


def told(scene: Told) -> Scene:
    return Scene(scene, Processes())


# The daemon.


def test_a_daemon_that_does_not_answer_is_wrong() -> None:
    found = list(daemon(told(Told(refused=REFUSED))))
    assert lines(found) == [
        f"wrong: {REFUSED[0]}",
        "note: without mpsafed, clients, limits and devices are not compared",
    ]
    assert found[0].way_out == REFUSED[0].hint


def test_what_the_daemon_cannot_see() -> None:
    assert lines(daemon(told(Told(HOST)))) == ["ok: mpsafed 1.0 answers, pid 5"]
    sources = [SourceState("kernel-log", False, "Permission denied"), SourceState("driver", True, "")]
    blind = replace(HOST, acting=False, trouble="no answer", sources=sources, lost_signals=3)
    assert [line.partition(":")[0] for line in lines(daemon(told(Told(blind))))] == [
        "ok", "note", "warning", "warning", "warning",
    ]  # fmt: skip
    assert "warning: mpsafed cannot see kernel-log: Permission denied" in lines(daemon(told(Told(blind))))


@requires("soft")
def test_everything_is_asked_of_a_real_daemon(mpsafed: Mpsafed) -> None:
    answer = ask(mpsafed.socket)
    assert answer.host is not None
    assert answer.host.pid == mpsafed.pid
    assert [device.software for device in answer.devices] == [True]
    mpsafed.kill()
    gone = ask(mpsafed.socket)
    assert gone.host is None
    assert [type(error) for error in gone.refused] == [DaemonUnreachable]


@requires("soft")
def test_control_daemons_are_asked_for_where_the_daemon_has_them(software_host: SoftwareHost) -> None:
    control = declared(software_host.pipe_directory, drift=["50 % was declared, 100 % is in force"])
    with Served(software_host, Declared(control)) as served:
        found = mpsafe("doctor", "--socket", served.socket, status=1)
        assert ask(served.socket).controls == [control]
    assert "wrong    control daemon shared, limits that are not in force: 50 % was declared" in found


# Who may act.


@pytest.mark.parametrize(
    ("uid", "groups", "admins", "severity"),
    [(0, {0}, None, "warning"), (0, {0}, 7, "ok"), (1000, {7}, 7, "ok"), (1000, {8}, 7, "note")],
)
def test_the_group(uid: int, groups: set[int], admins: int | None, severity: str) -> None:
    seen = Scene(Told(), Processes(), uid=uid, groups=frozenset(groups), admins=admins)
    assert [finding.severity for finding in group(seen)] == [severity]


# Devices and the driver.


@pytest.mark.parametrize(
    ("mode", "severity", "says"),
    [
        ("default", "note", "a process that misses MPS runs beside it"),
        ("exclusive_process", "note", "a standby outside the MPS server cannot start"),
        ("prohibited", "wrong", "nothing can run on it"),
        ("unknown", "note", "is unknown"),
    ],
)
def test_compute_modes(mode: str, severity: str, says: str) -> None:
    (found,) = compute_mode(told(Told(HOST, devices=[replace(DEVICE, compute_mode=mode)])))
    assert found.severity == severity
    assert says in found.text
    assert "GPU-1" in found.text


def driver(root: Path, *, said: str = MODULE, library: str = "550.163.01", uvm: str = "550.163.01") -> Scene:
    seen = tree(
        root,
        {
            "/proc/driver/nvidia/version": said,
            "/sys/module/nvidia/version": "550.163.01\n",
            "/sys/module/nvidia/srcversion": "AAAA\n",
            "/sys/module/nvidia_uvm/version": f"{uvm}\n",
            "/sys/module/nvidia_uvm/srcversion": "BBBB\n",
            f"{LIBRARIES}/libcuda.so.{library}": "",
        },
    )
    (root / LIBRARIES.lstrip("/") / "libcuda.so.1").symlink_to(f"libcuda.so.{library}")
    return seen


@pytest.fixture
def modinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A program in the place of modinfo, which says what a test has it say."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def answers(script: str) -> None:
        (folder / "modinfo").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "modinfo").chmod(0o755)

    answers('case "$5" in nvidia) echo AAAA ;; nvidia_uvm) echo BBBB ;; esac')
    return answers


@pytest.mark.parametrize("said", [MODULE, OPEN_MODULE])
@pytest.mark.usefixtures("modinfo")
def test_a_driver_of_one_version(tmp_path: Path, said: str) -> None:
    assert lines(versions(driver(tmp_path / "root", said=said))) == [
        "ok: driver 550.163.01: modules and libraries are of one version"
    ]


@pytest.mark.usefixtures("modinfo")
def test_a_library_and_a_module_of_another_version(tmp_path: Path) -> None:
    found = lines(versions(driver(tmp_path / "root", library="555.42.02", uvm="535.309.01")))
    assert found == [
        f"wrong: {LIBRARIES}/libcuda.so.1 is of version 555.42.02, the running module of 550.163.01",
        "wrong: module nvidia_uvm runs in version 535.309.01, nvidia in 550.163.01",
    ]


def test_modules_on_disk(tmp_path: Path, modinfo: Callable[[str], None]) -> None:
    seen = driver(tmp_path / "root")
    modinfo('test "$5" = nvidia && echo AAAA || echo CCCC')
    assert lines(versions(seen)) == [
        "warning: module nvidia_uvm on disk is another build (srcversion CCCC) than the one that runs (BBBB)"
    ]
    modinfo('echo "modinfo: ERROR: Module not found." >&2; exit 1')
    assert "note: modinfo finds no module nvidia on disk: it was not compared" in lines(versions(seen))


def test_without_a_driver(tmp_path: Path) -> None:
    assert lines(versions(tree(tmp_path, {}))) == ["note: no NVIDIA driver is loaded"]
    odd = tree(tmp_path, {"/proc/driver/nvidia/version": "\0\xff"})
    assert lines(versions(odd)) == ["note: /proc/driver/nvidia/version has no version"]


# Limits.


def test_limits_that_are_not_in_force(tmp_path: Path) -> None:
    well = declared(tmp_path)
    drifted = replace(well, name="uid-1", drift=["50 % was declared, 100 % is in force"])
    down = replace(well, name="uid-2", state="failed", trouble="it ended at once")
    unwanted = replace(well, name="uid-3", state="stopped", wanted=False)
    deaf = replace(well, name="uid-4", trouble="no answer within 5 s")
    assert lines(declared_limits(told(Told(HOST, controls=[well, drifted, down, unwanted, deaf])))) == [
        "ok: control daemon shared runs, and its limits are in force",
        "wrong: control daemon uid-1, limits that are not in force: 50 % was declared, 100 % is in force",
        "wrong: control daemon uid-2 is failed and is to run: it ended at once",
        "warning: control daemon uid-4: no answer within 5 s",
    ]


@requires("soft")
@pytest.mark.parametrize(
    ("visible", "limit", "bad"),
    [
        (None, "0=1G", []),
        (None, "0=1G,1=2G", ["1"]),
        (None, "GPU-1=1G", []),
        (None, "GPU-2=1G", ["GPU-2"]),
        ("0", "0=1G", []),
        ("3,4", "1=1G", []),
        ("3,4", "3=1G", ["3"]),
        ("0,-1,1", "1=1G", ["1"]),
        ("GPU-abcd", "GPU-abcd=1G", []),
        ("", "0=1G", ["0"]),
    ],
)
def test_a_limit_for_a_device_that_is_not_seen(
    software_host: SoftwareHost, visible: str | None, limit: str, bad: list[str]
) -> None:
    process = next(
        process
        for process in _program(software_host, {"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": limit}).processes.found
        if "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT" in process.environment
    )
    if visible is not None:
        process = replace(process, environment={**process.environment, "CUDA_VISIBLE_DEVICES": visible})
    seen = Scene(Told(HOST, devices=[DEVICE]), Processes([process]))
    found = [finding for finding in client_limits(seen) if finding.severity == "wrong"]
    assert [f"names device {device}," in finding.text for device, finding in zip(bad, found, strict=True)] == [
        True
    ] * len(bad)
    assert all(finding.pid == process.pid for finding in found)


def _program(host: SoftwareHost, more: dict[str, str]) -> Scene:
    with cuda_program({**host.environment, **more}) as process:
        seen = scene()
        return replace(seen, processes=Processes([p for p in seen.processes.found if p.pid == process.pid]))


# All of it.


def test_a_check_that_meets_what_it_cannot_read_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setitem(CHECKS, "driver", lambda scene: iter([Finding("ok", str(list((tmp_path / "file").iterdir())))]))
    found = examine(tree(tmp_path, {}))
    (failed,) = [finding for finding in found if finding.check == "driver"]
    assert (failed.severity, failed.text) == ("warning", f"{tmp_path}/file cannot be looked at: Not a directory")
    assert {finding.check for finding in found} >= {"daemon", "who may act"}


@requires("soft")
def test_the_command_names_what_is_wrong(mpsafed: Mpsafed) -> None:
    misspelt = f"{mpsafed.host.pipe_directory}s"
    with cuda_program({**mpsafed.host.environment, "CUDA_MPS_PIPE_DIRECTORY": misspelt}) as process:
        found = mpsafe("doctor", "--socket", mpsafed.socket, status=1)
        answer = msgspec.json.decode(mpsafe("doctor", "--json", "--socket", mpsafed.socket, status=1))
    assert f"process {process.pid} (" in found
    assert f"{misspelt} does not exist" in found
    assert answer["shape"] == "mpsafe.doctor/1"
    wrong = of(msgspec.convert(answer["findings"], list[Finding]), process)
    assert [(finding.check, finding.severity, finding.path) for finding in wrong] == [("bypass", "wrong", misspelt)]


def test_the_command_without_a_daemon(place: Path) -> None:
    told = mpsafe("doctor", "--socket", place / "nobody", status=1)
    assert f"wrong    mpsafed does not answer on {place}/nobody" in told
    assert "who may act" in told, "what needs no daemon is looked at"
