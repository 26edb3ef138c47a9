# SPDX-License-Identifier: Apache-2.0
"""A software GPU host in one directory: kernel, MPS programs, libraries, and the environment to use them.

    with SoftwareHost(directory) as host:
        host.start_mps()
        subprocess.run([...], env=host.environment)

The processes run in sessions of their own, as they would on a host, and end with the `with`; if this
process is killed instead they notice (lifeline.py).
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from mpsafe.errors import SoftwareGpuFailed
from mpsafe.soft.lifeline import Lifeline
from mpsafe.soft.sockets import connect, credentials

__all__ = ["LIBRARIES", "SoftwareHost"]

LIBRARIES: Final = Path(__file__).parent / "lib"
PACKAGES: Final = Path(__file__).parents[2]
PATIENCE_S: Final = 5.0

# -S: nothing of the software GPU is in site-packages, and it starts in half the time.
_PYTHON: Final = (sys.executable, "-S", "-m")


class SoftwareHost:
    """Starts the software kernel in `directory`, which it creates; `start_mps` starts MPS control.

    `devices` and `memory_bytes` (a device) describe the software machine; host memory is taken only
    as it is written. `heartbeat_ms` and `records` are those of the software /dev/mpsafe: the dead
    man's limit and how many records it keeps; `inject` lets its owner inject faults. Raises
    SoftwareGpuFailed where the libraries are not built or the kernel does not come up.
    """

    def __init__(
        self,
        directory: Path,
        *,
        devices: int = 1,
        memory_bytes: int = 16 << 30,
        heartbeat_ms: int = 5000,
        records: int = 4096,
        inject: bool = False,
    ) -> None:
        if not (LIBRARIES / "libcuda.so.1").exists():
            raise SoftwareGpuFailed(f"{LIBRARIES / 'libcuda.so.1'} is not there")
        self.directory = directory
        self.pipe_directory = directory / "mps"
        self.log_directory = directory / "log"
        self.kernel_log = directory / "kmsg"
        self.driver = directory / "mpsafe"
        programs = directory / "bin"
        programs.mkdir(parents=True, exist_ok=True)
        self.control_program = programs / "nvidia-cuda-mps-control"
        python = " ".join(f'"{word}"' for word in _PYTHON)
        # It finds its own package: whoever starts it, as a unit does, has no environment of ours.
        script = f'#!/bin/sh\nPYTHONPATH="{PACKAGES}" exec {python} mpsafe.soft.control "$@"\n'
        self.control_program.write_text(script)
        self.control_program.chmod(0o755)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CUDA_")}
        self.environment: Mapping[str, str] = inherited | {
            "CUDA_MPS_LOG_DIRECTORY": os.fspath(self.log_directory),
            "CUDA_MPS_PIPE_DIRECTORY": os.fspath(self.pipe_directory),
            "LD_LIBRARY_PATH": os.fspath(LIBRARIES),
            "MPSAFE_SOFT_DIR": os.fspath(directory),
            "PATH": f"{programs}:{os.environ.get('PATH', os.defpath)}",
            "PYTHONPATH": os.fspath(PACKAGES),
        }
        options = {"--devices": devices, "--memory": memory_bytes, "--heartbeat-ms": heartbeat_ms, "--records": records}
        self._lifeline = Lifeline(directory)
        self._kernel = subprocess.Popen(
            [
                *_PYTHON,
                "mpsafe.soft.kernel",
                "--dir",
                directory,
                *(str(w) for option in options.items() for w in option),
                *(["--inject"] if inject else []),
            ],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._kernel.stdout is not None
        with self._kernel.stdout as said:
            if not said.readline():
                self._lifeline.close()
                raise SoftwareGpuFailed(f"the software kernel ended with status {self._kernel.wait()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def kernel_pid(self) -> int:
        """The software kernel's process."""
        return self._kernel.pid

    def start_mps(self) -> int:
        """Starts the stand-in's control daemon and returns its pid. Directories only their owner can enter."""
        for directory in (self.pipe_directory, self.log_directory):
            directory.mkdir(mode=0o700, exist_ok=True)
        done = subprocess.run(
            [self.control_program, "-d"], env=self.environment, capture_output=True, text=True, check=False
        )
        pid = self.mps_pid()
        if done.returncode or pid is None:
            raise SoftwareGpuFailed(f"nvidia-cuda-mps-control -d: {done.stdout.strip() or done.stderr.strip()}")
        return pid

    def mps_pid(self) -> int | None:
        """The control daemon that serves the pipe directory now, whoever started it."""
        try:
            with connect(self.pipe_directory / "control") as sock:
                return credentials(sock).pid
        except OSError:
            return None

    def stop_mps(self) -> None:
        """Ends the control daemon and its servers, whoever uses them."""
        pid = self.mps_pid()
        with contextlib.suppress(ProcessLookupError):
            if pid is not None:
                with _pidfd(pid) as daemon:
                    signal.pidfd_send_signal(daemon, signal.SIGCONT)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        self.control("quit -t 0", timeout_s=PATIENCE_S)
                    if not select.select([daemon], [], [], PATIENCE_S)[0]:
                        signal.pidfd_send_signal(daemon, signal.SIGKILL)

    def reset(self, device: int = 0) -> None:
        """Resets a device that nobody uses, as `nvidia-smi --gpu-reset` would: all memory on it is gone."""
        with connect(self.directory / "rm") as sock:
            for request in ("hello nvml", f"reset {device}"):
                sock.send(request.encode())
                reply = sock.recv(4096).decode()
                if not reply.startswith("ok"):
                    raise SoftwareGpuFailed(f"the device cannot be reset: {request!r} was answered {reply!r}")

    def control(self, command: str, *, timeout_s: float = 10.0) -> str:
        """What the front end prints to one command of the v2 language."""
        done = subprocess.run(
            [self.control_program],
            input=command + "\n",
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        return done.stdout

    def close(self) -> None:
        """Ends MPS and the software kernel. The directory stays."""
        try:
            self.stop_mps()
        finally:
            self._kernel.terminate()
            try:
                self._kernel.wait(timeout=PATIENCE_S)
            finally:
                self._kernel.kill()
                self._kernel.wait()
                self._lifeline.close()


@contextlib.contextmanager
def _pidfd(pid: int) -> Generator[int]:
    fd = os.pidfd_open(pid)
    try:
        yield fd
    finally:
        os.close(fd)
