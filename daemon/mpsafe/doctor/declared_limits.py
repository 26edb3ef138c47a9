# SPDX-License-Identifier: Apache-2.0
"""What is declared of the control daemons and is not so: whether they run, and the limits that they set."""

from collections.abc import Iterator

from mpsafe.doctor.finding import Finding
from mpsafe.doctor.scene import Scene

__all__ = ["declared_limits"]


def declared_limits(scene: Scene) -> Iterator[Finding]:
    """Each difference between what was declared and what mpsafed read back."""
    for control in scene.told.controls:
        name = f"control daemon {control.name}"
        if control.wanted and control.state != "running":
            text = f"{name} is {control.state} and is to run: {control.trouble or 'no reason is known'}"
            yield Finding("wrong", text, f"mpsafe mps start {control.name}", path=control.pipe_directory)
        elif control.trouble:
            yield Finding("warning", f"{name}: {control.trouble}", "mpsafe mps status", path=control.pipe_directory)
        for difference in control.drift:
            way_out = f"set them again with: mpsafe mps limits {control.name}"
            yield Finding("wrong", f"{name}, limits that are not in force: {difference}", way_out)
        if control.state == "running" and not control.trouble and not control.drift:
            yield Finding("ok", f"{name} runs, and its limits are in force", path=control.pipe_directory)
