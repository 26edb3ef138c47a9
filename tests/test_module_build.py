# SPDX-License-Identifier: Apache-2.0
"""This test will build the stand-alone module against a distribution's headers, and what the virtual machine runs."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from requires import requires, tool

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "driver_patches" / "standalone" / "build"
HEADERS = ROOT / "tools" / "driver" / "headers"
UNPACK = ROOT / "tools" / "packages" / "unpack"
GUEST_PROGRAMS = sorted((ROOT / "tests" / "vm" / "guest").glob("*.c"))
CANNOT = 77

builds = requires("gcc", "make", "flock", "apt-get", "dpkg-deb")


def run(*command: str | Path, **environment: str) -> str:
    """What it prints; a skip, unless "headers" is insisted on, where it says that this machine cannot."""
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode == CANNOT and "headers" not in os.environ.get("MPSAFE_REQUIRE", "").split(","):
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def module() -> Path:
    return Path(run(BUILD))


def modinfo(module: Path, field: str) -> list[str]:
    return run(tool("modinfo"), "-F", field, module).splitlines()


@builds
@requires("modinfo")
def test_module_says_what_it_is(module: Path) -> None:
    assert modinfo(module, "license") == ["Dual MIT/GPL"]
    assert "".join(modinfo(module, "depends")) == ""
    found = [re.sub(r":.*\(", " ", line).rstrip(")") for line in modinfo(module, "parm")]  # codespell:ignore parm
    assert sorted(found) == ["mpsafe_enable bool", "mpsafe_features uint", "mpsafe_inject bool", "mpsafe_ring uint"]


@builds
@requires("modinfo")
def test_module_is_for_the_kernel_of_the_headers(module: Path) -> None:
    release = run(HEADERS).rpartition("linux-headers-")[2]
    assert modinfo(module, "vermagic")[0].split()[0] == release


@builds
def test_build_does_nothing_twice(module: Path) -> None:
    before = module.stat().st_mtime_ns
    assert Path(run(BUILD)) == module
    assert module.stat().st_mtime_ns == before


@builds
def test_sparse_finds_nothing(tmp_path: Path) -> None:
    sparse = Path(run(UNPACK, "sparse", MPSAFE_SUITES="bookworm").split()[-1]) / "usr" / "bin" / "sparse"
    run(BUILD, run(HEADERS), tmp_path, MPSAFE_SPARSE=os.fspath(sparse))


@builds
def test_headers_that_do_not_exist_are_a_reason() -> None:
    run(HEADERS)
    done = subprocess.run([HEADERS, "6.1.0-0-none"], capture_output=True, text=True, check=False)
    assert done.returncode == CANNOT
    assert "linux-headers-6.1.0-0-none" in done.stderr


@builds
def test_warnings_are_errors(tmp_path: Path) -> None:
    """As in a copy of the sources that has an unused function."""
    for folder in ("driver_patches/src", "driver_patches/standalone", "ffi"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("soft", "__pycache__"))
    with (tmp_path / "driver_patches" / "standalone" / "standalone.c").open("a") as source:
        source.write("\nstatic void nobody_calls_me(void)\n{\n}\n")
    copy = tmp_path / "driver_patches" / "standalone" / "build"
    done = subprocess.run([copy, run(HEADERS), tmp_path / "out"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "nobody_calls_me" in done.stderr
    assert not (tmp_path / "out" / "mpsafe_standalone.ko").exists()


@requires("gcc")
@pytest.mark.parametrize("source", GUEST_PROGRAMS, ids=lambda path: path.stem)
def test_guest_program_compiles(source: Path, tmp_path: Path) -> None:
    warnings = ["-Wall", "-Wextra", "-Werror"]
    run(
        "gcc",
        "-std=gnu11",
        "-O2",
        *warnings,
        "-static",
        "-pthread",
        f"-I{ROOT / 'ffi'}",
        source,
        "-o",
        tmp_path / "out",
    )
    assert (tmp_path / "out").exists()
