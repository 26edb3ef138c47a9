# SPDX-License-Identifier: Apache-2.0
"""The processes that matter to MPS: those that have libcuda mapped, control daemons, and servers.

Everything in /proc/PID is what the process made it, so it is bounded and may be gone at any moment.
The environment is the one that the program was started with: what it set since is not seen.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

__all__ = ["CONTROL", "DEFAULT_PIPE_DIRECTORY", "SERVER", "Process", "Processes", "look"]

CONTROL: Final = "nvidia-cuda-mps-control"
SERVER: Final = "nvidia-cuda-mps-server"
DEFAULT_PIPE_DIRECTORY: Final = "/tmp/nvidia-mps"
READ_MAX: Final = 16 << 20
# comm holds 15 characters (proc(5)), which the two programs have in common.
_COMM: Final = CONTROL[:15]


@dataclass(frozen=True, slots=True)
class Process:
    """`libcuda` is the path that it is mapped from, as the process sees it; None where it has none.

    `root` leads to the files that the process sees, also where that is another mount namespace.
    """

    pid: int
    parent: int
    uid: int
    name: str
    program: str
    environment: dict[str, str]
    libcuda: str | None
    root: Path

    @property
    def is_control(self) -> bool:
        """Whether it is an MPS control daemon, or its front end."""
        return self.program == CONTROL

    @property
    def is_server(self) -> bool:
        """Whether it is an MPS server."""
        return self.name == _COMM and not self.is_control

    @property
    def pipe_directory(self) -> str:
        """Where it looks for its control daemon."""
        return self.environment.get("CUDA_MPS_PIPE_DIRECTORY") or DEFAULT_PIPE_DIRECTORY

    def inside(self, path: str) -> Path:
        """That path of the process, from outside."""
        return self.root / path.lstrip("/")


@dataclass(frozen=True, slots=True)
class Processes:
    """`unseen` counts those of others that this user may not look into."""

    found: list[Process] = field(default_factory=lambda: list[Process]())
    unseen: int = 0


def look(proc: Path) -> Processes:
    """Goes through /proc once."""
    found: list[Process] = []
    unseen = 0
    for entry in sorted((e for e in proc.iterdir() if e.name.isdecimal()), key=lambda e: int(e.name)):
        try:
            if (process := _process(entry)) is not None:
                found.append(process)
        except PermissionError:
            unseen += 1
        except (OSError, ValueError, IndexError):
            continue  # it has ended
    return Processes(found, unseen)


def _process(entry: Path) -> Process | None:
    libcuda = next(_mapped_libcuda(entry / "maps"), None)
    name = _text(entry / "comm").rstrip("\n")
    arguments = _text(entry / "cmdline").split("\0")
    program = os.path.basename(arguments[0])
    if libcuda is None and name != _COMM and program not in (CONTROL, SERVER):
        return None
    pairs = (pair.partition("=") for pair in _text(entry / "environ").split("\0") if pair)
    return Process(
        pid=int(entry.name),
        parent=int(_text(entry / "stat").rpartition(")")[2].split()[1]),
        uid=entry.stat().st_uid,
        name=name,
        program=program,
        environment={key: value for key, _, value in pairs},
        libcuda=libcuda,
        root=entry / "root",
    )


def _mapped_libcuda(maps: Path) -> Iterator[str]:
    for line in _text(maps).splitlines():
        if os.path.basename(path := line.partition("/")[2]).startswith("libcuda.so"):
            yield f"/{path}"


def _text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(READ_MAX).decode(errors="replace")
