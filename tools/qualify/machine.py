# SPDX-License-Identifier: Apache-2.0
"""The machine under test: a real device, or the software GPU in its place."""

import os
import platform
import re
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from mpsafe.errors import SoftwareGpuFailed
from tools.qualify.finding import Host, Json
from tools.qualify.kernel_log import KMSG
from tools.qualify.stage import Broken, NotRun, Stage, Target

__all__ = ["describe", "real_target", "software_target"]

_DRIVER: Final = re.compile(r"\s(\d{3}\.\d+(?:\.\d+)?)\s")


def real_target() -> Target:
    """The machine as it is: the loader's libcuda, /dev/kmsg, the device not chosen yet."""
    return Target(environment=os.environ, uuid="", kernel_log=KMSG, software=False, first_xid_s=2.0, quiet_s=0.7)


@contextmanager
def software_target() -> Generator[Target]:
    """A software host that lives as long as the block. NotRun: it is not built."""
    from mpsafe.soft.host import SoftwareHost

    with tempfile.TemporaryDirectory(prefix="qualify-soft-") as directory:
        try:
            host = SoftwareHost(Path(directory))
        except SoftwareGpuFailed as error:
            raise NotRun(str(error)) from error
        with host:
            yield Target(
                environment=host.environment,
                uuid="",
                kernel_log=host.kernel_log,
                software=True,
                first_xid_s=0.3,
                quiet_s=0.05,
            )


def describe(target: Target, *, uuid: str | None) -> tuple[Target, Host]:
    """Chooses the device, the first one unless told which, and says what it is. NotRun: there is none."""
    with Stage(target, limit_s=60) as stage:
        try:
            reply = stage.start("describer").ask("describe")
        except (Broken, TimeoutError) as error:
            raise NotRun(f"the driver API cannot be used: {error}") from error
    if reply.result:
        raise NotRun(f"no device: {reply.call} returned {reply.result}")
    devices: list[Json] = reply.data["devices"]
    chosen = next((device for device in devices if uuid in (None, device["uuid"])), None)
    if chosen is None:
        raise NotRun(f"no device has the UUID {uuid}; there are: {', '.join(device['uuid'] for device in devices)}")
    software = target.software or "software" in chosen["name"].lower()
    host = Host(
        software=software,
        device=chosen["name"],
        uuid=chosen["uuid"],
        driver="software" if software else _driver_version(),
        cuda=reply.data["cuda"],
        kernel=platform.release(),
        cpus=os.cpu_count() or 0,
        hypervisor=" hypervisor" in Path("/proc/cpuinfo").read_text(),
        python=sys.version.split()[0],
    )
    return replace(target, uuid=chosen["uuid"], software=software), host


def _driver_version() -> str:
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return "unknown"
    match = _DRIVER.search(text)
    return match[1] if match else "unknown"
