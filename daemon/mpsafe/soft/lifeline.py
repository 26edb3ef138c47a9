# SPDX-License-Identifier: Apache-2.0
"""The lifeline: what a software host has started ends with it, even if it is killed.

DIR/alive is a FIFO. The host holds its write end, the programs watch the other: a FIFO that nobody
can write to any more is readable. Without the file, as when a program is started by hand, nothing ends it.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mpsafe.soft.sockets import Loop

__all__ = ["Lifeline", "follow"]

NAME: Final = "alive"


class Lifeline:
    """The host's end."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME
        self._path.unlink(missing_ok=True)  # a dead host's programs must not take ours for theirs
        os.mkfifo(self._path, 0o644)
        self._fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)

    def close(self) -> None:
        """Lets go; twice is nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._path.unlink(missing_ok=True)


def follow(loop: Loop, directory: str | os.PathLike[str], end: Callable[[], None]) -> None:
    """Calls `end` when the host of that directory is gone."""
    try:
        fd = os.open(os.path.join(directory, NAME), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    loop.watch(fd, end)
