# SPDX-License-Identifier: Apache-2.0
"""systemd's file descriptor store: what rests there outlives the daemon's process.

At its start the daemon is handed the listening sockets of its socket unit and what it stored before,
told apart by name (sd_listen_fds_with_names(3)). systemd keeps its own copy of what is stored until it
is removed or the unit is stopped; a restart stops nothing. FDPOLL=0 because a device may report an error
to poll() that is none for its owner, as /dev/kmsg does (sd_notify(3)).

Without systemd nothing is handed over and nothing is stored.
"""

import errno
import fnmatch
import logging
import os
import select
import subprocess
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final, Protocol, TypeVar

import systemd.daemon

__all__ = ["FdStore"]

BARRIER_S: Final = 5.0

_log = logging.getLogger(__name__)


class _HasDescriptor(Protocol):
    def fileno(self) -> int: ...


T = TypeVar("T", bound=_HasDescriptor)


class FdStore:
    """What was handed over at the start, each to be taken once, and the way to store more.

    What has another name than those `wanted`, as after a change of the configuration, or one that is there
    already, is closed and let go of. A name that ends with "*" is any with that beginning.
    """

    def __init__(self, wanted: Collection[str]) -> None:
        self._handed: dict[str, int] = {}
        for fd, name in systemd.daemon.listen_fds_with_names().items():
            known = any(fnmatch.fnmatchcase(name, one) for one in wanted)
            if known and name not in self._handed:
                self._handed[name] = fd
            else:
                os.close(fd)
                if not known:
                    self.remove(name)

    def taken(self, name: str) -> int | None:
        """A descriptor that was handed over; from here on it is the caller's. None if there is none."""
        return self._handed.pop(name, None)

    def taken_all(self, prefix: str) -> dict[str, int]:
        """All that were handed over with a name that begins so; they are the caller's."""
        return {name: self._handed.pop(name) for name in list(self._handed) if name.startswith(prefix)}

    def store(self, name: str, fd: int) -> None:
        """A copy of the descriptor rests in the store from here on."""
        self._notify(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", [fd])

    def remove(self, name: str) -> None:
        """The store lets go of all that rests under this name, soon."""
        self._notify(f"FDSTOREREMOVE=1\nFDNAME={name}", [])

    def count(self) -> int:
        """How many descriptors the store holds, once all that was said before has been heard. OSError, TimeoutExpired.

        systemd answers neither FDSTORE=1 nor whether there was room: NFileDescriptorStore of the unit tells.
        """
        self._barrier()
        unit = Path("/proc/self/cgroup").read_text(encoding="utf-8").strip().rpartition("/")[2]
        command = ["systemctl", "show", "--property=NFileDescriptorStore", "--value", "--", unit]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=BARRIER_S, check=False)
        if not shown.stdout.strip().isdecimal():
            raise OSError(errno.EIO, f"systemctl show {unit}: {shown.stderr.strip() or 'no number'}")
        return int(shown.stdout)

    def _barrier(self) -> None:
        """Returns when systemd has dealt with all that was sent before: it closes what comes with BARRIER=1."""
        reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            self._notify("BARRIER=1", [writing])
            os.close(writing)
            if not select.select([reading], [], [], BARRIER_S)[0]:
                raise OSError(errno.ETIMEDOUT, "systemd does not hear")
        finally:
            os.close(reading)

    def kept(self, name: str, *, take: Callable[[int], T], make: Callable[[], T]) -> T:
        """What was handed over, once, or a new one that rests in the store in its place.

        `take` owns the descriptor that it is given, and raises OSError for one that is dead: it is let go
        of, and `make` is asked. What `make` raises is raised.
        """
        if (fd := self.taken(name)) is not None:
            try:
                return take(fd)
            except OSError as error:
                _log.info("what rested as %s is dead: %s", name, error)
        self.remove(name)
        made = make()
        self.store(name, made.fileno())
        return made

    def _notify(self, text: str, fds: list[int]) -> None:
        try:
            systemd.daemon.notify(text, fds=fds)
        except OSError as error:
            _log.warning("systemd does not hear %r: %s", text.replace("\n", " "), error)
