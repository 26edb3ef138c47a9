# SPDX-License-Identifier: Apache-2.0
"""Silent bypass: a CUDA process that misses its control daemon gets the whole device, without an error.

Where the pipe directory is missing, or nobody listens in it, CUDA goes its ordinary way without a word
of MPS (measured, 550.163.01): no limit holds for such a process, and nothing shields the others from it.
"""

import contextlib
import difflib
from collections.abc import Iterator

from mpsafe.doctor.finding import Finding, Severity
from mpsafe.doctor.processes import Process
from mpsafe.doctor.scene import Scene

__all__ = ["bypass"]


def bypass(scene: Scene) -> Iterator[Finding]:
    """Each process with libcuda that is no client and ought to be one; a standby is outside on purpose."""
    clients = {client.identity.pid for client in scene.told.clients if client.state != "gone"}
    clients |= {standby.identity.pid for standby in scene.told.standbys}
    users = [p for p in scene.processes.found if p.libcuda is not None and not p.is_control and not p.is_server]
    outside = [finding for p in users if p.pid not in clients and (finding := _outside(scene, p)) is not None]
    yield from outside
    if users and not outside:
        yield Finding("ok", f"processes that use CUDA, none of which misses MPS: {len(users)}")
    if scene.processes.unseen:
        way_out = "" if scene.uid == 0 else "run mpsafe doctor as root to see whether they bypass MPS"
        yield Finding("note", f"processes that could not be looked into: {scene.processes.unseen}", way_out)


def _outside(scene: Scene, process: Process) -> Finding | None:
    directory, who = process.pipe_directory, f"process {process.pid} ({process.name}, uid {process.uid})"
    named = "CUDA_MPS_PIPE_DIRECTORY" in process.environment
    where = f"its CUDA_MPS_PIPE_DIRECTORY {directory}" if named else f"MPS's default directory {directory}"
    try:
        why = _missed(scene, process)
    except PermissionError:
        text = f"{who}: {where} cannot be looked into"
        return Finding("note", text, "run mpsafe doctor as root", process.pid, directory)
    if not why:
        if (known := _control_of(scene, process)) is None:
            return None
        text = f"{who} is not among the clients of {known}, which listens in {directory}"
        way_out = "if it has a CUDA context, that was made before the control daemon listened: start it again"
        return Finding("warning", text, way_out, process.pid, directory)
    if any(other.is_server and other.pipe_directory == directory for other in scene.processes.found):
        return None  # it may be the client of a server that outlived its control daemon: see leftovers.py
    if not named and not scene.told.controls:
        return None
    # Who names a directory wants MPS; who names none may be a standby, which is outside on purpose.
    severity: Severity = "wrong" if named else "warning"
    text = f"{who} runs outside MPS with the whole device: {where} {why}"
    return Finding(severity, text, _way_out(scene, process), process.pid, directory)


def _missed(scene: Scene, process: Process) -> str:
    """Why it cannot have met a control daemon; empty where one listens. PermissionError where we may not look."""
    try:
        listener = scene.pipes.listener(process.inside(process.pipe_directory))
    except PermissionError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        return "does not exist"
    except OSError as error:
        return f"cannot be used ({error.strerror})"
    return "has no control daemon that listens" if listener is None else ""


def _control_of(scene: Scene, process: Process) -> str | None:
    """The control daemon that it reaches, by whatever path, where the daemon would tell its clients."""
    for control in scene.told.controls:
        with contextlib.suppress(OSError):
            if scene.path(control.pipe_directory).samefile(process.inside(process.pipe_directory)):
                return control.name
    return None


def _way_out(scene: Scene, process: Process) -> str:
    theirs = [c.pipe_directory for c in scene.told.controls if c.uid in (None, process.uid) and c.state == "running"]
    close = difflib.get_close_matches(process.pipe_directory, theirs, 1) or theirs
    if not close:
        return "start its control daemon, see mpsafe mps status, and then the process again"
    return f"start it again with CUDA_MPS_PIPE_DIRECTORY={close[0]}, mounted into its container if it has one"
