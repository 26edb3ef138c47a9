# SPDX-License-Identifier: Apache-2.0
"""Where the demo runs: the software GPU, or a host with a real one."""

import contextlib
import ctypes.util
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

import psutil

from mpsafe.errors import DemoCannotRun
from mpsafe.soft.host import SoftwareHost

__all__ = ["GpuHost", "Host", "SoftwareGpu"]

CONTROL: Final = "nvidia-cuda-mps-control"
PIPES: Final = "CUDA_MPS_PIPE_DIRECTORY"
QUIT_SECONDS: Final = 10.0


class Host(Protocol):
    """What a run needs of a host. `driver` is (kind, path) as the daemon's configuration has it."""

    environment: Mapping[str, str]
    control_program: Path
    pipe_directory: Path
    log_directory: Path
    kernel_log: Path
    driver_table: tuple[str, Path]

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def start_mps(self) -> int: ...


class SoftwareGpu(SoftwareHost):
    """The software GPU, its kernel and its MPS."""

    def __init__(self, directory: Path, *, inject: bool = False) -> None:
        super().__init__(directory, inject=inject)
        self.driver_table: tuple[str, Path] = ("software", self.driver)


class GpuHost:
    """A real device and the real MPS programs, with a control daemon of our own beside any other.

    Changes no setting of the device. Raises DemoCannotRun with everything that is missing.
    """

    def __init__(self, directory: Path) -> None:
        program = shutil.which(CONTROL)
        missing = [
            what
            for what, there in (
                ("root", os.geteuid() == 0),
                ("/dev/nvidia0", Path("/dev/nvidia0").exists()),
                ("libcuda.so.1", ctypes.util.find_library("cuda") is not None),
                (CONTROL, program is not None),
            )
            if not there
        ]
        if program is None or missing:
            raise DemoCannotRun(f"a run on a GPU wants {', '.join(missing)}")
        self.control_program = Path(program)
        self.pipe_directory = directory / "mps"
        self.log_directory = directory / "log"
        self.kernel_log = Path("/dev/kmsg")
        self.driver_table: tuple[str, Path] = (
            "uvm" if Path("/dev/mpsafe").exists() else "none",
            Path("/dev/mpsafe"),
        )
        for made in (self.pipe_directory, self.log_directory):
            made.mkdir(mode=0o700, parents=True, exist_ok=True)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CUDA_MPS")}
        self.environment: Mapping[str, str] = inherited | {
            "CUDA_MPS_LOG_DIRECTORY": os.fspath(self.log_directory),
            PIPES: os.fspath(self.pipe_directory),
        }
        self._started = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Not a bare `quit`: after a fault with clients that came again it did not come back (580.159.04)."""
        if not self._started:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            command = [self.control_program]
            subprocess.run(command, input=b"quit -t 2\n", env=self.environment, timeout=QUIT_SECONDS, check=False)
        _, left = psutil.wait_procs(self._programs(), timeout=QUIT_SECONDS)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def start_mps(self) -> int:
        """Starts the control daemon in directories of its own."""
        done = subprocess.run(
            [self.control_program, "-d"], env=self.environment, capture_output=True, text=True, check=False
        )
        pid_file = self.pipe_directory / f"{CONTROL}.pid"
        if done.returncode or not pid_file.exists():
            raise DemoCannotRun(f"{CONTROL} -d: {done.stdout.strip() or done.stderr.strip() or 'no pid file'}")
        self._started = True
        return int(pid_file.read_text())

    def _programs(self) -> list[psutil.Process]:
        """The control daemon and its servers, known by the pipe directory that they were started with."""
        ours = os.fspath(self.pipe_directory)
        found: list[psutil.Process] = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.name().startswith("nvidia-cuda-mps") and process.environ().get(PIPES) == ours:
                    found.append(process)
        return found
