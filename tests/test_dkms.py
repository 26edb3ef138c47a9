# SPDX-License-Identifier: Apache-2.0
"""This test will find the stock driver's source, refuse what does not fit, and prepare a tree for DKMS.

DKMS itself is asked in tests/end2end/test_driver_install.py.
"""

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

import driver_standin
from command import mpsafe
from mpsafe.driver import dkms, stock, tree
from mpsafe.driver.loaded import RULE
from mpsafe.driver.patching import patch_tree
from mpsafe.driver.programs import act
from mpsafe.driver.trouble import DriverCannotRun, DriverStepFailed
from requires import requires, tool

NAMES = (
    "nvidia-current-535.261.03",
    "nvidia-current-open-535.261.03",
    "nvidia-srv-535.261.03",
    "nvidia-open-535.261.03",
)


def archive(path: Path, version: str) -> Path:
    """As Debian's nvidia-open-kernel-source has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = driver_standin.tree(path.parent.parent / "content", version)
    with tarfile.open(path, "w:xz") as packed:
        packed.add(content, "modules/nvidia-open-kernel")
    return path


# Finding it.


@pytest.mark.parametrize("name", NAMES)
def test_each_place_of_a_package_is_found(tmp_path: Path, name: str) -> None:
    path = driver_standin.tree(tmp_path / "usr" / "src" / name, "535.261.03")
    assert stock.found(tmp_path) == [stock.Stock(path, "535.261.03", driver_standin.PACKAGE)]


def test_an_archive_is_found_and_unpacked(tmp_path: Path) -> None:
    path = archive(tmp_path / "usr" / "src" / "nvidia-open-kernel.tar.xz", "550.163.01")
    (found,) = stock.found(tmp_path)
    assert found == stock.Stock(path, "550.163.01")
    with stock.unpacked(found) as top:
        assert (top / "nvidia-uvm" / "uvm.c").is_file()
    assert not top.exists()


def test_the_open_flavour_and_a_tree_come_first(tmp_path: Path) -> None:
    for name in ("nvidia-current-550.163.01", "nvidia-current-open-550.163.01"):
        driver_standin.tree(tmp_path / "usr" / "src" / name)
    archive(tmp_path / "usr" / "src" / "nvidia-open-kernel.tar.xz", driver_standin.VERSION)
    assert [one.path.name for one in stock.found(tmp_path)] == [
        "nvidia-current-open-550.163.01",
        "nvidia-current-550.163.01",
        "nvidia-open-kernel.tar.xz",
    ]


def test_what_is_no_source_is_not_found(tmp_path: Path) -> None:
    driver_standin.tree(tmp_path / "usr" / "src" / f"{tree.NAME}-550.163.01-mpsafe1")
    (tmp_path / "usr" / "src" / "nvidia-550.1").mkdir()
    (tmp_path / "usr" / "src" / "nvidia-kernel.tar.xz").write_bytes(b"no archive")
    odd = driver_standin.tree(tmp_path / "usr" / "src" / "nvidia-odd")
    (odd / "Kbuild").write_text('ccflags-y += -DNV_VERSION_STRING=\\"$(shell id)\\"\n')
    assert stock.found(tmp_path) == []


# Refusing.


@pytest.mark.parametrize(
    ("versions", "wanted", "says"),
    [
        ([], None, "no source of the NVIDIA driver is in /usr/src"),
        (["550.163.01"], "580.142", "the driver of this machine is 580.142, and its source is not in /usr/src"),
        (["550.163.01", "580.142"], None, "choose with --source"),
    ],
)
def test_no_source_that_fits(versions: list[str], wanted: str | None, says: str) -> None:
    with pytest.raises(DriverCannotRun, match=says):
        stock.choose([stock.Stock(Path(version), version) for version in versions], wanted)


def test_the_source_that_fits() -> None:
    both = [stock.Stock(Path("a"), "550.163.01"), stock.Stock(Path("b"), "580.142")]
    assert stock.choose(both, "580.142") is both[1]


def test_an_unknown_branch_is_refused_with_the_way_to_try() -> None:
    new = stock.Stock(Path("a"), "610.10")
    with pytest.raises(DriverCannotRun, match="--try-unknown"):
        stock.known(new, try_unknown=False)
    assert stock.known(new, try_unknown=True) is new


@pytest.mark.parametrize("name", ["missing", "folder", "file"])
def test_a_bad_source_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"no archive")
    told = mpsafe("driver", "build", "--source", tmp_path / name, "--out", tmp_path / "out", status=77)
    assert told.startswith(f"mpsafe: --source {tmp_path / name}: ")
    assert not (tmp_path / "out").exists()


def test_the_command_refuses_an_unknown_branch(tmp_path: Path) -> None:
    source = driver_standin.tree(tmp_path / "source", "610.10")
    told = mpsafe("driver", "build", "--source", source, "--out", tmp_path / "out", status=77)
    assert "is of branch 610" in told
    assert "--try-unknown" in told


@requires("spatch")
def test_a_source_without_the_places_for_the_hooks_is_refused_and_untouched(tmp_path: Path) -> None:
    source = driver_standin.tree(tmp_path / "source")
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    told = mpsafe("driver", "build", "--source", source, "--out", tmp_path / "out", status=77)
    assert told.startswith("mpsafe: ")
    assert {path: path.read_bytes() for path in source.rglob("*") if path.is_file()} == before
    assert list((tmp_path / "out").iterdir()) == []
    assert "mpsafe: " in mpsafe("driver", "patch", "--source", source, "--json", status=77)


# Preparing.


def prepare(tmp_path: Path, name: str = "beside", *, depends: bool = False) -> Path:
    one = stock.inside(driver_standin.tree(tmp_path / "nvidia-550.163.01"))
    beside = tmp_path / name
    beside.mkdir()
    with tree.prepared(one, beside, driver_standin.hook, depends=depends) as new:
        dkms.put(new, beside / "tree")
    assert [path.name for path in beside.iterdir()] == ["tree"]
    return beside / "tree"


def test_a_prepared_tree(tmp_path: Path) -> None:
    made = prepare(tmp_path, depends=True)
    conf = (made / "dkms.conf").read_text()
    assert f'PACKAGE_NAME="{tree.NAME}"\n' in conf
    assert 'PACKAGE_VERSION="550.163.01-mpsafe' in conf
    assert f'BUILD_DEPENDS[0]="{driver_standin.PACKAGE}"\n' in conf
    assert "@" not in conf.replace("$@", "")
    assert driver_standin.HOOKED in (made / "nvidia-uvm" / "uvm.c").read_text()
    assert not (made / "nvidia-drm").exists()
    assert (made / "Kbuild").read_text().endswith("obj-m := nvidia-uvm.o\nalways-y :=\nalways :=\n")
    assert driver_standin.HOOKED not in (tmp_path / "nvidia-550.163.01" / "nvidia-uvm" / "uvm.c").read_text()


def test_the_same_tree_stays_where_it_is(tmp_path: Path) -> None:
    one, other = prepare(tmp_path, "one"), prepare(tmp_path, "other")
    node = one.stat().st_ino
    dkms.put(other, one)
    assert one.stat().st_ino == node
    (other / "nvidia-uvm" / "uvm.c").write_text("changed")
    assert not tree.same(one, other)
    dkms.put(other, one)
    assert (one / "nvidia-uvm" / "uvm.c").read_text() == "changed"


def test_a_patch_that_fails_leaves_nothing(tmp_path: Path) -> None:
    one = stock.inside(driver_standin.tree(tmp_path / "nvidia-550.163.01"))
    (tmp_path / "beside").mkdir()
    with pytest.raises(DriverCannotRun), tree.prepared(one, tmp_path / "beside", patch_tree, depends=False):
        pytest.fail("there is nothing to patch in it")
    assert list((tmp_path / "beside").iterdir()) == []


# Installing.


def test_nothing_is_begun_without_dkms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_program(name: str, path: str | None = None) -> None: ...

    monkeypatch.setattr("mpsafe.driver.programs.shutil.which", no_program)
    with pytest.raises(DriverCannotRun, match="dkms is not there: install the package dkms"):
        dkms.install(tmp_path, stock.Stock(tmp_path, "550.163.01"), print, root=tmp_path, kernel="6.1")


def test_nothing_is_begun_without_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dkms").write_text("#!/bin/sh\n")
    (tmp_path / "dkms").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(DriverCannotRun, match=r"the headers of kernel 6\.1 are not there"):
        dkms.install(tmp_path, stock.Stock(tmp_path, "550.163.01"), print, root=tmp_path, kernel="6.1")


def test_it_is_not_loaded_again_while_somebody_uses_it(tmp_path: Path) -> None:
    (tmp_path / "proc" / "7" / "fd").mkdir(parents=True)
    (tmp_path / "proc" / "7" / "comm").write_text("python3\n")
    (tmp_path / "proc" / "7" / "fd" / "3").symlink_to("/dev/nvidia-uvm")
    with pytest.raises(DriverCannotRun, match=r"in use by 7 \(python3\)"):
        dkms.reload(print, root=tmp_path)


def test_a_program_that_fails_is_told_with_its_last_words() -> None:
    with pytest.raises(DriverStepFailed, match="a step: exit status 3: last words"):
        act("a step", ["sh", "-c", "echo last words; exit 3"])


# The rule of modprobe: what runs when `modprobe nvidia-uvm` is called.


@pytest.mark.parametrize(
    ("on_disk", "runs", "loads", "called"),
    [
        ("550.163.01", "550.163.01", "true", ["-i mpsafe-nvidia-uvm a=1"]),
        ("550.163.01", "580.142", "true", ["-i nvidia-uvm a=1"]),
        ("", "550.163.01", "true", ["-i nvidia-uvm a=1"]),
        ("550.163.01", "550.163.01", "false", ["-i mpsafe-nvidia-uvm a=1", "-i nvidia-uvm a=1"]),
    ],
    ids=["ours", "another driver", "nothing of ours", "ours does not load"],
)
def test_the_rule(tmp_path: Path, on_disk: str, runs: str, loads: str, called: list[str]) -> None:
    (tmp_path / "version").write_text(f"{runs}\n")
    text = tree.fill("modprobe.conf.in", name=tree.NAME, stock="-i nvidia-uvm").replace("\\\n", "")
    (line,) = [line for line in text.splitlines() if line.startswith("install nvidia-uvm ")]
    line = line.removeprefix("install nvidia-uvm ").replace("/sys/module/nvidia/version", f"{tmp_path}/version")
    line = line.replace("PATH=/usr/sbin:/usr/bin:/sbin:/bin;", "")
    stand_ins = f"""
