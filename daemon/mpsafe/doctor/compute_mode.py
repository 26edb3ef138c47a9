# SPDX-License-Identifier: Apache-2.0
"""The compute mode of each device (nvml.h, nvmlComputeMode_t): who may have a context beside MPS."""

from collections.abc import Iterator

from mpsafe.doctor.finding import Finding
from mpsafe.doctor.scene import Scene

__all__ = ["compute_mode"]


def compute_mode(scene: Scene) -> Iterator[Finding]:
    """What each mode permits and forbids under MPS."""
    for device in scene.told.devices:
        name = f"device {device.index} ({device.uuid})"
        match device.compute_mode:
            case "default":
                text = f"{name} is in mode DEFAULT: a process that misses MPS runs beside it"
                yield Finding("note", text, f"without standbys: nvidia-smi -i {device.index} -c EXCLUSIVE_PROCESS")
            case "exclusive_process":
                text = f"{name} is in mode EXCLUSIVE_PROCESS: a standby outside the MPS server cannot start"
                yield Finding("note", text, f"with standbys: nvidia-smi -i {device.index} -c DEFAULT")
            case "prohibited":
                text = f"{name} is in mode PROHIBITED: nothing can run on it, MPS included"
                yield Finding("wrong", text, f"nvidia-smi -i {device.index} -c DEFAULT")
            case mode:
                yield Finding("note", f"the compute mode of {name} is {mode}")
