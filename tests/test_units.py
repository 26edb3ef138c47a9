# SPDX-License-Identifier: Apache-2.0
"""This test will have systemd read our units and judge how exposed the service is."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from requires import requires

UNITS = Path(__file__).parent.parent / "systemd"
NAMES = sorted(path.name for path in UNITS.iterdir() if path.suffix in (".service", ".socket"))
# In tenths, as systemd 252 weighs it.
EXPOSURE_LIMIT = 35
pytestmark = requires("systemd-analyze")


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units as `make install` writes them, with programs that exist; templates also as instances."""
    for program in ("mpsafed", "control"):
        (tmp_path / program).write_text("#!/bin/sh\n")
        (tmp_path / program).chmod(0o755)
    for name in NAMES:
        text = (UNITS / name).read_text().replace("@bindir@", str(tmp_path))
        (tmp_path / name).write_text(text.replace("@control@", str(tmp_path / "control")))
    shutil.copytree(UNITS / "mpsafe-mps@0.service.d", tmp_path / "mpsafe-mps@0.service.d")
    return tmp_path


def analyze(folder: Path, *arguments: str) -> None:
    command = ["systemd-analyze", *arguments]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "ignoring" not in run.stderr, run.stderr


@pytest.mark.parametrize(
    "name", [*NAMES, "mpsafe-mps@0.service", "mpsafe-mps@1001.service", "mpsafe-standby@chat.service"]
)
def test_unit_is_understood(installed: Path, name: str) -> None:
    if not (installed / name).exists():
        (installed / name).symlink_to(re.sub("@.*[.]", "@.", name))
    analyze(installed, "verify", "--man=no", f"./{name}")


def test_service_is_not_exposed(installed: Path) -> None:
    analyze(installed, "security", "--offline=true", f"--threshold={EXPOSURE_LIMIT}", "./mpsafed.service")


def test_each_capability_and_each_opening_has_its_reason() -> None:
    """A comment stands right before it."""
    lines = (UNITS / "mpsafed.service").read_text().splitlines()
    wanted = (
        "CapabilityBoundingSet",
        "ReadWritePaths",
        "RestrictAddressFamilies",
        "PrivateTmp",
        "Protect.*=(no|default)",
    )
    found = [number for number, line in enumerate(lines) if re.match("|".join(wanted), line)]
    assert len(found) >= 10
    assert [lines[number] for number in found if not lines[number - 1].startswith("# ")] == []


@pytest.mark.parametrize("name", [name for name in NAMES if "@" in name])
def test_what_outlives_the_daemon_is_not_bound_to_it(name: str) -> None:
    bonds = re.findall(
        r"^(?:BindsTo|PartOf|Requires|Requisite|StopWhenUnneeded)=.*", (UNITS / name).read_text(), re.MULTILINE
    )
    assert bonds == []


@requires("root", "systemd-sysusers", "systemd-tmpfiles")
def test_group_and_folders_are_understood(tmp_path: Path) -> None:
    users, files = UNITS / "mpsafe.sysusers.conf", UNITS / "mpsafe.tmpfiles.conf"
    (tmp_path / "etc").mkdir()
    subprocess.run(["systemd-sysusers", f"--root={tmp_path}", users], check=True)
    assert "mpsafe-admin:" in (tmp_path / "etc" / "group").read_text()
    subprocess.run(["systemd-tmpfiles", f"--root={tmp_path}", "--create", files], check=True)
    for name in ("run/mpsafe", "run/mpsafe-mps", "var/log/mpsafe-mps"):
        about = (tmp_path / name).stat()
        assert (about.st_mode & 0o7777, about.st_uid) == (0o755, 0), name


@requires("logrotate")
def test_logs_are_cut_while_they_are_written(tmp_path: Path) -> None:
    """The writer keeps its descriptor, as MPS does, and goes on in the same file."""
    log = tmp_path / "control.log"
    settings = tmp_path / "logrotate"
    text = (UNITS / "mpsafe.logrotate").read_text().replace("/var/log/mpsafe-mps/*/*.log", str(log))
    settings.write_text(text)
    with log.open("a") as writer:
        writer.write("before\n" * (2 << 20))
        writer.flush()
        subprocess.run(["logrotate", "--state", tmp_path / "state", settings], check=True)
        writer.write("after\n")
    assert log.read_text() == "after\n"
    assert (tmp_path / "control.log.1.gz").exists()
