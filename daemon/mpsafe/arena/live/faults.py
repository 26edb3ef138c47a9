# SPDX-License-Identifier: Apache-2.0
"""Carries a plan out on a live host, and says afterwards which model was truly down, and from when to when."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Final, Self

from mpsafe.arena.live.host import LiveHost
from mpsafe.arena.live.plan import Fault
from mpsafe.client import Client
from mpsafe.errors import DemoCannotRun, MpsafeError

__all__ = ["Down", "Happened", "Injector", "downs"]

STOPPED_S: Final = 0.03
RUNS_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class Happened:
    """A fault as it was carried out: when it began and, of what endures, when it ended; in seconds of the run.

    `problem`: why it could not be, else empty.
    """

    fault: Fault
    began_s: float
    ended_s: float
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Down:
    """A model that does not answer, by what was seen of its processes; `to_s` is None where it did not come back."""

    model: str
    kind: str
    from_s: float
    to_s: float | None


class Injector:
    """Each fault in a thread of its own, counted from `start` on. Neighbours that are to fault wait from before."""

    def __init__(self, live: LiveHost, faults: Sequence[Fault]) -> None:
        self.happened: list[Happened] = []
        self._live = live
        self._faults = faults
        self._stack = contextlib.ExitStack()
        self._neighbours = [self._stack.enter_context(_neighbour(live)) for fault in faults if fault.kind == "sm"]
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, zero_ns: int) -> None:
        """Begins to count."""
        for fault in self._faults:
            thread = threading.Thread(target=self._carry_out, args=(fault, zero_ns), daemon=True)
            self._threads.append(thread)
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Waits for what has begun; nothing new begins."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self._stack.close()

    def _carry_out(self, fault: Fault, zero_ns: int) -> None:
        if self._stopping.wait(max(0.0, fault.at_s - (time.monotonic_ns() - zero_ns) / 1e9)):
            return
        began_ns = time.monotonic_ns()
        problem = ""
        try:
            self._do(fault)
        except (MpsafeError, OSError) as error:
            problem = str(error)
        ended_ns = time.monotonic_ns()
        self.happened.append(Happened(fault, (began_ns - zero_ns) / 1e9, (ended_ns - zero_ns) / 1e9, problem))

    def _do(self, fault: Fault) -> None:
        match fault.kind:
            case "mmu":
                with Client(self._live.daemon.socket) as client:
                    client.inject(self._live.models[fault.target].pid)
            case "sm":
                process = self._neighbours.pop()
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
            case "kill":
                os.kill(self._live.models[fault.target].pid, signal.SIGKILL)
            case "hang":
                with _stopped(self._live.models[fault.target].pid):
                    time.sleep(fault.duration_s)
            case "slowdown":
                pid, end = self._live.models[fault.target].pid, time.monotonic() + fault.duration_s
                while time.monotonic() < end:
                    with _stopped(pid):
                        time.sleep(STOPPED_S)
                    time.sleep(RUNS_S)
            case "daemon_restart":
                self._live.daemon.kill()
                time.sleep(fault.duration_s)
                self._live.daemon.start()


def downs(live: LiveHost, happened: Sequence[Happened], zero_ns: int) -> list[Down]:
    """Who was down: whose process was ended by a fault until the next one answers, and who was stopped until it ran."""
    found: list[Down] = []
    for one in happened:
        fault = one.fault
        if one.problem or fault.kind in ("slowdown", "daemon_restart"):
            continue
        if fault.kind == "hang":
            found.append(Down(fault.target, fault.kind, one.began_s, one.ended_s))
            continue
        for name in [fault.target] if fault.target else live.models:
            began_ns = zero_ns + int(one.began_s * 1e9)
            ended_ns = next((ns for ns in live.ended_ns[name] if ns >= began_ns), None)
            if ended_ns is None:
                continue
            back_ns = next((ns for _, ns in live.models[name].ready() if ns > ended_ns), None)
            back_s = None if back_ns is None else (back_ns - zero_ns) / 1e9
            found.append(Down(name, fault.kind, one.began_s, back_s))
    return sorted(found, key=lambda one: (one.from_s, one.model))


@contextlib.contextmanager
def _stopped(pid: int) -> Generator[None]:
    """Stops a process as long as this lasts."""
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGCONT)
        os.close(pidfd)


@contextlib.contextmanager
def _neighbour(live: LiveHost) -> Generator[subprocess.Popen[str]]:
    """Another client of the MPS server, which traps when it is told to."""
    command = [sys.executable, "-m", "mpsafe.cuda.faulty", "sm", "--wait"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, env=live.host.environment, stdin=pipe, stdout=pipe, text=True)
    try:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise DemoCannotRun("the neighbour that is to fault did not come up")
        yield process
    finally:
        process.kill()
        process.communicate()
