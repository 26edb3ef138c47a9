# SPDX-License-Identifier: Apache-2.0
"""The directories of MPS: who owns them and who may write is who may pose as MPS, or forge its log."""

import stat
from collections.abc import Iterator
from pathlib import Path

from mpsafe.doctor.finding import Finding, Severity
from mpsafe.doctor.scene import Place, Scene

__all__ = ["directories"]


def directories(scene: Scene) -> Iterator[Finding]:
    """Links, foreign owners, modes that let others write, and logs that cannot be read."""
    for place in scene.places():
        found = [
            *_directory(scene, place, "pipe", place.pipe_directory, "anyone can take its sockets away and pose as MPS"),
            *_directory(scene, place, "log", place.log_directory, "anyone can forge what its log says"),
            *_logs(scene, place),
        ]
        yield from found or [Finding("ok", f"{place.pipe_directory}: its directories are its owner's alone")]


def _directory(scene: Scene, place: Place, kind: str, name: str, harm: str) -> Iterator[Finding]:
    path = scene.path(name)
    try:
        status = path.lstat()
    except OSError as error:
        yield Finding("note", f"the {kind} directory {name} cannot be looked at: {error.strerror}", path=name)
        return
    if stat.S_ISLNK(status.st_mode):
        way_out = "put a directory in its place: who owns the link decides where it leads"
        yield Finding(
            "wrong", f"the {kind} directory {name} is a symbolic link to {path.readlink()}", way_out, path=name
        )
        return
    if status.st_uid not in {0, place.uid or 0}:
        way_out = f"chown {place.uid or 0} {name}, once you know who made it"
        yield Finding(
            "wrong", f"the {kind} directory {name} belongs to uid {status.st_uid}: {harm}", way_out, path=name
        )
    elif status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        who = "everybody" if status.st_mode & stat.S_IWOTH else f"group {status.st_gid}"
        text = f"the {kind} directory {name} can be written by {who}: {harm}"
        yield Finding("warning", text, f"chmod go-w {name}", path=name)


def _logs(scene: Scene, place: Place) -> Iterator[Finding]:
    for name in ("control.log", "server.log"):
        path = f"{place.log_directory}/{name}"
        if (reason := _unreadable(scene.path(path))) is not None:
            severity: Severity = "wrong" if scene.uid == 0 else "note"
            way_out = "mpsafed reads it as root; look whether a mount or a security module forbids it"
            yield Finding(severity, f"{path} cannot be read: {reason}", way_out if scene.uid == 0 else "", path=path)


def _unreadable(path: Path) -> str | None:
    """Why; None where it can be read or is not there, which before the first server is as it should be."""
    try:
        if not path.is_file():
            return None if not path.is_symlink() and not path.exists() else "it is no file"
        with path.open("rb") as log:
            log.read(1)
    except OSError as error:
        return error.strerror or str(error)
    return None
