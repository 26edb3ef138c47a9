# SPDX-License-Identifier: Apache-2.0
"""A client's own memory limit that names a device it does not see: MPS then drops every limit of that client."""

import re
from collections.abc import Iterator
from itertools import takewhile
from typing import Final

from mpsafe.doctor.finding import Finding
from mpsafe.doctor.processes import Process
from mpsafe.doctor.scene import Scene

__all__ = ["client_limits"]

VARIABLE: Final = "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"

_SENSIBLE: Final = re.compile(r"\d+|(GPU|MIG)-[0-9a-f/-]+")


def client_limits(scene: Scene) -> Iterator[Finding]:
    """Each process whose limit is dropped, as NVIDIA documents of MPS v3."""
    limited = [process for process in scene.processes.found if VARIABLE in process.environment and process.libcuda]
    bad = 0
    for process in limited:
        visible = _visible(scene, process)
        if visible is None:
            yield Finding("note", f"process {process.pid}: which devices it sees is not known", pid=process.pid)
            continue
        for device in _named(process.environment[VARIABLE]):
            if not _sees(device, visible):
                bad += 1
                text = (
                    f"process {process.pid} ({process.name}): {VARIABLE} names device {device or '(none)'}, "
                    f"which it does not see ({', '.join(visible) or 'it sees none'}): MPS drops all of its limits"
                )
                way_out = "name devices that CUDA_VISIBLE_DEVICES leaves it, and start it again"
                yield Finding("wrong", text, way_out, process.pid)
    if limited and not bad:
        yield Finding(
            "ok", f"processes that limit their own device memory, all for devices that they see: {len(limited)}"
        )


def _named(value: str) -> list[str]:
    """The devices of "0=1G,1=512MB"."""
    return [limit.partition("=")[0].strip() for limit in value.split(",") if limit.strip()]


def _visible(scene: Scene, process: Process) -> list[str] | None:
    """What the process sees: its variable up to the first that makes no sense (CUDA C Programming Guide), or all."""
    devices = scene.told.devices
    if (chosen := process.environment.get("CUDA_VISIBLE_DEVICES")) is None:
        return [name for device in devices for name in (str(device.index), device.uuid)] if devices else None
    words = list(takewhile(_SENSIBLE.fullmatch, (word.strip() for word in chosen.split(","))))
    ordinals = [str(ordinal) for ordinal in range(len(words))]
    return [*ordinals, *(word for word in words if not word.isdecimal())]


def _sees(device: str, visible: list[str]) -> bool:
    """A UUID may be shortened as long as it is clear."""
    if device.isdecimal():
        return str(int(device)) in visible
    return bool(device) and any(name.startswith(device) or device.startswith(name) for name in visible if "-" in name)
