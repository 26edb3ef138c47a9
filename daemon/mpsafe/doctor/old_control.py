# SPDX-License-Identifier: Apache-2.0
"""Branch 535 lets every user set the limits of all: who may enter the pipe directory may change them.

Measured on 535.309.01, where any uid could set the default percentage; 550.163.01 refuses. 535 has no
command get_server_status, by which it is told apart.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import Final

from mpsafe.doctor.finding import Finding
from mpsafe.doctor.processes import CONTROL
from mpsafe.doctor.scene import Place, Scene

__all__ = ["old_control"]

DEADLINE_S: Final = 5.0
OTHERS_ENTER: Final = 0o011


def old_control(scene: Scene) -> Iterator[Finding]:
    """Asks each control daemon whose directory others may enter."""
    for place in scene.places():
        try:
            open_to_others = scene.path(place.pipe_directory).stat().st_mode & OTHERS_ENTER
            if not open_to_others or scene.pipes.listener(scene.path(place.pipe_directory)) is None:
                continue
        except OSError:
            continue  # the check of directories says so
        yield from _asked(scene, place)


def _asked(scene: Scene, place: Place) -> Iterator[Finding]:
    program = shutil.which(CONTROL)
    if program is None:
        yield Finding("note", f"{CONTROL} is not in PATH: its branch is not known", path=place.pipe_directory)
        return
    environment = {**os.environ, "CUDA_MPS_PIPE_DIRECTORY": str(scene.path(place.pipe_directory)), "LC_ALL": "C"}
    question = b"get_server_status 1\n"
    try:
        done = subprocess.run(
            [program], input=question, env=environment, capture_output=True, timeout=DEADLINE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        text = f"the control daemon in {place.pipe_directory} does not answer"
        yield Finding("wrong", text, "see: mpsafe mps status", path=place.pipe_directory)
        return
    if b"Unknown command" in done.stdout:
        text = f"any user can change the limits of the control daemon in {place.pipe_directory}: it is of branch 535"
        way_out = f"chmod 0700 {place.pipe_directory} where one user has it, or install branch 550 or newer"
        yield Finding("wrong", text, way_out, path=place.pipe_directory)
    else:
        text = f"the control daemon in {place.pipe_directory} lets its owner alone change limits"
        yield Finding("ok", text, path=place.pipe_directory)
