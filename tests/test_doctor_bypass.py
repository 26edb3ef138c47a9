# SPDX-License-Identifier: Apache-2.0
"""This test will run CUDA programs that miss MPS in each way there is, and one that does not."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from as_user import as_user
from control_daemon import declared, kill_mps
from doctor_scene import cuda_program, lines, of, scene
from mpsafe.doctor.bypass import bypass
from mpsafe.doctor.finding import Finding
from mpsafe.doctor.told import Told
from mpsafe.model import Client, Identity, Standby
from mpsafe.soft.host import SoftwareHost
from mpsafed.processes import identify
from requires import requires

pytestmark = requires("soft")
NOBODY = 65534


@pytest.fixture
def told(software_host: SoftwareHost) -> Told:
    return Told(controls=[declared(software_host.pipe_directory)])


def about(process: subprocess.Popen[str], told: Told) -> list[Finding]:
    return of(bypass(scene(told)), process)


def test_a_misspelt_directory(software_host: SoftwareHost, told: Told) -> None:
    misspelt = f"{software_host.pipe_directory}s"
    environment = {**software_host.environment, "CUDA_MPS_PIPE_DIRECTORY": misspelt}
    with cuda_program(environment) as process:
        (found,) = about(process, told)
        assert software_host.control("get_server_list") == "", "it does run outside MPS"
    assert (found.severity, found.path) == ("wrong", misspelt)
    assert f"process {process.pid} (" in found.text
    assert f"its CUDA_MPS_PIPE_DIRECTORY {misspelt} does not exist" in found.text
    assert f"CUDA_MPS_PIPE_DIRECTORY={software_host.pipe_directory}," in found.way_out


def test_a_standby_is_outside_on_purpose(software_host: SoftwareHost, told: Told) -> None:
    environment = {**software_host.environment, "CUDA_MPS_PIPE_DIRECTORY": "/nonexistent"}
    with cuda_program(environment) as process:
        assert [found.severity for found in about(process, told)] == ["wrong"]
        identity = identify(process.pid)
        assert identity is not None
        known = replace(told, standbys=[Standby("chat", identity, os.getuid(), "warm", 0)])
        assert about(process, known) == []


def test_a_directory_where_nobody_listens(software_host: SoftwareHost, told: Told) -> None:
    empty = software_host.directory / "empty"
    empty.mkdir()
    with cuda_program({**software_host.environment, "CUDA_MPS_PIPE_DIRECTORY": os.fspath(empty)}) as process:
        assert [found.severity for found in about(process, told)] == ["wrong"]
        assert "has no control daemon that listens" in about(process, told)[0].text
    software_host.stop_mps()  # its sockets stay, and prove nothing
    assert (software_host.pipe_directory / "control").is_socket()
    with cuda_program(software_host.environment) as process:
        assert "has no control daemon that listens" in about(process, told)[0].text


def test_who_names_no_directory_may_be_a_standby(software_host: SoftwareHost, told: Told) -> None:
    if Path("/tmp/nvidia-mps").exists():
        pytest.skip("somebody uses MPS's default directory on this machine")
    environment = {k: v for k, v in software_host.environment.items() if k != "CUDA_MPS_PIPE_DIRECTORY"}
    with cuda_program(environment) as process:
        (found,) = about(process, told)
        assert (found.severity, found.path) == ("warning", "/tmp/nvidia-mps")
        assert about(process, Told()) == [], "where there is no MPS there is nothing to miss"


def test_a_client_is_well(software_host: SoftwareHost, told: Told) -> None:
    with cuda_program(software_host.environment) as process:
        client = Client(Identity(process.pid, 1), 0, "python", 1, None, "connected")
        assert about(process, replace(told, clients=[client])) == []
        assert about(process, Told()) == [], "without the daemon, it reaches a control daemon"
        (found,) = about(process, told)
        assert found.severity == "warning"
        assert f"is not among the clients of shared, which listens in {software_host.pipe_directory}" in found.text


def test_the_client_of_a_server_that_lost_its_control_daemon(software_host: SoftwareHost, told: Told) -> None:
    with cuda_program(software_host.environment) as process:
        kill_mps(software_host)
        assert about(process, told) == [], "it does not run outside MPS"


@requires("namespaces", "unshare")
def test_a_container_that_sees_another_directory_under_that_path(software_host: SoftwareHost, told: Told) -> None:
    script = 'mount -t tmpfs mpsafe "$CUDA_MPS_PIPE_DIRECTORY" && exec "$@"'
    prefix = ("unshare", "--mount", "sh", "-c", script, "sh")
    with cuda_program(software_host.environment, *prefix) as process:
        (found,) = about(process, told)
        assert found.severity == "wrong"
        assert "has no control daemon that listens" in found.text


@requires("namespaces", "unshare")
def test_a_container_that_sees_the_directory_under_another_path(software_host: SoftwareHost, told: Told) -> None:
    elsewhere = software_host.directory / "elsewhere"
    elsewhere.mkdir()
    script = f'mount --bind "{software_host.pipe_directory}" "{elsewhere}" && exec "$@"'
    environment = {**software_host.environment, "CUDA_MPS_PIPE_DIRECTORY": os.fspath(elsewhere)}
    with cuda_program(environment, "unshare", "--mount", "sh", "-c", script, "sh") as process:
        (found,) = about(process, told)
        assert found.severity == "warning"
        assert "is not among the clients of shared" in found.text


@pytest.fixture
def process_of_root(software_host: SoftwareHost) -> Iterator[subprocess.Popen[str]]:
    with cuda_program({**software_host.environment, "CUDA_MPS_PIPE_DIRECTORY": "/nowhere"}) as process:
        yield process


@requires("root")
def test_what_cannot_be_looked_into_is_said(process_of_root: subprocess.Popen[str], told: Told) -> None:
    with as_user(NOBODY):
        seen = scene(told)
        found = list(bypass(seen))
    assert of(found, process_of_root) == []
    assert seen.processes.unseen > 0
    assert f"note: processes that could not be looked into: {seen.processes.unseen}" in lines(found)
    assert "as root" in next(finding for finding in found if "looked into" in finding.text).way_out
