# SPDX-License-Identifier: Apache-2.0
"""This test will show machines to what tells which nvidia-uvm runs, which is next, and what to do."""

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from command import mpsafe, printed
from doctor_scene import lines, tree
from mpsafe.doctor.patched import patched
from mpsafe.doctor.scene import Scene
from mpsafe.doctor.told import Told
from mpsafe.driver.loaded import HOOKS, RULE, Loaded, OnDisk, Registered, State, look, next_step, users
from mpsafe.driver.signing import SECURE_BOOT, Signing, signing
from mpsafe.protocol.host import Description

KERNEL = "6.1.0-56-amd64"
MODULE = "/sys/module/nvidia_uvm"
OURS = {
    "/sys/module/nvidia/version": "550.163.01\n",
    f"{MODULE}/version": "550.163.01\n",
    f"{MODULE}/srcversion": "AAAA\n",
    f"{MODULE}/parameters/mpsafe_enable": "Y\n",
    f"{MODULE}/parameters/mpsafe_features": "31\n",
    f"{MODULE}/parameters/mpsafe_inject": "N\n",
    "/dev/mpsafe": "",
    f"/{RULE}": "install nvidia-uvm ...\n",
}
STOCK = {name: OURS[name] for name in ("/sys/module/nvidia/version", f"{MODULE}/version", f"{MODULE}/srcversion")}
SEEN = ("replayable", "non_replayable", "orphan", "refuse", "hold")
HOST = Description("1.0", 5, 1, [], True, "uvm", [], "", [], 0, 0)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a program in the place of one of the system; none is registered or on disk at first."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def put(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    put("modinfo", "exit 1")
    put("dkms", "exit 0")
    return put


@pytest.fixture
def built(program: Callable[[str, str], None]) -> None:
    """As after `mpsafe driver install`."""
    values = "filename) echo /m.ko ;; version) echo 550.163.01 ;; srcversion) echo AAAA ;; signer) echo key ;;"
    program("modinfo", f'while [ "$1" != -F ]; do shift; done; case $2 in {values} esac')
    program("dkms", f"echo mpsafe-nvidia-uvm/550.163.01-mpsafe0.1.0, {KERNEL}, x86_64: installed")


def machine(root: Path, files: dict[str, str]) -> State:
    tree(root, files)
    return look(root, KERNEL)


@pytest.mark.usefixtures("program")
def test_a_machine_without_a_driver(tmp_path: Path) -> None:
    state = machine(tmp_path / "root", {})
    assert (state.nvidia, state.loaded, state.device, state.on_disk, state.dkms) == (None, None, False, None, ())
    assert "driver" in next_step(state)


@pytest.mark.usefixtures("program")
def test_the_stock_module(tmp_path: Path) -> None:
    state = machine(tmp_path / "root", STOCK)
    assert state.loaded == Loaded("550.163.01", ours=False)
    assert next_step(state) == "mpsafe driver install"


@pytest.mark.usefixtures("built")
def test_our_module(tmp_path: Path) -> None:
    state = machine(tmp_path / "root", OURS)
    assert state.loaded == Loaded("550.163.01", ours=True, enabled=True, hooks=SEEN, inject=False)
    assert state.on_disk == OnDisk("/m.ko", "550.163.01", "AAAA", "key")
    assert state.dkms == (Registered("550.163.01-mpsafe0.1.0", KERNEL, "installed"),)
    assert next_step(state).startswith("none")


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("features", ["", "x", "-1", "0x1f"])
def test_nonsense_of_the_kernel_is_not_ours(tmp_path: Path, features: str) -> None:
    state = machine(tmp_path / "root", {**OURS, f"{MODULE}/parameters/mpsafe_features": features})
    assert state.loaded == Loaded("550.163.01", ours=False)


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({f"{MODULE}/srcversion": "BBBB\n"}, "the module on disk is another build"),
        ({f"{MODULE}/parameters/mpsafe_enable": "N\n"}, "load nvidia-uvm again"),
        ({f"{MODULE}/parameters/mpsafe_features": ""}, "load it"),
        ({f"{MODULE}/parameters/mpsafe_features": "", "/sys/module/nvidia/version": "580.142\n"}, "580.142 now"),
    ],
)
def test_what_is_next(tmp_path: Path, changed: dict[str, str], says: str) -> None:
    assert says in next_step(machine(tmp_path / "root", {**OURS, **changed}))


@pytest.mark.usefixtures("program")
def test_what_is_next_without_the_rule_and_without_a_module(tmp_path: Path) -> None:
    state = machine(tmp_path / "root", OURS)
    assert "stock is next" in next_step(replace(state, rule=""))
    assert "nothing of ours is built" in next_step(replace(state, loaded=None))


@pytest.mark.usefixtures("program")
@pytest.mark.parametrize(
    ("files", "where"),
    [
        ({"/etc/modprobe.d/a.conf": "options nvidia-uvm uvm_debug=1 mpsafe_enable=0\n"}, "/etc/modprobe.d/a.conf"),
        ({"/usr/lib/modprobe.d/a.conf": "options nvidia_uvm mpsafe_enable=N\n"}, "/usr/lib/modprobe.d/a.conf"),
        ({"/etc/modprobe.d/a.conf": "# options nvidia-uvm mpsafe_enable=0\n"}, ""),
        ({"/etc/modprobe.d/a.conf": "options nvidia-uvm mpsafe_enable=1\n"}, ""),
        ({"/etc/modprobe.d/a.conf": "options nvidia mpsafe_enable=0\n"}, ""),
        ({"/proc/cmdline": "ro quiet nvidia_uvm.mpsafe_enable=0\n"}, "the kernel command line"),
    ],
)
def test_where_the_kill_switch_is_set(tmp_path: Path, files: dict[str, str], where: str) -> None:
    assert machine(tmp_path / "root", files).killed_by == where


