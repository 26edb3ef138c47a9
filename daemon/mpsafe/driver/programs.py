# SPDX-License-Identifier: Apache-2.0
"""Programs of the system, which lie where a user's PATH does not lead."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mpsafe.driver.trouble import DriverCannotRun, DriverStepFailed

__all__ = ["act", "ask", "find", "need"]

DEADLINE_S: Final = 30.0
BUILD_DEADLINE_S: Final = 3600.0
TOLD_LINES: Final = 12


def find(name: str) -> str | None:
    """Its path, or None."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def need(name: str, package: str) -> str:
    """Its path; without it nothing is begun."""
    path = find(name)
    if path is None:
        raise DriverCannotRun(f"{name} is not there: install the package {package}")
    return path


def ask(name: str, *arguments: str | Path) -> str:
    """What it prints; nothing where it is not there, fails or is late."""
    path = find(name)
    if path is None:
        return ""
    try:
        done = subprocess.run(
            [path, *arguments], capture_output=True, text=True, errors="replace", check=False, timeout=DEADLINE_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def act(step: str, command: Sequence[str | Path]) -> None:
    """Runs it to its end; what it said last is told if it fails."""
    environment = {**os.environ, "LC_ALL": "C", "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
            check=False,
            timeout=BUILD_DEADLINE_S,
        )
    except subprocess.TimeoutExpired:
        raise DriverStepFailed(step, f"no end after {BUILD_DEADLINE_S:.0f} s") from None
    except OSError as error:
        raise DriverStepFailed(step, str(error)) from error
    if done.returncode:
        said = " | ".join(line.strip() for line in done.stdout.splitlines()[-TOLD_LINES:] if line.strip())
        raise DriverStepFailed(step, f"exit status {done.returncode}: {said}")
