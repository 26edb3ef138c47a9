# SPDX-License-Identifier: Apache-2.0
"""An MPS of our own: private directories, started and quit by us, whoever else runs one here."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tools.qualify.finding import Json
from tools.qualify.stage import Broken, NotRun, Stage

__all__ = ["CONTROL", "SERVER", "PrivateMps", "find_program"]

CONTROL: Final = "nvidia-cuda-mps-control"
SERVER: Final = "nvidia-cuda-mps-server"
_COMMAND_S: Final = 15.0
_POLL_S: Final = 0.05
_QUIT_S: Final = 5.0
_LOG_MAX_BYTES: Final = 200_000


def find_program(name: str, environment: Mapping[str, str]) -> str | None:
    """Where the program is, by the PATH of that environment."""
    return shutil.which(name, path=environment.get("PATH", os.defpath))


class PrivateMps:
    """One control daemon of ours; the stage quits it after its actors. NotRun: no MPS here."""

    def __init__(self, stage: Stage, *, name: str = "mps") -> None:
        found = find_program(CONTROL, stage.environment)
        if found is None:
            raise NotRun(f"no {CONTROL} in PATH")
        self.program = found
        self._stage = stage
        self._pipes = stage.directory / name
        self._logs = stage.directory / f"{name}-log"
        for directory in (self._pipes, self._logs):
            directory.mkdir(mode=0o700)
        self.environment: Mapping[str, str] = dict(stage.environment) | {
            "CUDA_MPS_PIPE_DIRECTORY": os.fspath(self._pipes),
            "CUDA_MPS_LOG_DIRECTORY": os.fspath(self._logs),
        }
        # Not in the foreground: there it writes its log, and its servers' logs, to stdout.
        started = subprocess.run(
            [self.program, "-d"], env=self.environment, capture_output=True, text=True, timeout=_COMMAND_S, check=False
        )
        stage.keep(contextlib.closing(self))
        if started.returncode:
            raise Broken(f"{CONTROL} -d ended with status {started.returncode}: {started.stdout or started.stderr}")
        while not self._serves():
            time.sleep(stage.bounded_s(_POLL_S))

    def close(self) -> None:
        """Quits it; kills the daemon and its servers, known by our pipe directory, where that fails."""
        with contextlib.suppress(TimeoutError, Broken):
            self.control("quit -t 2", limit_s=5)
        ends = time.monotonic() + _QUIT_S
        while self._ours() and time.monotonic() < ends:
            time.sleep(_POLL_S)
        for pid in self._ours():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def control(self, command: str, *, limit_s: float = _COMMAND_S) -> str:
        """What the front end prints to one command. TimeoutError: it did not come back."""
        return self.finish(self.begin(command), limit_s=limit_s)

    def begin(self, command: str) -> subprocess.Popen[str]:
        """A front end with the command sent, for `finish`."""
        front_end = subprocess.Popen(
            [self.program],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert front_end.stdin is not None
        front_end.stdin.write(command + "\n")
        front_end.stdin.close()
        front_end.stdin = None
        return front_end

    def finish(self, front_end: subprocess.Popen[str], *, limit_s: float, kill: bool = True) -> str:
        """What it prints until it ends. TimeoutError: it does not; then it is killed, or left to be asked again."""
        try:
            return front_end.communicate(timeout=limit_s)[0].strip()
        except subprocess.TimeoutExpired:
            if kill:
                front_end.kill()
                front_end.communicate()
            raise TimeoutError(f"{CONTROL} did not answer within {limit_s:g} s") from None

    def server(self) -> int:
        """The pid of the one server. Broken: there is none."""
        while not (pids := self.control("get_server_list").split()):
            time.sleep(self._stage.bounded_s(_POLL_S))
        return int(pids[0])

    def state(self, server: int) -> str:
        """ACTIVE, FAULT, ... or whatever the program says of a server."""
        return self.control(f"get_server_status {server}")

    def logs(self) -> Json:
        """The texts of its log files, the end of long ones."""
        texts: Json = {}
        for path in sorted(self._logs.glob("*.log")):
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - _LOG_MAX_BYTES))
                texts[path.name] = file.read().decode("utf-8", "replace").splitlines()
        return texts

    def _serves(self) -> bool:
        reply = self.control("get_default_active_thread_percentage")
        return reply.replace(".", "", 1).isdecimal()

    def _ours(self) -> list[int]:
        """Processes with our pipe directory in their environment: the daemon and its servers."""
        mark = f"CUDA_MPS_PIPE_DIRECTORY={self._pipes}".encode()
        found: list[int] = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    found.append(int(process.name))
        return found
