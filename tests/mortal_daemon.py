# SPDX-License-Identifier: Apache-2.0
"""A daemon that dies by SIGKILL at one exact entry of its stream: see end2end/die_at_entry.c."""

import os
import subprocess
from pathlib import Path

from daemon_process import Mpsafed
from mpsafe.errors import DaemonUnreachable
from mpsafe.soft.host import SoftwareHost
from requires import tool

__all__ = ["Mortal"]


class Mortal(Mpsafed):
    """A daemon that ends by SIGKILL at the entry that `arm` names. Wants a C compiler."""

    def __init__(self, host: SoftwareHost) -> None:
        library, self._order = host.directory / "die.so", host.directory / "die_at"
        source = Path(__file__).with_name("end2end") / "die_at_entry.c"
        subprocess.run([tool("cc"), "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, source], check=True)
        self._order.write_text("")
        self._line = host.directory / "die_at_line"
        preload = {"LD_PRELOAD": os.fspath(library), "DIE_AT_ENTRY": os.fspath(self._order)}
        preload["DIE_AT_LINE"] = os.fspath(self._line)
        super().__init__(host, environment=preload)

    def arm(self, seq: int, how: str) -> None:
        """It dies at this entry: "after" it was written, or when it is half written ("torn")."""
        self._order.write_text(f"{seq} {how}")

    def arm_line(self, number: int, how: str) -> None:
        """It dies at that many lines of the vault's index from now on, counted from its start."""
        self._line.write_text(f"{number} {how}")

    def disarm(self) -> None:
        """It does not die any more."""
        self._order.write_text("")
        self._line.unlink(missing_ok=True)

    def last_seq(self) -> int:
        """The `seq` of the newest entry of the state file."""
        return max((entry.seq for entry in self.written()), default=0)

    def dies(self, *, since: int) -> bool:
        """Waits until it has died, or a fault behind `since` is closed."""
        try:
            self.fault_closed(since=since)
        except DaemonUnreachable:
            assert self.process.wait(60) == -9
            return True
        return False
