# SPDX-License-Identifier: Apache-2.0
"""What dead control daemons left: servers that nobody can ask, sockets where nobody listens, pid files."""

from collections.abc import Iterator
from typing import Final

from mpsafe.doctor.finding import Finding
from mpsafe.doctor.processes import Process
from mpsafe.doctor.scene import Place, Scene

__all__ = ["leftovers"]

PID_FILE: Final = "nvidia-cuda-mps-control.pid"
PID_BYTES: Final = 32


def leftovers(scene: Scene) -> Iterator[Finding]:
    """A killed control daemon leaves all of its files, and its servers serve on (measured, 550.163.01)."""
    servers = [process for process in scene.processes.found if process.is_server]
    stale = [server for server in servers if not _has_control(scene, server)]
    for server in stale:
        text = f"MPS server {server.pid} (uid {server.uid}) serves on, and its control daemon is dead"
        way_out = f"nothing can steer it: end its clients, then kill {server.pid}"
        yield Finding("wrong", text, way_out, server.pid, server.pipe_directory)
    if servers and not stale:
        yield Finding("ok", f"MPS servers, each with its control daemon: {len(servers)}")
    for place in scene.places():
        yield from _files(scene, place)


def _has_control(scene: Scene, server: Process) -> bool:
    if any(process.is_control and process.pid == server.parent for process in scene.processes.found):
        return True
    try:
        return scene.pipes.listener(server.inside(server.pipe_directory)) == server.parent
    except OSError:
        return False


def _files(scene: Scene, place: Place) -> Iterator[Finding]:
    directory = scene.path(place.pipe_directory)
    try:
        if scene.pipes.listener(directory) is not None:
            return
        if (directory / "control").exists():
            text = f"nobody listens on the socket {place.pipe_directory}/control: its control daemon has ended"
            way_out = "nothing, if it was stopped on purpose; a client that starts now bypasses MPS"
            yield Finding("note", text, way_out, path=place.pipe_directory)
        with (directory / PID_FILE).open("rb") as file:
            pid = file.read(PID_BYTES).decode(errors="replace").strip()
    except FileNotFoundError:
        return
    except OSError as error:
        text = f"{place.pipe_directory} cannot be looked into: {error.strerror}"
        yield Finding("note", text, "run mpsafe doctor as root", path=place.pipe_directory)
        return
    text = f"{place.pipe_directory}/{PID_FILE} names process {pid}, which does not listen: it was killed"
    way_out = "start it again; a new control daemon replaces what it finds"
    yield Finding("warning", text, way_out, path=place.pipe_directory)
