# SPDX-License-Identifier: Apache-2.0
"""A real systemd over this machine's root: what it writes is gone afterwards, what it starts cannot leave."""

import json
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = ["KERNEL_LOG", "MPSAFE", "NEEDS", "REPOSITORY", "SystemdRoot", "booted", "daemon", "end"]

NEEDS = ("root", "systemd", "namespaces", "soft", "make", "nsenter")
KERNEL_LOG = "/run/kernel-log"
MPSAFE = "/usr/local/bin/mpsafe"
REPOSITORY = Path(__file__).parent.parent.parent
_BOOT_LIMIT_S = 60
_COMMAND_LIMIT_S = 120
_NAMESPACES = "--mount --pid --uts --ipc --cgroup --root --wd=/".split()


@dataclass(frozen=True, slots=True)
class SystemdRoot:
    """A booted system; `pid` is its process 1 as this machine counts."""

    pid: int

    def run(self, *command: str | Path, status: int | None = 0) -> str:
        """Run a command inside as root and return what it prints; None takes any exit status."""
        run = subprocess.run(
            [*self._inside, *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=_COMMAND_LIMIT_S,
            env=_ENVIRONMENT,
        )
        assert status is None or run.returncode == status, f"{command}: {run.returncode}\n{run.stdout}{run.stderr}"
        return run.stdout

    def first_line(self, *command: str | Path) -> str:
        """Run a command that goes on, wait for its first line, and end it."""
        with subprocess.Popen(
            [*self._inside, *command], stdout=subprocess.PIPE, text=True, env=_ENVIRONMENT
        ) as process:
            assert process.stdout is not None
            try:
                return process.stdout.readline()
            finally:
                process.terminate()

    def process(self, *command: str | Path) -> "subprocess.Popen[str]":
        """Start a command inside that is spoken with in lines."""
        return subprocess.Popen(
            [*self._inside, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=_ENVIRONMENT,
        )

    @property
    def _inside(self) -> list[str]:
        return ["nsenter", f"--target={self.pid}", *_NAMESPACES]

    def write(self, path: Path, text: str) -> None:
        """Write a file inside."""
        self.run("sh", "-c", 'printf %s "$1" >"$2"', "sh", text, path)

    def show(self, unit: str, property_name: str) -> str:
        """One property of a unit, as systemd has it now."""
        return self.run("systemctl", "show", "--value", f"--property={property_name}", unit).strip()


_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


def _await_ready(notices: socket.socket) -> None:
    while b"READY=1" not in notices.recv(4096).split(b"\n"):
        pass


@contextmanager
def booted(folder: Path) -> Generator[SystemdRoot, None, None]:
    """Boot, wait for systemd's own word that it is up, and at the end let systemd stop everything."""
    address = f"mpsafe-test-{uuid.uuid4()}"
    log = folder / "console.log"
    (folder / "mounts").mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices, log.open("wb") as console:
        notices.bind(f"\0{address}")
        notices.settimeout(_BOOT_LIMIT_S)
        boot = subprocess.Popen(
            [Path(__file__).parent / "boot-systemd", folder / "mounts", REPOSITORY, Path(sys.base_prefix)],
            env={**os.environ, "NOTIFY_SOCKET": f"@{address}"},
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
        )
        try:
            try:
                _await_ready(notices)
            except TimeoutError:
                raise AssertionError(f"systemd did not come up:\n{log.read_text()}") from None
            children = psutil.Process(boot.pid).children(recursive=True)
            host = SystemdRoot(next(child.pid for child in children if child.name() == "systemd"))
            yield host
            host.run("systemctl", "exit", "0")
            assert boot.wait(_BOOT_LIMIT_S) == 0, log.read_text()
        finally:
            boot.terminate()
            boot.wait(_BOOT_LIMIT_S)


def daemon(host: SystemdRoot) -> int:
    """The pid of the daemon that answers, as systemd inside counts: the call waits until there is one."""
    return int(json.loads(host.run(MPSAFE, "status", "--json"))["host"]["pid"])


def end(host: SystemdRoot, pid: int, how: signal.Signals) -> None:
    """Send the daemon a signal and wait until that process is gone."""
    host.run("systemctl", "kill", f"--signal={how.name}", "--kill-whom=main", "mpsafed.service")
    host.run("tail", f"--pid={pid}", "--follow", "/dev/null")
