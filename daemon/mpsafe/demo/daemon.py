# SPDX-License-Identifier: Apache-2.0
"""mpsafed on a host of the demo: a process of its own, which can be killed and started again."""

import grp
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from mpsafe.client import Client
from mpsafe.demo.hosts import Host
from mpsafe.errors import DaemonUnreachable, DemoCannotRun

__all__ = ["Daemon"]

READY_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.02


class Daemon:
    """Runs with its `with`. Whoever started it has the role admin. DemoCannotRun where it does not answer."""

    def __init__(self, host: Host, directory: Path, tenants: Sequence[str]) -> None:
        self.socket = os.fspath(directory / "mpsafed.sock")
        self._environment = host.environment
        self._config = directory / "mpsafe.toml"
        self._log = directory / "mpsafed.log"
        self._process: subprocess.Popen[bytes] | None = None
        kind, driver = host.driver_table
        admins = "mpsafe-admin" if os.geteuid() == 0 else grp.getgrgid(os.getegid()).gr_name
        told = "".join(f'[[tenant]]\nname = "{name}"\n' for name in tenants)
        self._config.write_text(
            f'[daemon]\nsocket = "{self.socket}"\nstate_directory = "{directory / "state"}"\n'
            f'admin_group = "{admins}"\n'
            f'[sources]\nkernel_log = "{host.kernel_log}"\n'
            f'[driver]\nkind = "{kind}"\npath = "{driver}"\n'
            f'[mps]\nmode = "adopt"\ncontrol = "{host.control_program}"\n'
            f'pipe_directory = "{host.pipe_directory}"\nlog_directory = "{host.log_directory}"\n'
            f'[vault]\nkeeper = "{directory / "keeper"}"\n{told}'
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        command: list[str | Path] = [sys.executable, "-m", "mpsafed.main", "--config", self._config]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            self._until_it_answers(self._process)
        except DemoCannotRun:
            self.kill()
            raise

    def kill(self) -> None:
        """SIGKILL, and waits for the end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _until_it_answers(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            try:
                with Client(self.socket) as client:
                    client.describe()
                return
            except DaemonUnreachable:
                time.sleep(POLL_SECONDS)
        raise DemoCannotRun(f"mpsafed did not answer on {self.socket}; status {process.poll()}")
