# SPDX-License-Identifier: Apache-2.0
"""This test will have systemd read our units and judge how exposed the service is."""

import subprocess
from pathlib import Path

import pytest

from requires import requires

UNITS = Path(__file__).parent.parent / "systemd"
EXPOSURE_LIMIT = 30
pytestmark = requires("systemd-analyze")


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units as `make install` writes them, with a program that exists."""
    (tmp_path / "mpsafed").write_text("#!/bin/sh\n")
    (tmp_path / "mpsafed").chmod(0o755)
    for name in ("mpsafed.service", "mpsafed.socket"):
        (tmp_path / name).write_text((UNITS / name).read_text().replace("@bindir@", str(tmp_path)))
    return tmp_path


def analyze(folder: Path, *arguments: str) -> None:
    command = ["systemd-analyze", *arguments]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "ignoring" not in run.stderr, run.stderr


def test_units_are_understood(installed: Path) -> None:
    analyze(installed, "verify", "--man=no", "./mpsafed.service", "./mpsafed.socket")


def test_service_is_not_exposed(installed: Path) -> None:
    analyze(installed, "security", "--offline=true", f"--threshold={EXPOSURE_LIMIT}", "./mpsafed.service")


@requires("root", "systemd-sysusers", "systemd-tmpfiles")
def test_group_and_folder_are_understood(tmp_path: Path) -> None:
    users, files = UNITS / "mpsafe.sysusers.conf", UNITS / "mpsafe.tmpfiles.conf"
    (tmp_path / "etc").mkdir()
    subprocess.run(["systemd-sysusers", f"--root={tmp_path}", users], check=True)
    assert "mpsafe-admin:" in (tmp_path / "etc" / "group").read_text()
    subprocess.run(["systemd-tmpfiles", f"--root={tmp_path}", "--create", files], check=True)
    assert (tmp_path / "run" / "mpsafe").stat().st_mode & 0o7777 == 0o755
