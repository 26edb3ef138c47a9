# SPDX-License-Identifier: Apache-2.0
"""This test will kill the daemon under a real systemd, and look for a window in which a fault is not absorbed."""

import contextlib
import json
import signal
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from end2end.systemd_root import MPSAFE, NEEDS, REPOSITORY, SystemdRoot, daemon, end
from requires import requires

pytestmark = requires(*NEEDS)

GPU = "/run/software-gpu"
GATE = "/run/gate"
UNIT = "mpsafed.service"
CONFIG = f"""
[driver]
kind = "software"
path = "{GPU}/mpsafe"
[mps]
control = "{GPU}/bin/nvidia-cuda-mps-control"
mode = "adopt"
pipe_directory = "{GPU}/mps"
log_directory = "{GPU}/log"
"""
SETTINGS = Path("/etc/mpsafe/mpsafe.toml.d/software-gpu.toml")
DROP_IN = Path(f"/run/systemd/system/{UNIT}.d/gate.conf")


class Guest:
    """The software host and its tenant."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.pid = int(self._line())

    def do(self, command: str) -> str:
        """The answer to one command of systemd_guest.py."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        return self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@contextlib.contextmanager
def guest(host: SystemdRoot) -> Generator[Guest]:
    """With a fresh software kernel."""
    python, here = REPOSITORY / ".venv" / "bin" / "python", REPOSITORY / "tests"
    paths = f"PYTHONPATH={here}:{REPOSITORY / 'daemon'}"
    with host.process("env", paths, python, here / "end2end" / "systemd_guest.py", GPU) as process:
        try:
            yield Guest(process)
        finally:
            process.communicate()


@pytest.fixture(scope="module")
def prepared(host: SystemdRoot) -> Iterator[SystemdRoot]:
    """The host, where each start of the daemon waits until somebody opens a gate."""
    host.write(SETTINGS, CONFIG)
    host.run("mkdir", "-p", DROP_IN.parent)
    host.write(DROP_IN, f"[Service]\nExecStartPre=/bin/sh -c 'read open <{GATE}'\nTimeoutStartSec=infinity\n")
    host.run("mkfifo", GATE)
    host.run("systemctl", "daemon-reload")
    yield host
    host.run("rm", "-r", SETTINGS, DROP_IN.parent, GATE, GPU)
    host.run("systemctl", "daemon-reload")


@pytest.fixture
def gated(prepared: SystemdRoot) -> Iterator[SystemdRoot]:
    """With no daemon, before and after."""
    prepared.run("systemctl", "stop", UNIT)
    yield prepared
    prepared.run("systemctl", "stop", UNIT)


def open_gate(host: SystemdRoot) -> None:
    """One start goes on; waits until the driver has its policy."""
    host.run("systemctl", "start", "--no-block", UNIT)
    host.run("timeout", "60", "sh", "-c", f"echo >{GATE}")
    while not any(s["name"] == "driver" and s["alive"] for s in status(host)["sources"]):
        pass


def status(host: SystemdRoot) -> dict[str, list[dict[str, object]]]:
    found: dict[str, list[dict[str, object]]] = json.loads(host.run(MPSAFE, "status", "--json"))["host"]
    return found


def stored(host: SystemdRoot) -> int:
    return int(host.show(UNIT, "NFileDescriptorStore"))


def fence_of(host: SystemdRoot, pid: int) -> dict[str, object]:
    """The entry that closes the fault of this process."""
    with host.process(MPSAFE, "events", "--json", "--follow") as watching:
        assert watching.stdout is not None
        for line in watching.stdout:
            event: dict[str, object] = json.loads(line)["event"]
            if event["phase"] == "closed" and f"({pid})" in str(event["summary"]):
                watching.terminate()
                return event
    raise AssertionError("the stream has ended")


def test_a_fault_while_no_daemon_runs_is_absorbed_and_acted_upon(gated: SystemdRoot) -> None:
    with guest(gated) as tenant:
        open_gate(gated)
        assert stored(gated) == 1
        end(gated, daemon(gated), signal.SIGKILL)
        assert tenant.do("wild_read") == "ok", "stock behaviour would have lost it"
        assert gated.show(UNIT, "SubState") == "start-pre", "no daemon runs yet"
        open_gate(gated)
        event = fence_of(gated, tenant.pid)
        assert tenant.do("wait") == str(-signal.SIGKILL)
        assert stored(gated) == 1
    assert event["kind"] == "fault"


def test_an_upgrade_leaves_no_window_either(gated: SystemdRoot) -> None:
    with guest(gated) as tenant:
        open_gate(gated)
        gated.run("systemctl", "restart", "--no-block", UNIT)
        while gated.show(UNIT, "SubState") != "start-pre":
            pass
        assert tenant.do("wild_read") == "ok"
        open_gate(gated)
        assert fence_of(gated, tenant.pid)["kind"] == "fault"


def test_a_device_whose_kernel_is_gone_is_opened_anew(gated: SystemdRoot) -> None:
    """What rests in the store leads nowhere."""
    with guest(gated):
        open_gate(gated)
        end(gated, daemon(gated), signal.SIGKILL)
    assert stored(gated) == 1
    with guest(gated) as tenant:
        open_gate(gated)
        assert stored(gated) == 1
        assert tenant.do("wild_read") == "ok"
        assert fence_of(gated, tenant.pid)["kind"] == "fault"


def test_a_stop_closes_the_device(gated: SystemdRoot) -> None:
    with guest(gated) as tenant:
        open_gate(gated)
        gated.run("systemctl", "stop", UNIT)
        assert stored(gated) == 0
        assert tenant.do("free") == "ok"
        assert tenant.do("wild_read") != "ok", "this is stock behaviour again"
