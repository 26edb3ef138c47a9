# SPDX-License-Identifier: Apache-2.0
"""Keeps one program running, with or without mpsafe: what ends is started again after a pause."""

import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Self

__all__ = ["PAUSE_SECONDS", "Supervisor"]

PAUSE_SECONDS: Final = 0.1


class Supervisor:
    """`ended` is called with the exit status of each process that ends by itself. Ends with its `with`."""

    def __init__(
        self, arguments: Sequence[str], environment: Mapping[str, str], log: Path, ended: Callable[[int], None]
    ) -> None:
        self._command = [sys.executable, "-m", *arguments]
        self._environment = environment
        self._log = log
        self._ended = ended
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self.pids: list[int] = []
        self._thread = threading.Thread(target=self._keep_running, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        with self._lock:
            if self._process is not None:
                self._process.kill()
        self._thread.join()

    def _keep_running(self) -> None:
        with self._log.open("ab") as log:
            while not self._stopping.is_set():
                with self._lock:
                    self._process = subprocess.Popen(
                        self._command, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                    )
                self.pids.append(self._process.pid)
                if self._stopping.is_set():
                    self._process.kill()
                status = self._process.wait()
                if not self._stopping.is_set():
                    self._ended(status)
                    self._stopping.wait(PAUSE_SECONDS)
