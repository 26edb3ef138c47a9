# SPDX-License-Identifier: Apache-2.0
"""The guest's root file system: Debian 12 with systemd and Python 3.11, and the packages that mpsafed imports.

These come from the environment that runs this: their compiled parts want the same Python and a C library that is
not newer than the guest's.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from tools.vm.cache import VM, digest, kept
from tools.vm.packages import NotRun, archives

__all__ = ["root_image"]

MAKE: Final = Path(__file__).with_name("make-image")
PYTHON: Final = (3, 11)
GLIBC: Final = (2, 36)
PACKAGES: Final = (
    "base-files base-passwd bash coreutils dash dbus findutils grep kmod libc-bin login mount procps python3 sed "
    "strace systemd systemd-sysv udev util-linux"
).split()
# Depended on by what is not run: maintainer scripts.
NOT_NEEDED: Final = re.compile(r"(perl|perl-modules.*|libperl.*|lib.*-perl|usrmerge|debconf|adduser|dpkg)_")


def _why_not() -> str | None:
    """Why the packages of this environment cannot run in the guest, if so."""
    if sys.version_info[:2] != PYTHON:
        return f"the guest has Python 3.11 and this is {platform.python_version()}"
    name, version = platform.libc_ver()
    if name != "glibc" or tuple(int(part) for part in version.split(".")) > GLIBC:
        return f"the guest has glibc 2.36 and this is {name} {version}"
    return None


def root_image() -> Path:
    """The image, which is made where it is not there yet. NotRun where this environment's packages cannot run in it."""
    if why := _why_not():
        raise NotRun(why)
    parts = sorted(_distributions({"mpsafe": distribution("mpsafe")}).values(), key=lambda one: one.name)
    key = digest([MAKE, Path(__file__), *(f"{one.name} {one.version}" for one in parts)])
    return kept("root", key, lambda path: _make(path, parts))


def _make(path: Path, parts: Iterable[Distribution]) -> None:
    debs = [one for one in archives(PACKAGES, VM / "archives") if not NOT_NEEDED.match(one.name)]
    site = path.with_suffix(".site")
    shutil.rmtree(site, ignore_errors=True)
    for part in parts:
        _copy(part, site)
    command: list[str | Path] = [MAKE, path, site, sys.executable]
    if os.geteuid() != 0:
        command = ["unshare", "--map-root-user", *command]
    environment = {**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"}
    subprocess.run(command, input="\n".join(map(str, debs)) + "\n", text=True, env=environment, check=True)
    shutil.rmtree(site)


def _copy(part: Distribution, site: Path) -> None:
    for file in part.files or ():
        outside = file.is_absolute() or ".." in file.parts
        if outside or file.suffix in (".pth", ".pyc") or "tests" in file.parts:
            continue
        target = site / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(os.fspath(file.locate()), target)


def _distributions(found: dict[str, Distribution]) -> dict[str, Distribution]:
    """These and all that they need, as far as they are installed: what is not is for another platform."""
    for part in list(found.values()):
        for requirement in part.requires or ():
            name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
            if "extra ==" in requirement or name in found:
                continue
            try:
                found[name] = distribution(name)
            except PackageNotFoundError:
                continue
            _distributions(found)
    return found
