# SPDX-License-Identifier: Apache-2.0
"""The daemon and the tenants of the tests, as soaks use them."""

import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from daemon_process import TENANTS, Mpsafed
from mpsafe.errors import DaemonUnreachable
from mpsafe.soft.host import SoftwareHost
from tenant_process import Tenant

__all__ = ["TENANTS", "Mpsafed", "Tenant", "Worker", "software_daemon", "until"]

PATIENCE_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.02
PACE_SECONDS: Final = 0.01


@contextmanager
def software_daemon() -> Generator[Mpsafed]:
    """The daemon on a fresh software host with MPS."""
    with tempfile.TemporaryDirectory(prefix="mpsafe-soak-") as name, SoftwareHost(Path(name)) as host:
        host.start_mps()
        with Mpsafed(host) as daemon:
            daemon.start()
            yield daemon


def until(done: Callable[[], bool], what: str) -> None:
    """Waits; TimeoutError with `what` was waited for."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {PATIENCE_SECONDS:g} s: {what}")
        time.sleep(POLL_SECONDS)


class Worker:
    """Does one thing a hundred times a second in a thread, at most; `troubles` is what it answered instead of "ok"."""

    def __init__(self, work: Callable[[], str]) -> None:
        self.done = 0
        self.troubles: list[str] = []
        self._work = work
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Worker":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(PACE_SECONDS) and not self.troubles:
            with suppress(DaemonUnreachable):
                if (answer := self._work()) != "ok":
                    self.troubles.append(answer)
                self.done += 1
