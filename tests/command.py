# SPDX-License-Identifier: Apache-2.0
"""The command `mpsafe` as a process of a test: in a pipe, or at a terminal that a test reads and types at."""

import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from fcntl import ioctl
from types import TracebackType
from typing import Any, Final, Self

import msgspec

__all__ = ["COMMAND", "Terminal", "mpsafe", "printed"]

COMMAND: Final = [sys.executable, "-W", "error", "-c", "import sys; from mpsafe.cli import main; sys.exit(main())"]
PATIENCE_S: Final = 60.0
_ESCAPE: Final = re.compile(r"\x1b(\[[0-9;?]*[a-zA-Z]|[()][A-Z0-9]|[=>])")


def mpsafe(*arguments: object, status: int = 0) -> str:
    """What it prints; its exit status is to be `status`, and then what it says on standard error is added."""
    run = subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert run.returncode == status, run.stdout + run.stderr
    return run.stdout if status == 0 else run.stdout + run.stderr


def printed(*arguments: object) -> dict[str, Any]:
    """The one object that it prints."""
    return msgspec.json.decode(mpsafe(*arguments, "--json"), type=dict[str, Any])


class Terminal:
    """It at a terminal of that many columns and 40 lines."""

    def __init__(self, *arguments: object, columns: int = 100) -> None:
        self._leader, self._follower = pty.openpty()
        ioctl(self._follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self.modes: list[Any] = termios.tcgetattr(self._follower)
        self._shown = ""
        environment = {**os.environ, "TERM": "xterm-256color"}
        for name in ("NO_COLOR", "COLUMNS", "LINES"):
            environment.pop(name, None)
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            stdin=self._follower,
            stdout=self._follower,
            stderr=self._follower,
            env=environment,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)
        os.close(self._leader)
        os.close(self._follower)

    def until(self, wanted: str) -> str:
        """Reads until `wanted`, a pattern, is in what was shown since the last call; colours and moves left out."""
        while (found := re.search(wanted, _ESCAPE.sub("", self._shown))) is None:
            assert select.select([self._leader], [], [], PATIENCE_S)[0], f"no {wanted!r} in {self._shown!r}"
            self._shown += os.read(self._leader, 1 << 16).decode(errors="replace")
        self._shown = ""
        return found[0]

    def type(self, keys: str) -> None:
        """As from the keyboard."""
        os.write(self._leader, keys.encode())

    def interrupt(self) -> None:
        """What Ctrl-C sends."""
        self.process.send_signal(signal.SIGINT)

    def ended(self) -> int:
        """Its exit status, once it has ended; the terminal is to be as it was."""
        end = os.pidfd_open(self.process.pid)
        try:
            while end not in (ready := select.select([self._leader, end], [], [], PATIENCE_S)[0]):
                assert ready, f"it does not end: {self._shown!r}"
                self._shown += os.read(self._leader, 1 << 16).decode(errors="replace")
        finally:
            os.close(end)
        status = self.process.wait()
        assert termios.tcgetattr(self._follower) == self.modes
        return status
