# SPDX-License-Identifier: Apache-2.0
"""This test will kill a virtual machine, or who started it, at any moment, and look for what it left on this host."""

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from requires import requires
from tools.vm import REPOSITORY, VM, distribution_kernel
from tools.vm.image import root_image
from tools.vm.kernel import initramfs
from vm.rig import NEEDS, eventually, or_skip

pytestmark = requires(*NEEDS)

MARK = "MPSAFE_VM_TEST"
BOOT_S = 12.0


@pytest.fixture(scope="module", autouse=True)
def made() -> None:
    """What is kept is no leftover."""
    with or_skip():
        root_image()
        initramfs(distribution_kernel())


def marked(mark: str) -> list[psutil.Process]:
    """The processes that have inherited this mark."""

    def has_it(process: psutil.Process) -> bool:
        try:
            return process.environ().get(MARK) == mark
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False

    return [process for process in psutil.process_iter() if has_it(process)]


def host() -> dict[str, set[str]]:
    """What a virtual machine could leave behind."""
    return {
        "files": set(os.listdir(VM)) | set(os.listdir("/var/tmp")) | set(os.listdir("/dev/shm")),
        "mounts": {line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()},
        "loops": {path.name for path in Path("/sys/block").glob("loop*/backing_file")},
    }


def victims(mark: str) -> Iterator[psutil.Process]:
    yield from (process for process in marked(mark) if process.name().startswith(("python", "qemu", "timeout")))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("rounds", [3, pytest.param(30, marks=requires("minutes"))])
def test_nothing_is_left_of_a_machine_that_was_killed(rounds: int, tmp_path: Path) -> None:
    before = host()
    for number in range(rounds):
        mark, moment = str(uuid.uuid4()), random.uniform(0, BOOT_S / 3 * (number % 3 + 1))
        environment = {**os.environ, MARK: mark, "TMPDIR": os.fspath(tmp_path)}
        command = [sys.executable, "-m", "tools.vm", "boot", "--init", "agent", "sleep 600"]
        with subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as started:
            time.sleep(moment)
            victim = random.choice(list(victims(mark)))
            told = f"round {number}: {victim.name()} after {moment:.2f} s"
            victim.send_signal(signal.SIGKILL)
            started.wait()
        eventually(lambda mark=mark: marked(mark) == [], f"all processes end; {told}")
        assert host() == before, told
        assert os.listdir(tmp_path) == [], told