modinfo() {{ echo "{on_disk}"; }}
modprobe() {{ echo "$*" >>{tmp_path}/called; case $* in *{tree.NAME}*) {loads} ;; esac; }}
"""
    environment = {**os.environ, "CMDLINE_OPTS": "a=1"}
    subprocess.run(["sh", "-c", f"{stand_ins}\n{line}"], env=environment, check=True, stderr=subprocess.PIPE)
    assert (tmp_path / "called").read_text().splitlines() == ["nvidia", *called]


@requires("modprobe")
def test_the_rule_counts_before_that_of_the_distribution(tmp_path: Path) -> None:
    folder = tmp_path / "etc" / "modprobe.d"
    folder.mkdir(parents=True)
    (folder / "nvidia.conf").write_text(
        "install nvidia-uvm modprobe nvidia ; modprobe -i nvidia-current-uvm $CMDLINE_OPTS\n"
    )
    (folder / "off.conf").write_text("options nvidia-uvm mpsafe_enable=0\n")
    rule = tmp_path / RULE
    rule.write_text(tree.fill("modprobe.conf.in", name=tree.NAME, stock="-C /etc/modprobe.d/nvidia.conf nvidia-uvm"))
    (tmp_path / "lib" / "modules" / "6.1").mkdir(parents=True)
    command: list[str | Path] = [
        tool("modprobe"),
        "-C",
        folder,
        "-d",
        tmp_path,
        "-S",
        "6.1",
        "--show-depends",
        "nvidia-uvm",
    ]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"modprobe -i {tree.NAME} $CMDLINE_OPTS" in told
    assert told.rstrip().endswith("mpsafe_enable=0"), "options of nvidia-uvm are handed on"
