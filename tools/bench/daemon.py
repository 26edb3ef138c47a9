# SPDX-License-Identifier: Apache-2.0
"""The daemon: signal to decision, a Varlink call, a read of the status page, idle memory and CPU, a flood.

Everything is measured on the real daemon over the software GPU's host; nothing here is a GPU's
figure. The bounds of the design are baselines of their own, named "bound".
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
from asyncvarlink import VarlinkClientProtocol, VarlinkMethodCall, connect_unix_varlink
from rich.progress import track

from mpsafe.client import Client
from mpsafe.errors import DaemonUnreachable
from mpsafe.soft.host import SoftwareHost
from tools.bench.rows import Row, percentile, report

__all__ = ["main"]

SIGNALS: Final = 400
CALLS: Final = 5000
PAGE_READS: Final = 200_000
IDLE_SECONDS: Final = 20.0
FLOOD_SECONDS: Final = 10
LIMIT_SECONDS: Final = 240
FLOOD_RATE: Final = 10_000
MMU_LINE: Final = (
    "NVRM: Xid (PCI:0000:{bus:02x}:00): 31, pid={pid}, name=bench, Ch 00000008, intr 00000000. MMU Fault: ENGINE "
    "GRAPHICS GPC0 GPCCLIENT_T1_0 faulted @ 0x7000_{address:08x}. Fault is of type FAULT_PDE ACCESS_TYPE_VIRT_READ"
)
# Pids from here on are over pid_max: no process has them.
NOBODY: Final = 1 << 23
LAST_LINE: Final = "NVRM: Xid (PCI:0000:fe:00): 79, GPU has fallen off the bus."
BARE_IMPORTS: Final = "import asyncio, asyncvarlink, msgspec, psutil, cffi, systemd.daemon, asyncinotify"


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running daemon."""

    process: subprocess.Popen[bytes]
    socket: str
    kernel_log: Path
    environment: Mapping[str, str]


@contextlib.contextmanager
def daemon(more: str = "") -> Generator[Daemon]:
    """The real daemon on a fresh software host; `more` is added to its configuration."""
    with tempfile.TemporaryDirectory(prefix="mpsafe-bench-") as name, SoftwareHost(Path(name) / "gpu") as host:
        host.start_mps()
        socket, config = f"{name}/mpsafed.sock", Path(name) / "mpsafe.toml"
        config.write_text(
            f'[daemon]\nsocket = "{socket}"\nstate_directory = "{name}/state"\n'
            f'[sources]\nkernel_log = "{host.kernel_log}"\n[driver]\nkind = "software"\npath = "{host.driver}"\n'
            f'[mps]\nmode = "adopt"\ncontrol = "{host.control_program}"\npipe_directory = "{host.pipe_directory}"\n'
            f'log_directory = "{host.log_directory}"\n{more}[[tenant]]\nname = "bench"\n'
        )
        with (Path(name) / "mpsafed.log").open("wb") as log:
            command = [sys.executable, "-m", "mpsafed.main", "--config", os.fspath(config)]
            process = subprocess.Popen(command, env=host.environment, stderr=log)
            try:
                _until(lambda: _answers(socket))
                yield Daemon(process, socket, host.kernel_log, host.environment)
            finally:
                process.terminate()
                process.wait()


def main() -> None:
    """Measures everything and writes the report. Ends by SIGALRM where something hangs."""
    signal.alarm(LIMIT_SECONDS)
    rows: list[Row] = []
    with daemon() as running:
        steps: list[Callable[[Daemon], list[Row]]] = [idle, page_reads, varlink_calls, decisions, flood]
        for step in track(steps, description="daemon", transient=True):
            rows += step(running)
    signal.alarm(0)
    report("daemon", "software GPU (no silicon)", rows)


def decisions(running: Daemon) -> list[Row]:
    """From the write of a kernel log line to the entry with the decision, as the daemon stamped it."""
    took: list[float] = []
    with Client(running.socket) as client:
        stream = client.watch()
        next(stream)
        with running.kernel_log.open("a") as log:
            for number in range(SIGNALS):
                written = time.time_ns()
                _log_line(log.fileno(), MMU_LINE.format(bus=0xFE, pid=NOBODY + number, address=number))
                address = hex(0x7000_0000_0000 + number)
                for watched in stream:
                    event = watched.event
                    if (
                        event is not None
                        and event.fault is not None
                        and event.fault.address == address
                        and event.actions
                    ):
                        took.append((event.entered_ns - written) / 1e6)
                        break
    return [
        Row("signal to decision, p50", percentile(took, 50), "ms", "bound of the design", 1.0),
        Row("signal to decision, p99", percentile(took, 99), "ms", "bound of the design", 5.0),
    ]


