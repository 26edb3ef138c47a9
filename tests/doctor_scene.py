# SPDX-License-Identifier: Apache-2.0
"""What a test of the doctor looks at: this machine's processes, CUDA programs of its own, and a tree of files."""

import os
import subprocess
import sys
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mpsafe.doctor.finding import Finding
from mpsafe.doctor.processes import Processes, look
from mpsafe.doctor.scene import Scene
from mpsafe.doctor.told import Told

__all__ = ["cuda_program", "lines", "of", "scene", "tree"]

PROGRAM: Final = (sys.executable, Path(__file__).with_name("tenant_process.py"), "nobody", "")


def scene(told: Told | None = None) -> Scene:
    """All that is on this machine; others run programs on it too."""
    return Scene(told or Told(), look(Path("/proc")), uid=os.geteuid())


def tree(root: Path, files: Mapping[str, str], told: Told | None = None) -> Scene:
    """A root with these files, and no process."""
    for name, text in files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Scene(told or Told(), Processes(), root=root)


@contextmanager
def cuda_program(environment: Mapping[str, str], *prefix: str) -> Generator[subprocess.Popen[str]]:
    """A process that has a CUDA context; `prefix` is a command that becomes it."""
    process = subprocess.Popen(
        [*prefix, *PROGRAM],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def of(findings: Iterable[Finding], process: subprocess.Popen[str]) -> list[Finding]:
    """Those about one process."""
    return [finding for finding in findings if finding.pid == process.pid]


def lines(findings: Iterable[Finding]) -> list[str]:
    """Severity and text of each."""
    return [f"{finding.severity}: {finding.text}" for finding in findings]
