# SPDX-License-Identifier: Apache-2.0
"""Follows a text file line by line through appending, truncation and replacement."""

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from asyncinotify import Inotify, Mask

from mpsafed.signals import Cursor

__all__ = ["end_of", "follow"]

LINE_MAX = 64 << 10
CHUNK = 1 << 20
_CHANGES = Mask.MODIFY | Mask.MOVE_SELF | Mask.DELETE_SELF | Mask.ATTRIB


def end_of(path: Path, name: str) -> Cursor:
    """A cursor behind what is in the file now; before everything if the file is not there yet."""
    try:
        found = path.stat()
    except OSError:
        return Cursor(name, "absent", 0)
    return Cursor(name, f"inode {found.st_ino}", found.st_size)


async def follow(
    path: Path, start: Cursor, opened: Callable[[], None] = lambda: None
) -> AsyncIterator[tuple[str, Cursor]]:
    """Each whole line of `path`, with the cursor behind it, from `start` on; waits for more.

    Waits for a file that is not there yet; calls `opened` once it is. Begins anew where the file is
    another one (its inode), or is shorter than the cursor. Ends when the file is deleted or moved. A line
    over LINE_MAX bytes is cut. Raises OSError if it cannot be read.
    """
    await _appears(path)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    opened()
    try:
        stream = f"inode {os.fstat(fd).st_ino}"
        position = start.position if start.stream == stream else 0
        with Inotify() as changes:
            changes.add_watch(path, _CHANGES)  # pyright: ignore[reportUnknownMemberType] -- its PathLike is bare
            cut = False
            while True:
                ended = os.fstat(fd).st_nlink == 0 or not _same(fd, path)
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
                if ended:
                    return
                await changes.get()
    finally:
        os.close(fd)


def _text(line: bytes) -> str:
    return line[:LINE_MAX].decode("utf-8", "replace")


async def _appears(path: Path) -> None:
    with Inotify() as changes:
        changes.add_watch(path.parent, Mask.CREATE | Mask.MOVED_TO)  # pyright: ignore[reportUnknownMemberType]
        while not path.exists():
            await changes.get()


def _same(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
