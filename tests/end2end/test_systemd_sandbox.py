# SPDX-License-Identifier: Apache-2.0
"""This test will do what mpsafed does inside its unit's sandbox, and again with each capability taken away."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from end2end.systemd_root import NEEDS, REPOSITORY, SystemdRoot
from requires import requires

pytestmark = requires(*NEEDS)

UNIT = "probe.service"
SCRIPT = Path(__file__).with_name("systemd_probe.py")
NEEDED = {
    "kill_another_users_process": ("CAP_KILL", "CAP_SETUID"),
    "read_the_kernel_log": ("CAP_SYSLOG",),
    "write_what_is_anothers": ("CAP_DAC_OVERRIDE",),
    "hear_of_processes": ("CAP_NET_ADMIN",),
    "ask_as_another_user": ("CAP_SETUID", "CAP_SETGID"),
    "make_a_users_directory": ("CAP_CHOWN", "CAP_FOWNER"),
}
# To open /dev/mpsafe, which is not here: tests/vm has the device and the unit.
NEEDED_ELSEWHERE = {"CAP_SYS_ADMIN"}
# Before 6.6 the process connector is for CAP_NET_ADMIN only.
CONNECTOR_FOR_ALL = (6, 6)
FOREIGN = "/run/mpsafe/foreign"


def allowed(host: SystemdRoot, probe: str, argument: str = "", *, without: str = "none") -> bool:
    """Whether the probe succeeds in mpsafed's sandbox."""
    unit = host.run("cat", "/usr/local/lib/systemd/system/mpsafed.service")
    unit = re.sub("^(ExecStart|Type|Restart|WatchdogSec|StateDirectory.*)=.*$", "", unit, flags=re.MULTILINE)
    unit = re.sub(f"{without}\\b", "", unit)
    python = REPOSITORY / ".venv" / "bin" / "python"
    command = f"[Service]\nType=oneshot\nExecStart={python} {SCRIPT} {probe} {argument}\n"
    host.write(Path("/run/systemd/system", UNIT), f"{unit}\n{command}")
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "start", UNIT, status=None)
    return host.show(UNIT, "Result") == "success"


def anybody_may(probe: str) -> str:
    """Why this host's kernel wants no capability for it; empty if it does."""
    if probe == "read_the_kernel_log" and Path("/proc/sys/kernel/dmesg_restrict").read_text() == "0\n":
        return "kernel.dmesg_restrict is 0"
    release = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))
    if probe == "hear_of_processes" and release >= CONNECTOR_FOR_ALL:
        return "this kernel is 6.6 or newer"
    return ""


def argument(host: SystemdRoot, probe: str) -> str:
    if probe == "write_what_is_anothers":
        host.run("sh", "-c", f"echo 0 >{FOREIGN} && chown 65534 {FOREIGN}")
        return FOREIGN
    return ""


@pytest.mark.parametrize("probe", [*NEEDED])
def test_it_may_do_what_it_does(host: SystemdRoot, probe: str) -> None:
    assert allowed(host, probe, argument(host, probe))


@pytest.mark.parametrize(("probe", "capability"), [(probe, cap) for probe, caps in NEEDED.items() for cap in caps])
def test_it_may_not_without_that_capability(host: SystemdRoot, probe: str, capability: str) -> None:
    if why := anybody_may(probe):
        pytest.skip(f"anybody may: {why}")
    assert not allowed(host, probe, argument(host, probe), without=capability)


def test_no_capability_is_there_for_nothing() -> None:
    unit = (REPOSITORY / "systemd" / "mpsafed.service").read_text()
    assert set(re.findall(r"CAP_\w+", unit)) == NEEDED_ELSEWHERE.union(*NEEDED.values())


def test_it_may_start_units(host: SystemdRoot) -> None:
    assert allowed(host, "start_a_unit", "mpsafed.socket")


def test_a_cgroup_can_be_frozen(host: SystemdRoot) -> None:
    host.run("systemd-run", "--unit=frozen", "sleep", "infinity")
    frozen = f"/sys/fs/cgroup{host.show('frozen.service', 'ControlGroup')}"
    assert allowed(host, "write_what_is_anothers", f"{frozen}/cgroup.freeze")
    assert "frozen 1" in host.run("cat", f"{frozen}/cgroup.events")
    host.run("sh", "-c", f"echo 0 >{frozen}/cgroup.freeze")
    host.run("systemctl", "stop", "frozen.service")


def test_it_may_write_nowhere_else(host: SystemdRoot) -> None:
    assert not allowed(host, "write_where_it_may_not")


@pytest.fixture(autouse=True, scope="module")
def cleared(host: SystemdRoot) -> Iterator[None]:
    yield
    host.run("systemctl", "reset-failed")
    host.run("rm", f"/run/systemd/system/{UNIT}", FOREIGN)
    host.run("systemctl", "daemon-reload")
