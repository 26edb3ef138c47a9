# SPDX-License-Identifier: Apache-2.0
"""The driver's parts: the modules that run, those on disk, and the libraries must be of one version.

A driver package that was upgraded under a running module leaves NVML and CUDA unusable until the
module is loaded again; a module built again (DKMS) has another srcversion than the one that runs.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mpsafe.doctor.finding import Finding
from mpsafe.doctor.scene import Scene

__all__ = ["versions"]

MODULES: Final = ("nvidia", "nvidia_uvm")
LIBRARIES: Final = ("libcuda.so.1", "libnvidia-ml.so.1")
# Debian and Ubuntu; Fedora, RHEL and SUSE; Arch; Debian's alternatives.
FOLDERS: Final = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib")
DEADLINE_S: Final = 10.0
READ_MAX: Final = 4096
VERSION: Final = re.compile(r"\b\d{3}\.\d{2,3}(?:\.\d{2})?\b")


def versions(scene: Scene) -> Iterator[Finding]:
    """Everything is held against what the running module says of itself."""
    said = _read(scene.path("/proc/driver/nvidia/version"))
    running = VERSION.search(said or "")
    if running is None:
        text = "no NVIDIA driver is loaded" if said is None else "/proc/driver/nvidia/version has no version"
        yield Finding("note", text)
        return
    found = [*_libraries(scene, running[0]), *_modules(scene, running[0])]
    yield from found
    if not any(finding.severity in ("warning", "wrong") for finding in found):
        yield Finding("ok", f"driver {running[0]}: modules and libraries are of one version")


def _libraries(scene: Scene, running: str) -> Iterator[Finding]:
    way_out = "load the module again, with nothing on the devices, or boot"
    for folder in FOLDERS:
        for name in LIBRARIES:
            path = scene.path(f"{folder}/{name}")
            version = VERSION.search(path.resolve().name) if path.exists() else None
            if version is not None and version[0] != running:
                text = f"{folder}/{name} is of version {version[0]}, the running module of {running}"
                yield Finding("wrong", text, way_out, path=f"{folder}/{name}")


def _modules(scene: Scene, running: str) -> Iterator[Finding]:
    program = shutil.which("modinfo") or shutil.which("modinfo", path="/usr/sbin:/sbin")
    if program is None:
        yield Finding("note", "modinfo is not there: modules on disk were not compared", "install kmod")
    for module in MODULES:
        loaded = scene.path(f"/sys/module/{module}")
        version, source = _read(loaded / "version"), _read(loaded / "srcversion")
        if version is not None and version != running:
            text = f"module {module} runs in version {version}, nvidia in {running}"
            yield Finding("wrong", text, "unload both, with nothing on the devices, and load them again")
        if program is None or source is None:
            continue
        on_disk = _modinfo(program, scene.root, module)
        if on_disk is None:
            yield Finding("note", f"modinfo finds no module {module} on disk: it was not compared")
        elif on_disk != source:
            text = f"module {module} on disk is another build (srcversion {on_disk}) than the one that runs ({source})"
            yield Finding("warning", text, "boot, or load it again with nothing on the devices, to run the new one")


def _modinfo(program: str, root: Path, module: str) -> str | None:
    command = [program, "--basedir", os.fspath(root), "--field", "srcversion", module]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _read(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return file.read(READ_MAX).decode(errors="replace").strip()
    except OSError:
        return None
