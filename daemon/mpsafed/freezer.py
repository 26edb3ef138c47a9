# SPDX-License-Identifier: Apache-2.0
"""The freezer of cgroup v2: all processes of one cgroup stop at once, and cannot be continued from within.

Kernel document admin-guide/cgroup-v2, cgroup.freeze and cgroup.events: to write 1 asks for it, and
`frozen 1` says that it is so. A cgroup's path is as /proc/PID/cgroup tells it, "/system.slice/chat.service".
No link is followed on the way there, and nothing outside the one file system is opened.
"""

import asyncio
import contextlib
import os
from collections.abc import Generator, Iterable
from pathlib import Path, PurePosixPath
from typing import Final

from asyncinotify import Inotify, Mask

__all__ = ["Freezer", "cgroup_root"]

FREEZE_SECONDS: Final = 0.2
EVENTS_MAX: Final = 4096
_OPEN: Final = os.O_NOFOLLOW | os.O_CLOEXEC


def cgroup_root(mounts: Path = Path("/proc/self/mountinfo")) -> Path | None:
    """Where the whole cgroup v2 hierarchy is mounted (proc(5), mountinfo); None if nowhere."""
    for line in mounts.read_text(errors="replace").splitlines():
        mount, _, rest = line.partition(" - ")
        fields = mount.split()
        if rest.split(" ")[0] == "cgroup2" and len(fields) > 4 and fields[3] == "/":
            return Path(fields[4])
    return None


class Freezer:
    """Freezes and thaws cgroups below `root`; without one it says so and freezes nothing."""

    def __init__(self, root: Path | None, *, freeze_s: float = FREEZE_SECONDS) -> None:
        self._root = root
        self._freeze_s = freeze_s

    async def freeze(self, cgroup: Path, *, member: int, spared: Iterable[int]) -> str:
        """Freezes the cgroup of process `member`; "" once it is frozen, else why it is not, and then it is thawed.

        It is not touched where `member` is not in it, or a process of `spared` is: pids, none of them ours
        to stop. The daemon itself and process 1 are always spared.
        """
        if not _inside(member, cgroup):
            return f"process {member} is not in cgroup {cgroup}"
        for pid in (1, os.getpid(), *spared):
            if _inside(pid, cgroup):
                return f"process {pid} is in cgroup {cgroup} too"
        try:
            with self._opened(cgroup) as directory:
                _write(directory, b"1")
                try:
                    async with asyncio.timeout(self._freeze_s):
                        await _frozen(directory)
                except OSError as error:
                    _write(directory, b"0")
                    return f"cgroup {cgroup}: {error.strerror or f'not frozen within {self._freeze_s:g} s'}"
        except OSError as error:
            return f"cgroup {cgroup}: {error.strerror}"
        return ""

    def thaw(self, cgroup: Path) -> str:
        """Lets its processes run; "" or why it cannot. One that is not frozen stays so."""
        try:
            with self._opened(cgroup) as directory:
                _write(directory, b"0")
        except OSError as error:
            return f"cgroup {cgroup}: {error.strerror}"
        return ""

    @contextlib.contextmanager
    def _opened(self, cgroup: Path) -> Generator[int]:
        """The directory, one name after the other from the root. Raises OSError."""
        names = PurePosixPath(cgroup).parts[1:]
        if self._root is None:
            raise FileNotFoundError(0, "no cgroup v2 hierarchy is mounted")
        if not cgroup.is_absolute() or not names or ".." in names:
            raise PermissionError(0, "is no path below the root of the hierarchy")
        directory = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            device = os.fstat(directory).st_dev
            for name in names:
                below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | _OPEN, dir_fd=directory)
                os.close(directory)
                directory = below
            if os.fstat(directory).st_dev != device:
                raise PermissionError(0, "is not of the hierarchy")
            yield directory
        finally:
            os.close(directory)


def _inside(pid: int, cgroup: Path) -> bool:
    """Whether a process is in a cgroup or below it (cgroups(7), /proc/PID/cgroup); one that has ended is nowhere."""
    try:
        with open(f"/proc/{pid}/cgroup", errors="replace") as file:
            found = next((line[3:].rstrip("\n") for line in file if line.startswith("0::")), None)
    except OSError:
        return False
    return found is not None and PurePosixPath(found).is_relative_to(PurePosixPath(cgroup))


async def _frozen(directory: int) -> None:
    """Waits until cgroup.events says so."""
    events = os.open("cgroup.events", os.O_RDONLY | _OPEN, dir_fd=directory)
    try:
        with Inotify() as changes:
            path = Path(f"/proc/self/fd/{events}")
            changes.add_watch(path, Mask.MODIFY)  # pyright: ignore[reportUnknownMemberType] -- its PathLike is bare
            while b"frozen 1" not in os.pread(events, EVENTS_MAX, 0).splitlines():
                await changes.get()
    finally:
        os.close(events)


def _write(directory: int, value: bytes) -> None:
    freeze = os.open("cgroup.freeze", os.O_WRONLY | _OPEN, dir_fd=directory)
    try:
        os.write(freeze, value)
    finally:
        os.close(freeze)
