# SPDX-License-Identifier: Apache-2.0
"""The pipe and log directories of the control daemons: made, checked, and who can write in them.

Measured on 535.309.01 and 550.163.01: the program makes a pipe directory that everybody may write in
(0777), and in it sockets and the FIFO `log` that everybody may write to. Through that FIFO go the
lines of servers, so anybody who may enter can have written them; and a few bytes that are no record
silence both logs for as long as the daemon lives. So the directory is made first, and closed to all
but its user; one that serves everybody has to let everybody in.
"""

import contextlib
import os
import stat
from pathlib import Path
from typing import Final

from mpsafe.errors import ControlFailed
from mpsafed.child import group_of
from mpsafed.declared import Declared

__all__ = ["make_directories", "writer"]

OWN_MODE: Final = 0o700
SHARED_MODE: Final = 0o711
PARENT_MODE: Final = 0o755
WRITABLE: Final = 0o022
ENTERABLE: Final = 0o011
LOGS: Final = ("control.log", "server.log")


def make_directories(declared: Declared) -> None:
    """Makes both directories, or takes those that are there and safe. Raises ControlFailed, with a sentence."""
    shared = declared.uid is None
    _make(declared.pipe_directory, declared.uid, SHARED_MODE if shared else OWN_MODE)
    _make(declared.log_directory, declared.uid, OWN_MODE)


def writer(declared: Declared) -> int | None:
    """The only user but root who can have written a line of the logs; None: anybody can."""
    logs = declared.log_directory
    writers = {_holder(declared.pipe_directory, ENTERABLE), _holder(logs, WRITABLE)} - {0}
    writers |= {_author(logs / name) for name in LOGS if _may_enter(logs)} - {0}
    return writers.pop() if len(writers) == 1 else None if writers else 0


def _make(path: Path, uid: int | None, mode: int) -> None:
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(PARENT_MODE, parents=True, exist_ok=True)
            parent = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, parent)
            if not _only_trusted_may_replace(os.fstat(parent), {0, os.geteuid()}):
                _refuse(path, f"{path.parent} can be written by others than root", "choose another parent directory")
            fresh = True
            try:
                os.mkdir(path.name, OWN_MODE, dir_fd=parent)
            except FileExistsError:
                fresh = False
            found = os.open(path.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            stack.callback(os.close, found)
            about, owner = os.fstat(found), os.geteuid() if uid is None else uid
            if not fresh and about.st_uid not in {owner, os.geteuid()}:
                _refuse(path, f"it belongs to uid {about.st_uid}, expected uid {owner}", "remove it")
            if not fresh and stat.S_IMODE(about.st_mode) & WRITABLE:
                _refuse(path, f"others may write in it (mode {stat.S_IMODE(about.st_mode):04o})", "remove it")
            if about.st_uid != owner:
                os.fchown(found, owner, group_of(owner))
            if stat.S_IMODE(about.st_mode) != mode:
                os.fchmod(found, mode)
        except NotADirectoryError:
            _refuse(path, "a file or a symbolic link is there, expected a directory", "remove it")
        except OSError as error:
            _refuse(path, f"it cannot be made: {error.strerror}", "see its permissions")


def _refuse(path: Path, problem: str, advice: str) -> None:
    raise ControlFailed("start", f"{path}: {problem}; {advice}")


def _holder(path: Path, open_to_others: int) -> int | None:
    """Whose a directory is alone; None if it is nobody's alone, or cannot be looked at."""
    try:
        about, parent = path.lstat(), path.parent.stat()
    except OSError:
        return None
    if not stat.S_ISDIR(about.st_mode) or about.st_mode & open_to_others:
        return None
    return about.st_uid if _only_trusted_may_replace(parent, {0, about.st_uid}) else None


def _may_enter(path: Path) -> bool:
    """Whether others than its owner may enter a directory, or it cannot be looked at."""
    try:
        return bool(path.lstat().st_mode & ENTERABLE)
    except OSError:
        return True


def _author(path: Path) -> int | None:
    """Who alone may write to a file; None if others may. A file that is not there yet is the daemon's to make."""
    try:
        about = path.lstat()
    except FileNotFoundError:
        return 0
    except OSError:
        return None
    return None if about.st_mode & WRITABLE else about.st_uid


def _only_trusted_may_replace(parent: os.stat_result, trusted: set[int]) -> bool:
    """Whether only these users can put another directory in the place of one; a sticky parent keeps it (/tmp)."""
    others_write = stat.S_IMODE(parent.st_mode) & WRITABLE and not parent.st_mode & stat.S_ISVTX
    return parent.st_uid in trusted and not others_write
