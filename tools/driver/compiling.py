# SPDX-License-Identifier: Apache-2.0
"""Compiles a patched nvidia-uvm against a distribution's kernel headers: what was touched, or the whole module."""

import fcntl
import json
import os
import re
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from mpsafe.driver.hooks import HOOKS
from mpsafe.driver.patching import MODULE, Patched, patch_tree
from tools.driver.sources import REPOSITORY, Missing

__all__ = ["BUILD", "CompileFailed", "Compiled", "compile_module", "headers"]

BUILD: Final = REPOSITORY / "build" / "driver"
HEADERS_S: Final = 600
MAKE_S: Final = 1500

_LEFT_OUT: Final = ("nvidia-drm", "nvidia-modeset", "nvidia-peermem", "*.o_binary")
# nvidia itself is there for its checks of the kernel.
_ONLY_UVM: Final = "\nobj-m := nvidia-uvm.o\nalways-y :=\nalways :=\n"
_WARNING: Final = re.compile(r"^.*?: (?:warning|error|fatal error): .*$", re.MULTILINE)


class CompileFailed(Exception):
    """The compiler's own words."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """`objects` were compiled without a warning. `module`: all of nvidia-uvm.ko was linked, too."""

    version: str
    kernel: str
    objects: tuple[str, ...]
    module: bool


def headers(release: str = "") -> Path:
    """KDIR of a kernel of Debian's."""
    command = [str(REPOSITORY / "tools" / "driver" / "headers"), *([release] if release else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=HEADERS_S)
    if done.returncode:
        raise Missing(done.stderr.strip() or "tools/driver/headers failed")
    return Path(done.stdout.strip())


def compile_module(top: Path, *, whole: bool = False, kdir: Path | None = None) -> tuple[Patched, Compiled]:
    """`top` holds Kbuild and nvidia-uvm/. Raises CompileFailed if one object has a warning."""
    kdir = kdir or headers()
    kernel = kdir.name.removeprefix("linux-headers-")
    with TemporaryDirectory(prefix="mpsafe-driver-") as folder:
        fresh = Path(folder) / "tree"
        shutil.copytree(top, fresh, ignore=shutil.ignore_patterns(*_LEFT_OUT))
        patched = patch_tree(fresh)
        with (fresh / "Kbuild").open("a") as kbuild:
            kbuild.write(_ONLY_UVM)
        place = BUILD / patched.version / kernel
        place.mkdir(parents=True, exist_ok=True)
        with _locked(place / "lock"):
            _sync(fresh, place / "tree")
            compiled = _compile(place / "tree", patched.version, kernel, kdir, whole)
            (place / "compiled.json").write_text(json.dumps(asdict(compiled), indent=2) + "\n")
    return patched, compiled


@contextmanager
def _locked(path: Path) -> Generator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sync(fresh: Path, tree: Path) -> None:
    """Only what differs is written: `make` goes by times."""
    for path in (path for path in fresh.rglob("*") if path.is_file()):
        target = tree / path.relative_to(fresh)
        if not target.is_file() or target.read_bytes() != path.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            target.chmod(0o755 if os.access(path, os.X_OK) else 0o644)


def _compile(tree: Path, version: str, kernel: str, kdir: Path, whole: bool) -> Compiled:
    sources = {hook.file for hook in HOOKS if hook.file.endswith(".c")}
    listed = re.findall(rf"{MODULE}/(\w+\.c)", (tree / MODULE / "mpsafe.Kbuild").read_text())
    objects = tuple(f"{MODULE}/{Path(name).stem}.o" for name in sorted({*sources, *listed}))
    # By themselves, for NVIDIA's checks of the kernel rely on warnings that are no errors.
    _make(tree, kdir, "nvidia-uvm/nvstatus.o")
    _make(tree, kdir, "KCFLAGS=-Werror", *objects)
    if whole:
        # nvidia.ko's symbols are not there: only what the linker says of the rest counts.
        _make(tree, kdir, "modules", "KBUILD_MODPOST_WARN=1")
        if not (tree / "nvidia-uvm.ko").is_file():
            raise CompileFailed(f"{tree}: there is no nvidia-uvm.ko")
    return Compiled(version, kernel, objects, whole)


def _make(tree: Path, kdir: Path, *arguments: str) -> None:
    common = re.search(r"^include (/\S+)/Makefile$", (kdir / "Makefile").read_text(), re.MULTILINE)
    command = [
        "make",
        f"-j{os.cpu_count() or 1}",
        f"--directory={kdir}",
        f"M={tree}",
        "ARCH=x86_64",
        f"NV_KERNEL_SOURCES={common[1] if common else kdir}",
        f"NV_KERNEL_OUTPUT={kdir}",
        "NV_KERNEL_MODULES=nvidia nvidia-uvm",
        "NV_SPECTRE_V2=0",
        *arguments,
    ]
    environment = {**os.environ, "LC_ALL": "C"}
    for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "KERNELRELEASE"):
        environment.pop(name, None)
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        check=False,
        timeout=MAKE_S,
    )
    if done.returncode:
        raise CompileFailed("\n".join(_WARNING.findall(done.stdout)[:20]) or done.stdout[-4000:])
