# SPDX-License-Identifier: Apache-2.0
"""Follows a text file line by line through appending, truncation and replacement.

Others may write to the file and its directory: what is no regular file is not opened, and however
long a line or a file is, a chunk of it at a time is in memory.
"""

import asyncio
import errno
import os
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

from asyncinotify import Inotify, Mask

from mpsafe.errors import SourceLost
from mpsafed.signals import Cursor

__all__ = ["end_of", "follow"]

LINE_MAX: Final = 64 << 10
CHUNK: Final = 128 << 10
_FILE_CHANGES: Final = Mask.MODIFY | Mask.ATTRIB | Mask.MOVE_SELF | Mask.DONT_FOLLOW
_DIRECTORY_CHANGES: Final = Mask.CREATE | Mask.MOVED_TO | Mask.MOVE_SELF | Mask.DELETE_SELF | Mask.ONLYDIR


def end_of(path: Path, name: str) -> Cursor:
    """A cursor behind what is in the file now; before everything if the file is not there yet."""
    try:
        found = path.lstat()
    except OSError:
        return Cursor(name, "absent", 0)
    return Cursor(name, f"inode {found.st_ino}", found.st_size)


async def follow(
    path: Path, start: Cursor, opened: Callable[[], None] = lambda: None
) -> AsyncIterator[tuple[str, Cursor]]:
    """Each whole line of `path`, with the cursor behind it, from `start` on; waits for more.

    Waits for a file that is not there yet; calls `opened` once it is. Begins anew where the file is
    another one (its inode), or is shorter than the cursor. Ends when the file or its directory is deleted or
    moved. A line over LINE_MAX bytes is cut. Raises OSError if it cannot be read, SourceLost if it is no file.
    """
    with Inotify() as changes:
        changes.add_watch(path.parent, _DIRECTORY_CHANGES)  # pyright: ignore[reportUnknownMemberType] -- bare PathLike
        while not os.path.lexists(path):
            if (await changes.get()).mask & (Mask.MOVE_SELF | Mask.IGNORED):
                return
        fd = _open(path, start.source)
        try:
            changes.add_watch(path, _FILE_CHANGES)  # pyright: ignore[reportUnknownMemberType] -- its PathLike is bare
            opened()
            stream = f"inode {os.fstat(fd).st_ino}"
            position = start.position if start.stream == stream else 0
            cut = False
            while True:
                ended = not _is_at(fd, path)
                if os.fstat(fd).st_size < position:
                    position, cut = 0, False
                while chunk := os.pread(fd, CHUNK, position):
                    *lines, rest = chunk.split(b"\n")
                    for line in lines:
                        position += len(line) + 1
                        if not cut:
                            yield _text(line), Cursor(start.source, stream, position)
                        cut = False
                    if not lines:
                        if len(rest) < LINE_MAX and not cut:
                            break
                        position += len(rest)
                        if not cut:
                            yield _text(rest), Cursor(start.source, stream, position)
                        cut = True
                    await asyncio.sleep(0)
                if ended:
                    return
                await changes.get()
        finally:
            os.close(fd)


def _open(path: Path, source: str) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise SourceLost(source, f"{path} is a symbolic link: not followed") from error
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise SourceLost(source, f"{path} is no regular file: not read")
    return fd


def _text(line: bytes) -> str:
    return line[:LINE_MAX].decode("utf-8", "replace")


def _is_at(fd: int, path: Path) -> bool:
    """Whether the open file is the one at the path."""
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except OSError:
        return False
