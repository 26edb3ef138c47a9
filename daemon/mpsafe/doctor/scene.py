# SPDX-License-Identifier: Apache-2.0
"""What all checks look at: this host below one root, its processes, and what the daemon said."""

import grp
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mpsafe.doctor.pipes import Pipes
from mpsafe.doctor.processes import DEFAULT_PIPE_DIRECTORY, Processes, look
from mpsafe.doctor.told import Told, ask

__all__ = ["ADMIN_GROUP", "Place", "Scene"]

ADMIN_GROUP: Final = "mpsafe-admin"
DEFAULT_LOG_DIRECTORY: Final = "/var/log/nvidia-mps"


@dataclass(frozen=True, slots=True)
class Place:
    """The directories of one control daemon. `uid`: whose alone it is."""

    name: str
    uid: int | None
    pipe_directory: str
    log_directory: str


@dataclass(frozen=True, slots=True)
class Scene:
    """`root` leads to the host's files; `uid` and `groups` are those of who looks, `admins` the admin group's id."""

    told: Told
    processes: Processes
    root: Path = Path("/")
    uid: int = 0
    groups: frozenset[int] = frozenset()
    admins: int | None = None
    pipes: Pipes = field(default_factory=Pipes)

    @classmethod
    def of(cls, socket: str) -> "Scene":
        """This host, as this process may see it."""
        try:
            admins = grp.getgrnam(ADMIN_GROUP).gr_gid
        except KeyError:
            admins = None
        groups = frozenset({os.getegid(), *os.getgroups()})
        return cls(ask(socket), look(Path("/proc")), uid=os.geteuid(), groups=groups, admins=admins)

    def path(self, path: str) -> Path:
        """That path of the host."""
        return self.root / path.lstrip("/")

    def places(self) -> list[Place]:
        """Where control daemons are known or found: the daemon's, those of their processes, and MPS's default."""
        found = [Place(c.name, c.uid, c.pipe_directory, c.log_directory) for c in self.told.controls]
        for process in self.processes.found:
            if process.is_control or process.is_server:
                logs = process.environment.get("CUDA_MPS_LOG_DIRECTORY", DEFAULT_LOG_DIRECTORY)
                found.append(Place("", process.uid or None, process.pipe_directory, logs))
        found.append(Place("", None, DEFAULT_PIPE_DIRECTORY, DEFAULT_LOG_DIRECTORY))
        first: dict[str, Place] = {}
        for place in found:
            if _may_be_there(self.path(place.pipe_directory)):
                first.setdefault(place.pipe_directory, place)
        return list(first.values())


def _may_be_there(path: Path) -> bool:
    """Also where we may not look: the checks say so."""
    try:
        path.lstat()
    except PermissionError:
        return True
    except OSError:
        return False
    return True
