# SPDX-License-Identifier: Apache-2.0
"""One run of the demo: everything started afresh, healthy traffic, one fault, what became of everybody."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Self, TypeAlias

from mpsafe.client import Client
from mpsafe.demo.daemon import Daemon
from mpsafe.demo.hosts import Host
from mpsafe.demo.supervisor import Supervisor
from mpsafe.demo.traffic import Sample, Traffic
from mpsafe.errors import DaemonUnreachable, DemoCannotRun
from mpsafe.model import Event

__all__ = [
    "CASES",
    "GUILTY",
    "OBSERVED_SECONDS",
    "TENANTS",
    "Case",
    "FaultKind",
    "Mode",
    "Note",
    "Outcome",
    "Run",
    "daemon",
    "run",
]

Mode: TypeAlias = Literal["stock", "mpsafe"]
FaultKind: TypeAlias = Literal["memory", "sm"]


@dataclass(frozen=True, slots=True)
class Case:
    """What a run is about. `clings`: whether the guilty tenant stays when its context is lost."""

    title: str
    mode: Mode
    fault: FaultKind
    clings: bool = True


CASES: Final = (
    Case("Stock MPS, memory fault", "stock", "memory"),
    Case("Stock MPS, memory fault, nobody clings", "stock", "memory", clings=False),
    Case("mpsafe, memory fault", "mpsafe", "memory"),
    Case("Stock MPS, SM exception", "stock", "sm"),
    Case("mpsafe, SM exception", "mpsafe", "sm"),
)

TENANTS: Final = ("chat", "embed", "batch")
GUILTY: Final = "batch"
HEALTHY_SECONDS: Final = 1.0
OBSERVED_SECONDS: Final = 4.0
AFTERWARDS_SECONDS: Final = 0.5
READY_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True)
class Note:
    """Something that was said at `when` (CLOCK_MONOTONIC, s) by the kernel, by mpsafe or by a supervisor."""

    when: float
    who: str
    text: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one tenant: requests that failed, and when it answered right again, in seconds after the fault."""

    failed: int
    first_failed_s: float | None
    back_s: float | None

    @property
    def sentence(self) -> str:
        """As the table says it."""
        if self.first_failed_s is None:
            return "untouched"
        if self.back_s is None:
            return f"lost, not back within {OBSERVED_SECONDS:g} s"
        return f"lost, back after {self.back_s * 1000:.0f} ms"


@dataclass(slots=True)
class Run:
    """All that was seen in one run. Times are CLOCK_MONOTONIC in seconds."""

    case: Case
    fault_at: float = 0.0
    ended_at: float = 0.0
    samples: dict[str, list[Sample]] = field(default_factory=lambda: dict[str, list[Sample]]())
    starts: dict[str, list[int]] = field(default_factory=lambda: dict[str, list[int]]())
    notes: list[Note] = field(default_factory=lambda: list[Note]())

    def outcome(self, tenant: str) -> Outcome:
        """What became of a tenant."""
        after = [sample for sample in self.samples[tenant] if sample.sent >= self.fault_at]
        bad = [index for index, sample in enumerate(after) if not sample.good]
        if not bad:
            return Outcome(0, None, None)
        recovered = after[bad[-1] + 1 :]
        back = recovered[0].sent + recovered[0].took - self.fault_at if recovered else None
        return Outcome(len(bad), after[bad[0]].sent + after[bad[0]].took - self.fault_at, back)


def run(host: Host, case: Case, directory: Path, watch: Callable[[Run], None]) -> Run:
    """Runs one case in `directory`. `watch` is called again and again while it lasts."""
    result = Run(case)
    with contextlib.ExitStack() as stack:
        stack.enter_context(host)
        host.start_mps()
        log = stack.enter_context(_KernelLines(host.kernel_log, result.notes))
        socket = stack.enter_context(daemon(host, directory, result.notes)) if case.mode == "mpsafe" else None
        traffic = {name: stack.enter_context(_tenant(name, host, directory, socket, result)) for name in TENANTS}
        _wait(lambda: all(any(s.good for s in t.samples) for t in traffic.values()), READY_SECONDS, watch, result)
        _pause(HEALTHY_SECONDS, watch, result)
        result.fault_at = time.monotonic()
        traffic[GUILTY].hit(case.fault)
        with contextlib.suppress(DemoCannotRun):
            _wait(lambda: _all_back(result), OBSERVED_SECONDS, watch, result)
        _pause(AFTERWARDS_SECONDS, watch, result)
        log.read()
        result.ended_at = time.monotonic()
    result.notes.sort(key=lambda note: note.when)
    return result


