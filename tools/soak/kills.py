# SPDX-License-Identifier: Apache-2.0
"""mpsafed is killed under load, again and again: does any client see an error, does any pid of MPS change?

With the software GPU, clients work, one is fenced at a time, memory faults come, limits change, and callers ask
without a pause. With the real nvidia-cuda-mps-control, which starts no server without a GPU, there are the
callers and the limits. A fence that was asked for must have ended after the last start, and so must each fault.
"""

import os
import random
import tempfile
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.progress import track

from contract.mps_rig import Mps, Programs
from mpsafe.client import Client
from mpsafe.errors import Refused, UnknownClient
from mpsafe.model import Limits
from mpsafe.soft.host import SoftwareHost
from mpsafed.steps import ended
from tools.soak.report import Report
from tools.soak.tenants import TENANTS, Mpsafed, Tenant, Worker, software_daemon, until

__all__ = ["run"]

TREES: Final = Path("build/packages/trees/nvidia-cuda-mps")
LIVES_SECONDS: Final = 0.2
CALLERS: Final = 2


@dataclass(frozen=True, slots=True)
class _Host:
    """What is soaked: the daemon, and who runs MPS."""

    daemon: Mpsafed
    real: Mps | None

    def mps_pids(self) -> list[int]:
        """The control daemon, then its servers."""
        if self.real is not None:
            pid = self.real.pid()
            return [pid or 0, *map(int, self.real.ask("get_server_list"))]
        return [self.daemon.host.mps_pid() or 0, *map(int, self.daemon.host.control("get_server_list").split())]


def run(count: int, *, real: bool) -> int:
    """Kills it that many times; the exit status."""
    report = Report("kills-real" if real else "kills-software")
    with ExitStack() as stack:
        host = stack.enter_context(_real() if real else _software())
        tenants = [] if real else [stack.enter_context(_tenant(host.daemon, name)) for name in TENANTS]
        before = host.mps_pids()
        with ExitStack() as load:
            socket = host.daemon.socket
            working = [load.enter_context(Worker(_once(tenant))) for tenant in tenants]
            asking = [load.enter_context(Worker(_asking(load, socket))) for _ in range(CALLERS)]
            limiting = load.enter_context(Worker(_limiting(socket, report)))
            for number in track(range(count), description=report.soak, transient=True):
                _one_life(host.daemon, number, report)
            _finish(host.daemon, report)
        for worker in [*working, *asking, limiting]:
            for trouble in worker.troubles:
                report.complain(trouble)
        report.count("kernels run meanwhile", sum(worker.done for worker in working))
        report.count("calls answered meanwhile", sum(worker.done for worker in asking))
        if host.mps_pids() != before:
            report.complain(f"MPS was {before} and is {host.mps_pids()}")
    return report.finish()


def _one_life(daemon: Mpsafed, number: int, report: Report) -> None:
    """Something is under way when it dies, and it is started again.

    Not before a fault is absorbed: without a daemon the driver absorbs none, as it should.
    """
    dice = random.Random(number)
    with ExitStack() as stack:
        doomed: Tenant | None = None
        if daemon.host.mps_pid() is not None:
            doomed = stack.enter_context(_tenant(daemon, "doomed"))
            if dice.random() < 0.5:
                doomed.say("wild_write")
                until(lambda: _is_blamed(daemon, doomed), "the fault is absorbed")
                report.count("memory faults")
            else:
                until(lambda: _is_asked_for(daemon, doomed), "the client is known")
                report.count("fences by hand")
        time.sleep(dice.choice((0.0, dice.random() * LIVES_SECONDS)))
        daemon.kill()
        daemon.client.close()
        daemon.start()
        report.count("kills")
        if doomed is not None:
            doomed.wait()


def _is_blamed(daemon: Mpsafed, tenant: Tenant) -> bool:
    return any(event.blame.client == tenant.identity for event in daemon.client.events(limit=10))


def _is_asked_for(daemon: Mpsafed, tenant: Tenant) -> bool:
    try:
        daemon.client.fence(tenant.pid)
    except UnknownClient:
        return False
    return True


def _finish(daemon: Mpsafed, report: Report) -> None:
    """All that was under way has ended, and the stream has no gap."""
    entries = daemon.written()
    if [entry.seq for entry in entries] != list(range(1, len(entries) + 1)):
        report.complain("the stream has a gap")

    def quiet() -> bool:
        events = daemon.client.events(limit=10_000)
        return all(ended(action.kind, action.state) for event in events for action in event.actions)

    def in_force() -> bool:
        controls = daemon.client.controls()
        asked = [c.in_force.active_thread_percentage if c.in_force else None for c in controls]
        return asked == [c.declared.active_thread_percentage for c in controls] and not any(c.drift for c in controls)

    for reached, what in ((quiet, "every action has ended"), (in_force, "what was declared last is in force")):
        try:
            until(reached, what)
        except TimeoutError as error:
            report.complain(str(error))
    for event in daemon.client.events(limit=10_000):
        for action in event.actions:
            if action.kind != "note":
                report.count(f"{action.kind}: {action.state}")
            if action.state == "failed":
                report.complain(f"event {event.id}: {action.kind} failed: {action.detail}")


def _tenant(daemon: Mpsafed, name: str) -> Tenant:
    """A tenant that attaches where `name` is one of the configuration."""
    return Tenant(daemon.host, name, daemon.socket if name in TENANTS else "")


def _once(tenant: Tenant) -> Any:
    def work() -> str:
        answer = tenant.do("work")
        return answer if answer == "ok" else f"{tenant.name} ({tenant.pid}) says {answer!r}"

    return work


def _asking(stack: ExitStack, socket: str) -> Any:
    client = stack.enter_context(Client(socket))

    def ask() -> str:
        client.tenants()
        client.describe()
        return "ok"

    return ask


def _limiting(socket: str, report: Report) -> Any:
    """Declares another thread percentage each time; what the control program would not take is counted."""
    percentages = (100.0, 50.0, 25.0)

    def limit() -> str:
        with Client(socket) as client:
            try:
                client.set_limits("default", Limits(active_thread_percentage=random.choice(percentages)))
                report.count("limit changes")
            except Refused:
                report.count("limit changes that were refused")
                time.sleep(LIVES_SECONDS)
        return "ok"

    return limit


@contextmanager
def _software() -> Generator[_Host]:
    with software_daemon() as daemon:
        yield _Host(daemon, None)


@contextmanager
def _real() -> Generator[_Host]:
    """The newest real control program that was unpacked, and the daemon that adopts it."""
    found = sorted(TREES.glob("*/usr/bin/nvidia-cuda-mps-control"))
    if not found:
        raise SystemExit(f"no nvidia-cuda-mps-control in {TREES}: tools/packages/unpack gets it")
    with tempfile.TemporaryDirectory(prefix="mpsafe-soak-") as name, SoftwareHost(Path(name)) as host:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("CUDA_")}
        programs = Programs(found[-1], found[-1], environment=environment | {"CUDA_VISIBLE_DEVICES": ""})
        with Mps(programs, Path(name) / "real") as real:
            real.pipes.parent.mkdir()
            real.start()
            more = f'[mps]\ncontrol = "{found[-1].resolve()}"\n'
            more += f'pipe_directory = "{real.pipes}"\nlog_directory = "{real.logs}"\n'
            with Mpsafed(host, more=more) as daemon:
                daemon.start()
                yield _Host(daemon, real)
