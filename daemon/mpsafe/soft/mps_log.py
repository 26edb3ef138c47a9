# SPDX-License-Identifier: Apache-2.0
"""control.log and server.log in MPS's own line form.

Control lines and a server's failed start: as measured on 535.309.01 and 550.163.01. A server's other
lines: as measured on 580.159.04 (tools/qualify/results), spelling included.
"""

import contextlib
import os
import sys
import time
from pathlib import Path

__all__ = ["MpsLog", "log_directory", "open_log"]


def log_directory() -> Path:
    """Where the logs are."""
    return Path(os.environ.get("CUDA_MPS_LOG_DIRECTORY", "/var/log/nvidia-mps"))


class MpsLog:
    """Appends lines "[date time Control|Server|Other <pid>] text"; the pid is padded to five columns."""

    def __init__(self, path: Path | None, *, echo: bool = False) -> None:
        """Opens the file; without a path the lines are lost. `echo`: on stdout as well."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(path, flags | os.O_CREAT, 0o644) if path else os.open(os.devnull, flags)
        self._echo = echo

    def write(self, who: str, text: str) -> None:
        """One line."""
        now = time.time()
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
        line = f"[{stamp}.{int(now * 1000) % 1000:03d} {who} {os.getpid():>5}] {text}\n".encode()
        os.write(self._fd, line)
        if self._echo:
            os.write(1, line)


def open_log(path: Path, *, echo: bool) -> MpsLog:
    """The log of that name, its directory made if need be; where that cannot be, a warning and no log."""
    try:
        with contextlib.suppress(FileExistsError):
            path.parent.mkdir(0o700)
        return MpsLog(path, echo=echo)
    except OSError:
        sys.stdout.write(
            f"Warning: Failed writing log files to directory [{path.parent}]. No logs will be available.\n"
        )
        return MpsLog(None, echo=echo)