def _all_back(result: Run) -> bool:
    """Whether everybody answers again. The guilty one only by another process: what it says itself is suspect."""
    guilty = result.outcome(GUILTY)
    return (
        guilty.back_s is not None
        and len(result.starts[GUILTY]) > 1
        and all(
            outcome.first_failed_s is None or outcome.back_s is not None for outcome in map(result.outcome, TENANTS)
        )
    )


def _wait(done: Callable[[], bool], limit_s: float, watch: Callable[[Run], None], result: Run) -> None:
    deadline = time.monotonic() + limit_s
    while not done():
        if time.monotonic() > deadline:
            raise DemoCannotRun(f"not all tenants answered within {limit_s:g} s")
        _pause(POLL_SECONDS, watch, result)


def _pause(seconds: float, watch: Callable[[Run], None], result: Run) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        watch(result)
        time.sleep(min(POLL_SECONDS, max(0.0, end - time.monotonic())))


@contextlib.contextmanager
def _tenant(name: str, host: Host, directory: Path, mpsafe: str | None, result: Run) -> Generator[Traffic]:
    address = directory / f"{name}.sock"
    arguments = ["mpsafe.demo.tenant", name, "--listen", os.fspath(address)]
    arguments += ["--mpsafe", mpsafe] if mpsafe is not None else []
    arguments += ["--clings"] if name == GUILTY and result.case.clings else []

    log = directory / f"{name}.log"

    def ended(status: int) -> None:
        last_words = log.read_text(errors="replace").rstrip().rpartition("\n")[2]
        why = f"signal {-status}" if status < 0 else last_words or f"status {status}"
        result.notes.append(Note(time.monotonic(), "supervisor", f"{name} ended, {why}; it is started again"))

    with Supervisor(arguments, host.environment, log, ended) as supervisor:
        result.starts[name] = supervisor.pids
        with Traffic(name, address) as traffic:
            result.samples[name] = traffic.samples
            yield traffic


@contextlib.contextmanager
def daemon(host: Host, directory: Path, notes: list[Note]) -> Generator[str]:
    """mpsafed on this host; yields its socket once it answers."""
    with Daemon(host, directory, TENANTS) as started:
        threading.Thread(target=_follow, args=(started.socket, notes), daemon=True).start()
        yield started.socket


def _follow(address: str, notes: list[Note]) -> None:
    """Writes down what mpsafe says, until it is gone."""
    offset = time.time_ns() - time.monotonic_ns()
    with Client(address) as client, contextlib.suppress(DaemonUnreachable):
        told = ""
        for watched in client.watch(patience_s=0.0):
            if watched.event is not None and watched.event.kind == "fault" and told != _told(watched.event):
                told = _told(watched.event)
                notes.append(Note((watched.event.entered_ns - offset) / 1e9, "mpsafe", told))


def _told(event: Event) -> str:
    if not event.actions:
        return event.summary
    last = event.actions[-1]
    detail = f", {last.detail}" if last.detail else ""
    return f"{last.kind.replace('_', ' ')}: {last.state}{detail}"


class _KernelLines:
    """The NVRM lines that the kernel logs while this is open."""

    def __init__(self, path: Path, notes: list[Note]) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(self._fd, 0, os.SEEK_END)
        self._notes = notes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def read(self) -> None:
        """Writes down what has been logged since the last time."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._fd, 1 << 16):
                for record in data.decode("utf-8", "replace").splitlines():
                    head, _, text = record.partition(";")
                    fields = head.split(",")
                    if "NVRM" in text and len(fields) > 2 and fields[2].isdecimal():
                        self._notes.append(Note(int(fields[2]) / 1e6, "kernel", text))
