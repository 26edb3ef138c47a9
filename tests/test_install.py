# SPDX-License-Identifier: Apache-2.0
"""This test will install into a folder as a packager does, look at what is there, and take it away."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from requires import requires, tool

ROOT = Path(__file__).parent.parent
PREFIX = Path("/opt/mpsafe")
pytestmark = requires("make", "cc", "soft")


def make(target: str, destination: Path, *more: str) -> None:
    command = [tool("make"), "--no-print-directory", target, f"PREFIX={PREFIX}", f"DESTDIR={destination}", *more]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.fixture(scope="module")
def destination(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("destination")
    make("install", folder)
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "bin/mpsafe",
        "bin/mpsafed",
        "lib/systemd/catalog/mpsafe.catalog",
        "lib/systemd/system/mpsafe-mps@.service",
        "lib/systemd/system/mpsafe-mps@0.service.d/everybody.conf",
        "lib/systemd/system/mpsafe-standby-b@.service",
        "lib/systemd/system/mpsafe-standby@.service",
        "lib/systemd/system/mpsafed.service",
        "lib/systemd/system/mpsafed.socket",
        "lib/sysusers.d/mpsafe.conf",
        "lib/tmpfiles.d/mpsafe.conf",
        "share/bash-completion/completions/mpsafe",
        "share/fish/vendor_completions.d/mpsafe.fish",
        "share/man/man1/mpsafe.1",
        "share/man/man5/mpsafe.toml.5",
        "share/man/man7/mpsafe-json.7",
        "share/man/man8/mpsafed.8",
        "share/zsh/site-functions/_mpsafe",
    ],
)
def test_file_is_in_its_place(destination: Path, name: str) -> None:
    assert (destination / PREFIX.relative_to("/") / name).read_text()


@pytest.mark.parametrize("name", ["mpsafe/mpsafe.toml", "logrotate.d/mpsafe"])
def test_settings_are_in_their_place(destination: Path, name: str) -> None:
    assert (destination / "etc" / name).read_text()


def test_nothing_of_a_unit_is_left_to_be_filled_in(destination: Path) -> None:
    units = [*(destination / PREFIX.relative_to("/") / "lib" / "systemd" / "system").glob("*.*")]
    assert len(units) == 6
    assert [path.name for path in units if path.is_file() and re.search("@[a-z]+@", path.read_text())] == []


def test_nothing_that_is_installed_names_the_folder_it_was_put_in(destination: Path) -> None:
    tree = destination / PREFIX.relative_to("/")
    scripts = [tree / "bin" / name for name in ("mpsafe", "mpsafed")]
    units = [tree / "lib" / "systemd" / "system" / "mpsafed.service", tree / "lib" / "mpsafe" / "installed"]
    for path in [*scripts, *units, tree / "lib" / "mpsafe" / "venv" / "pyvenv.cfg"]:
        assert str(destination) not in path.read_text(), path


def test_package_is_whole(destination: Path) -> None:
    """All that is generated or compiled is in the wheel, and it is the wheel that is imported."""
    python = destination / PREFIX.relative_to("/") / "lib" / "mpsafe" / "venv" / "bin" / "python"
    script = "import mpsafe, mpsafe.cuda._cuda, mpsafed.driver._uapi; print(mpsafe.__path__[0])"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = subprocess.run([python, "-c", script], cwd="/", env=environment, capture_output=True, text=True, check=True)
    package = Path(run.stdout.strip())
    assert package.is_relative_to(destination)
    libraries = ("soft/lib/libcuda.so.1", "soft/lib/libnvidia-ml.so.1")
    for name in ("py.typed", "catalogue.toml", "cuda/kernels.ptx", *libraries):
        assert (package / name).is_file(), name


@pytest.fixture
def copy(destination: Path, tmp_path: Path) -> Path:
    return shutil.copytree(destination, tmp_path / "copy", symlinks=True)


def test_uninstall_takes_all(copy: Path) -> None:
    make("uninstall", copy)
    assert list(copy.iterdir()) == []


def test_uninstall_leaves_what_others_put_there(copy: Path) -> None:
    other = copy / PREFIX.relative_to("/") / "bin" / "another"
    other.touch()
    make("uninstall", copy)
    assert [path for path in copy.rglob("*") if path.is_file()] == [other]


def test_changed_settings_outlive_an_upgrade_and_the_end(copy: Path) -> None:
    """The upgrade chooses another program for the units to start."""
    settings = {copy / "etc" / name for name in ("mpsafe/mpsafe.toml", "logrotate.d/mpsafe")}
    for path in settings:
        path.write_text("# mine\n")
    make("install", copy, "CONTROL=/opt/nvidia/control")
    unit = copy / PREFIX.relative_to("/") / "lib" / "systemd" / "system" / "mpsafe-mps@.service"
    assert "ExecStart=/opt/nvidia/control -d" in unit.read_text()
    make("uninstall", copy)
    assert {path.read_text() for path in settings} == {"# mine\n"}
    assert {path for path in copy.rglob("*") if path.is_file()} == settings
