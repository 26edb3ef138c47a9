# SPDX-License-Identifier: Apache-2.0
"""Packages of Debian 12, fetched by tools/packages/unpack, and by apt itself where it is to find dependencies."""

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tools.vm.tree import REPOSITORY

__all__ = ["NotRun", "archives", "newest", "unpacked"]

SUITE: Final = "bookworm"
UNPACK: Final = REPOSITORY / "tools" / "packages" / "unpack"
PACKAGES: Final = Path(os.environ.get("MPSAFE_PACKAGES", REPOSITORY / "build" / "packages"))
# As tools/packages/unpack makes it.
APT_CONF: Final = PACKAGES / "apt" / SUITE / "apt.conf"
CANNOT: Final = 77


class NotRun(Exception):
    """This machine cannot run the virtual machine, and why."""


def _unpack(*arguments: str) -> str:
    environment = {**os.environ, "MPSAFE_SUITES": SUITE}
    done = subprocess.run([UNPACK, *arguments], env=environment, stdout=-1, stderr=-1, text=True, check=False)
    if done.returncode == CANNOT:
        raise NotRun(done.stderr.strip().splitlines()[-1])
    if done.returncode != 0:
        raise RuntimeError(f"{UNPACK.name} {' '.join(arguments)}: status {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def newest(pattern: str) -> str:
    """The newest package whose name matches."""
    return _unpack("--newest", pattern).strip()


def unpacked(name: str) -> Path:
    """The files of the newest version of a package."""
    return Path(_unpack(name).splitlines()[-1].split(" ", 1)[1])


def archives(names: Iterable[str], into: Path) -> list[Path]:
    """The archives of these packages and of all that they depend on, fetched into a folder."""
    (into / "partial").mkdir(parents=True, exist_ok=True)
    options = [f"Dir::Cache::archives={into}", "APT::Install-Recommends=false"]
    command: list[str | Path] = ["apt-get", "-qq", "-c", APT_CONF]
    command += [f"-o{option}" for option in options]
    done = subprocess.run([*command, "--yes", "--download-only", "install", *names], stderr=-1, text=True, check=False)
    if done.returncode != 0:
        raise NotRun(f"apt-get: {done.stderr.strip()}")
    return sorted(into.glob("*.deb"))