def varlink_calls(running: Daemon) -> list[Row]:
    """ListTenants by our blocking client, and by asyncvarlink's own, on the same daemon."""
    with Client(running.socket) as client:
        ours = _timed(client.tenants, CALLS)
    theirs = asyncio.run(_asyncvarlink(running.socket))
    return [
        Row("Varlink call, p50", percentile(ours, 50), "us", "bound of the design", 200.0),
        Row("Varlink call, p50", percentile(ours, 50), "us", "asyncvarlink's client", percentile(theirs, 50)),
        Row("Varlink call, p99", percentile(ours, 99), "us", "asyncvarlink's client", percentile(theirs, 99)),
    ]


async def _asyncvarlink(socket: str) -> list[float]:
    transport, protocol = await connect_unix_varlink(VarlinkClientProtocol, socket)
    took: list[float] = []
    for _ in range(CALLS):
        began = time.perf_counter_ns()
        await protocol.call(VarlinkMethodCall("io.mpsafe.Host.ListTenants", {}))
        took.append((time.perf_counter_ns() - began) / 1e3)
    transport.close()
    return took


def page_reads(running: Daemon) -> list[Row]:
    """The status page's header, against asking the daemon, and against reading a file of that size."""
    with Client(running.socket) as client, client.attach() as attachment, tempfile.TemporaryFile() as file:
        file.write(bytes(128))
        file.flush()
        header = attachment.page.header
        began = time.perf_counter_ns()
        for _ in range(PAGE_READS):
            header()
        ours = (time.perf_counter_ns() - began) / PAGE_READS / 1e3
        began = time.perf_counter_ns()
        for _ in range(PAGE_READS):
            os.pread(file.fileno(), 128, 0)
        theirs = (time.perf_counter_ns() - began) / PAGE_READS / 1e3
        call = percentile(_timed(client.tenants, CALLS), 50)
    return [
        Row("status page read", ours, "us", "bound of the design", 1.0),
        Row("status page read", ours, "us", "pread of 128 bytes, not decoded", theirs),
        Row("status page read", ours, "us", "Varlink call, p50", call),
    ]


def idle(running: Daemon) -> list[Row]:
    """Resident memory and processor time of the daemon alone, with nothing to do."""
    process = psutil.Process(running.process.pid)
    before, began = process.cpu_times(), time.monotonic()
    time.sleep(IDLE_SECONDS)
    after, lasted = process.cpu_times(), time.monotonic() - began
    percent = (after.user + after.system - before.user - before.system) / lasted * 100
    resident = process.memory_info().rss / 2**20
    return [
        Row("idle CPU", percent, "% of a core", "bound of the design", 0.1),
        Row("idle memory", resident, "MiB RSS", "bound of the design", 64.0),
        Row("idle memory", resident, "MiB RSS", "the libraries imported, nothing else", _bare_memory()),
    ]


def flood(running: Daemon) -> list[Row]:
    """Kernel log lines of one faulting device at a fixed rate, and whether all of them were accounted for."""
    with Client(running.socket) as client:
        before = client.describe()
        offered = 0
        with running.kernel_log.open("a") as log:
            began = time.monotonic()
            while (elapsed := time.monotonic() - began) < FLOOD_SECONDS:
                for _ in range(int(elapsed * FLOOD_RATE) - offered):
                    _log_line(log.fileno(), MMU_LINE.format(bus=1, pid=NOBODY, address=offered))
                    offered += 1
                time.sleep(0.001)
            rate = offered / (time.monotonic() - began)
            ended = time.monotonic()

            def caught_up() -> bool:
                _log_line(log.fileno(), LAST_LINE)  # again and again: a full queue drops it, too, and counts it
                return any(e.fault and e.fault.xid == 79 for e in client.events(since=before.last_event))

            _until(caught_up)
        behind = time.monotonic() - ended
        lost = client.describe().lost_signals - before.lost_signals
    return [
        Row("flood: offered, all read in order", rate, "1/s", "bound of the design", FLOOD_RATE, more_is_better=True),
        Row("flood: behind when it ended", behind, "s", "one second", 1.0),
        Row("flood: dealt with, the rest counted", offered - lost, "signals", "offered", offered, more_is_better=True),
    ]


def _log_line(fd: int, text: str) -> None:
    os.write(fd, f"3,0,{time.monotonic_ns() // 1000},-;{text}\n".encode())


def _timed(call: Callable[[], object], times: int) -> list[float]:
    took: list[float] = []
    for _ in range(times):
        began = time.perf_counter_ns()
        call()
        took.append((time.perf_counter_ns() - began) / 1e3)
    return took


def _bare_memory() -> float:
    code = f"{BARE_IMPORTS}; print(psutil.Process().memory_info().rss)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout) / 2**20


def _answers(socket: str) -> bool:
    with contextlib.suppress(DaemonUnreachable), Client(socket) as client:
        client.describe()
        return True
    return False


def _until(done: Callable[[], bool], limit_s: float = 120.0) -> None:
    deadline = time.monotonic() + limit_s
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {limit_s:g} s")
        time.sleep(0.02)
