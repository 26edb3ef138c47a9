# SPDX-License-Identifier: Apache-2.0
"""Which nvidia-uvm runs, which one the next load takes, and what to do next. Changes nothing and needs no rights."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mpsafe.driver.programs import ask, find
from mpsafe.driver.signing import Signing, signing
from mpsafe.driver.tree import NAME

__all__ = ["HOOKS", "RULE", "Loaded", "OnDisk", "Registered", "State", "look", "next_step", "users"]

RULE: Final = f"etc/modprobe.d/{NAME}.conf"
# MPSAFE_FEATURE_... of mpsafe_uapi.h, from bit 0 on.
HOOKS: Final = ("replayable", "non_replayable", "orphan", "refuse", "hold", "inject", "standalone")
READ_MAX: Final = 4096

_FOLDERS: Final = (
    "etc/modprobe.d",
    "run/modprobe.d",
    "usr/local/lib/modprobe.d",
    "usr/lib/modprobe.d",
    "lib/modprobe.d",
)
_OPTION: Final = re.compile(r"^\s*options\s+nvidia[-_]uvm\s.*\bmpsafe_enable=([0nN])", re.MULTILINE)
_BOOTED: Final = re.compile(r"\bnvidia[-_]uvm\.mpsafe_enable=([0nN])")
_STATUS: Final = re.compile(rf"{NAME}[/,] ?(?P<version>[^,:\s]+)(?:, (?P<kernel>[^,]+), [^:]+)?: (?P<state>\w+)")


@dataclass(frozen=True, slots=True)
class Loaded:
    """The nvidia-uvm that runs. `hooks` and `enabled` are those of ours; `inject` is None to who may not know."""

    version: str
    ours: bool
    enabled: bool = False
    hooks: tuple[str, ...] = ()
    inject: bool | None = None


@dataclass(frozen=True, slots=True)
class OnDisk:
    """Our module as it lies there for the kernel that runs. `signer`: whose signature it has, or empty."""

    path: str
    version: str
    srcversion: str
    signer: str


@dataclass(frozen=True, slots=True)
class Registered:
    """One line of `dkms status`: state is added, built or installed, and kernel empty for what is only added."""

    version: str
    kernel: str
    state: str


@dataclass(frozen=True, slots=True)
class State:
    """All of it. `nvidia` is the version that runs; `rule` and `killed_by` are paths, or empty."""

    kernel: str
    nvidia: str | None
    loaded: Loaded | None
    newer_on_disk: bool
    device: bool
    on_disk: OnDisk | None
    dkms: tuple[Registered, ...]
    rule: str
    killed_by: str
    signing: Signing


def look(root: Path = Path("/"), kernel: str = "") -> State:
    """This machine, or the one below `root`."""
    kernel = kernel or os.uname().release
    runs, disk = _loaded(root), _on_disk(root, kernel)
    source = _read(root / "sys/module/nvidia_uvm/srcversion")
    return State(
        kernel=kernel,
        nvidia=_read(root / "sys/module/nvidia/version"),
        loaded=runs,
        newer_on_disk=bool(runs and runs.ours and disk and source and disk.srcversion and disk.srcversion != source),
        device=(root / "dev/mpsafe").exists(),
        on_disk=disk,
        dkms=tuple(_registered()),
        rule=f"/{RULE}" if (root / RULE).is_file() else "",
        killed_by=_killed_by(root),
        signing=signing(root),
    )


def next_step(state: State) -> str:
    """One sentence."""
    runs, disk = state.loaded, state.on_disk
    reload = "with nothing on the devices: mpsafe driver install --reload, or boot"
    unknown_key = state.signing.secure_boot and state.signing.enrolled is False
    if unknown_key and disk is not None and runs is not None and not runs.ours:
        return f"enroll the key that signed the module: mokutil --import {state.signing.certificate}, and boot"
    if runs is not None and runs.ours:
        if not runs.enabled:
            where = f"take mpsafe_enable=0 out of {state.killed_by}, then " if state.killed_by else ""
            return f"{where}load nvidia-uvm again, {reload}"
        if state.newer_on_disk:
            return f"the module on disk is another build: load it, {reload}"
        if not state.rule:
            return f"it runs until nvidia-uvm is loaded again; stock is next, {reload}"
        return 'none: set kind = "uvm" in [driver] of mpsafe.toml, and look with: mpsafe status'
    if state.rule and disk is not None:
        if state.nvidia not in (None, disk.version):
            return f"the driver is {state.nvidia} now, ours on disk {disk.version}: mpsafe driver install"
        return f"load it, {reload}"
    if state.rule or state.dkms:
        return f"nothing of ours is built for {state.kernel}: mpsafe driver install"
    if state.nvidia is None and not find("nvidia-smi"):
        return "install the NVIDIA driver first; no module of it runs here"
    return "mpsafe driver install"


def users(root: Path = Path("/")) -> list[tuple[int, str]]:
    """Who has nvidia-uvm's or our device open: pid and name; as root, everybody."""
    found: list[tuple[int, str]] = []
    for process in (root / "proc").glob("[0-9]*"):
        if any(link.startswith(("/dev/nvidia-uvm", "/dev/mpsafe")) for link in _links(process / "fd")):
            found.append((int(process.name), _read(process / "comm") or "?"))
    return sorted(found)


def _links(folder: Path) -> Iterator[str]:
    try:
        for link in folder.iterdir():
            yield os.readlink(link)
    except OSError:
        return


def _loaded(root: Path) -> Loaded | None:
    module = root / "sys/module/nvidia_uvm"
    if not module.is_dir():
        return None
    version, features = _read(module / "version") or "unknown", _read(module / "parameters/mpsafe_features")
    if features is None or not features.isdigit():
        return Loaded(version, ours=False)
    hooks = tuple(name for bit, name in enumerate(HOOKS) if int(features) >> bit & 1)
    inject = _read(module / "parameters/mpsafe_inject")
    enabled = _read(module / "parameters/mpsafe_enable") == "Y"
    return Loaded(version, ours=True, enabled=enabled, hooks=hooks, inject=None if inject is None else inject == "Y")


def _on_disk(root: Path, kernel: str) -> OnDisk | None:
    below = () if root == Path("/") else ("-b", os.fspath(root))

    def told(field: str) -> str:
        return ask("modinfo", *below, "-k", kernel, "-F", field, NAME)

    path = told("filename")
    return OnDisk(path, told("version"), told("srcversion"), told("signer")) if path else None


def _registered() -> Iterator[Registered]:
    for line in ask("dkms", "status", "-m", NAME).splitlines():
        if found := _STATUS.match(line):
            yield Registered(found["version"], found["kernel"] or "", found["state"])


def _killed_by(root: Path) -> str:
    for folder in _FOLDERS:
        for path in sorted((root / folder).glob("*.conf")):
            if _OPTION.search(_read(path, 1 << 20) or ""):
                return f"/{path.relative_to(root)}"
    return "the kernel command line" if _BOOTED.search(_read(root / "proc/cmdline") or "") else ""


def _read(path: Path, most: int = READ_MAX) -> str | None:
    try:
        with path.open("rb") as file:
            return file.read(most).decode(errors="replace").strip()
    except OSError:
        return None