def test_the_hooks_are_those_of_the_contract() -> None:
    header = (Path(__file__).parent.parent / "ffi" / "mpsafe_uapi.h").read_text()
    bits = re.findall(r"#define MPSAFE_FEATURE_(\w+) \(1u << (\d+)\)", header)
    assert [(name.lower(), int(bit)) for name, bit in bits] == [(name, bit) for bit, name in enumerate(HOOKS)]


def test_who_uses_it(tmp_path: Path) -> None:
    for pid, name, link in [
        ("7", "python3", "/dev/nvidia-uvm"),
        ("8", "sh", "/dev/null"),
        ("9", "mpsafed", "/dev/mpsafe"),
    ]:
        (tmp_path / "proc" / pid / "fd").mkdir(parents=True)
        (tmp_path / "proc" / pid / "comm").write_text(f"{name}\n")
        (tmp_path / "proc" / pid / "fd" / "3").symlink_to(link)
    (tmp_path / "proc" / "10").mkdir()
    assert users(tmp_path) == [(7, "python3"), (9, "mpsafed")]


# Secure Boot.


@pytest.mark.parametrize(("value", "on"), [(b"\6\0\0\0\1", True), (b"\6\0\0\0\0", False), (b"", False)])
def test_secure_boot(tmp_path: Path, value: bytes, on: bool) -> None:
    assert signing(tmp_path) == Signing(None)
    (tmp_path / SECURE_BOOT).parent.mkdir(parents=True)
    (tmp_path / SECURE_BOOT).write_bytes(value)
    assert signing(tmp_path).secure_boot is on


@pytest.mark.parametrize(("says", "enrolled"), [("is already enrolled", True), ("is not enrolled", False), ("?", None)])
def test_the_key(tmp_path: Path, program: Callable[[str, str], None], says: str, enrolled: bool | None) -> None:
    program("mokutil", f'echo "$2 {says}"')
    tree(tmp_path / "root", {"/var/lib/dkms/mok.pub": ""})
    assert signing(tmp_path / "root") == Signing(None, "/var/lib/dkms/mok.pub", enrolled)


@pytest.mark.usefixtures("built")
def test_a_key_that_is_not_enrolled_is_next(tmp_path: Path) -> None:
    state = machine(tmp_path / "root", {**STOCK, f"/{RULE}": ""})
    unknown = replace(state, signing=Signing(True, "/var/lib/dkms/mok.pub", False))
    assert (
        next_step(unknown) == "enroll the key that signed the module: mokutil --import /var/lib/dkms/mok.pub, and boot"
    )


# The doctor.


def findings(scene: Scene) -> list[str]:
    return lines(patched(scene))


@pytest.mark.usefixtures("program")
def test_the_doctor_is_silent_where_nothing_is_ours(tmp_path: Path) -> None:
    assert findings(tree(tmp_path / "root", STOCK)) == []


@pytest.mark.usefixtures("built")
def test_the_doctor_on_a_machine_that_is_well(tmp_path: Path) -> None:
    assert findings(tree(tmp_path / "root", OURS)) == [
        f"ok: nvidia-uvm 550.163.01 is mpsafe's, with the hooks {', '.join(SEEN)}"
    ]


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize(
    ("changed", "finding"),
    [
        ({f"{MODULE}/parameters/mpsafe_features": ""}, "wrong: the stock nvidia-uvm runs, and mpsafed is configured"),
        ({f"{MODULE}/parameters/mpsafe_enable": "N"}, "warning: nvidia-uvm is mpsafe's and its kill switch is set"),
        ({f"{MODULE}/parameters/mpsafe_inject": "Y"}, "warning: faults can be injected"),
        ({f"{MODULE}/srcversion": "BBBB"}, "warning: the mpsafe module on disk is another build"),
        ({"/sys/module/nvidia/version": "580.142"}, "warning: mpsafe's module is of driver 550.163.01, 580.142 runs"),
    ],
)
def test_the_doctor_where_something_is_wrong(tmp_path: Path, changed: dict[str, str], finding: str) -> None:
    (found,) = findings(tree(tmp_path / "root", {**OURS, **changed}, Told(HOST)))
    assert found.startswith(finding)


@pytest.mark.usefixtures("built")
def test_the_doctor_where_the_device_is_missing(tmp_path: Path) -> None:
    files = {name: text for name, text in OURS.items() if name != "/dev/mpsafe"}
    assert findings(tree(tmp_path / "root", files)) == ["wrong: nvidia-uvm is mpsafe's and /dev/mpsafe is not there"]


# The command.


def test_status_without_root_or_driver() -> None:
    told = printed("driver", "status")
    assert told["shape"] == "mpsafe.driver/1"
    assert {"kernel", "loaded", "dkms", "next_step", "signing"} <= told.keys()
    assert f"next step     {told['next_step']}" in mpsafe("driver", "status")
