# SPDX-License-Identifier: Apache-2.0
"""A pipe directory and what the control daemon keeps in it, as measured on 550.163.01.

control             socket, 0666: for everybody
control_privileged  socket, 0755: only its owner may connect
control_lock        locked by the daemon that serves here
log                 FIFO, 0777: for show, as our servers inherit their log
nvidia-cuda-mps-control.pid

A daemon that quits takes the FIFO and the pid file away; one that is killed leaves everything.
"""

import contextlib
import fcntl
import os
from collections.abc import Generator
from pathlib import Path
from typing import Final

__all__ = ["files", "lock", "pipe_directory"]

PID_FILE: Final = "nvidia-cuda-mps-control.pid"


def pipe_directory() -> Path:
    """Where the control daemon listens."""
    return Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"))


def lock(directory: Path) -> int:
    """Makes the directory if need be, and takes its lock. BlockingIOError if another daemon has it."""
    with contextlib.suppress(FileExistsError):
        directory.mkdir(0o777)
    fd = os.open(directory / "control_lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return fd


@contextlib.contextmanager
def files(directory: Path) -> Generator[None]:
    """FIFO and pid file while the daemon serves, in the place of what a killed one has left."""
    pipe, pid_file = directory / "log", directory / PID_FILE
    for stale in (pipe, *directory.glob("server-*")):
        stale.unlink(missing_ok=True)
    os.mkfifo(pipe, 0o777)
    pid_file.write_text(str(os.getpid()))
    yield
    pipe.unlink(missing_ok=True)
    pid_file.unlink(missing_ok=True)
