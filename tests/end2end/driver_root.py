# SPDX-License-Identifier: Apache-2.0
"""A machine to install a driver on: Debian's kernel, headers and DKMS over this machine's root; nothing of it stays."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

__all__ = ["NEEDS", "REPOSITORY", "DriverRoot", "machine", "packages"]

NEEDS = ("root", "namespaces", "apt-get", "dpkg-deb", "flock", "cc", "make", "depmod", "objcopy", "openssl")
REPOSITORY = Path(__file__).parent.parent.parent
_CANNOT_RUN = 77


@dataclass(frozen=True, slots=True)
class DriverRoot:
    """`run` begins each time with the machine as it was delivered."""

    folder: Path
    kdir: Path
    image: Path
    dkms: Path

    @property
    def kernel(self) -> str:
        """As `uname -r` would tell it."""
        return self.kdir.name.removeprefix("linux-headers-")

    def run(self, program: str, *arguments: str, timeout_s: float = 240) -> str:
        """Runs a Python program inside, with our tests importable, and returns what it prints."""
        script = REPOSITORY / "tests" / "end2end" / "enter-driver-root"
        self.folder.mkdir(exist_ok=True)
        command = [sys.executable, "-W", "error", "-c", program, self.kernel, *arguments]
        done = subprocess.run(
            [script, self.folder, self.kdir, self.image, self.dkms, REPOSITORY, *command],
            env={**os.environ, "PYTHONPATH": f"{REPOSITORY}/tests", "LC_ALL": "C.UTF-8"},
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def packages(name: str, suites: str = "bookworm trixie") -> list[Path]:
    """The unpacked versions of a package, oldest first; a skip with the reason where there is none."""
    lines = _tool("tools/packages/unpack", name, suites=suites).splitlines()
    return sorted(Path(line.split()[1]) for line in lines)


def machine(folder: Path, dkms: Path) -> DriverRoot:
    """Of the newest kernel of Debian 12 in the cloud flavour."""
    kdir = Path(_tool("tools/driver/headers").strip())
    release = kdir.name.removeprefix("linux-headers-")
    return DriverRoot(folder, kdir, packages(f"linux-image-{release}", "bookworm")[-1], dkms)


def _tool(*command: str, suites: str = "bookworm") -> str:
    environment = {**os.environ, "MPSAFE_SUITES": suites}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == _CANNOT_RUN:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return done.stdout
