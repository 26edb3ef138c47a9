# SPDX-License-Identifier: Apache-2.0
"""Leases: what a call costs, how fast a holder is down when others need the room, what the token path pays.

The holder frees at once: its own time to free is not ours. A growing process without a lease is seen when NVML is
asked the next time, which [leases] look_ms says; it is a row of its own.
"""

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import psutil
from rich.progress import track

from mpsafe.client import Client
from mpsafe.leases import HeldLease
from mpsafe.link import Link
from mpsafe.protocol.leases import Span
from tools.bench.daemon import Daemon, daemon
from tools.bench.rows import Row, percentile, report

__all__ = ["main"]

CALLS: Final = 3000
ROUNDS: Final = 100
GROWTHS: Final = 40
LOOK_MS: Final = 50.0
DECISIONS: Final = 50_000
HELD_SECONDS: Final = 10.0
LIMIT_SECONDS: Final = 180
GIB: Final = 1 << 30
TENANT: Final = "bench"
# Says when it has begun to grow (CLOCK_MONOTONIC ns), grows and shrinks, a line each.
FOREIGN: Final = f"""
import sys, time
from mpsafe import cuda
driver = cuda.load()
driver.init()
with cuda.Context(driver, driver.devices()[0]):
    print("up", flush=True)
    for _ in sys.stdin:
        began = time.monotonic_ns()
        memory = cuda.Memory.create(driver, driver.devices()[0], {4 * GIB})
        print(began, flush=True)
        sys.stdin.readline()
        memory.close()
        print("down", flush=True)
"""


def main() -> None:
    """Measures everything and writes the report. Ends by SIGALRM where something hangs."""
    signal.alarm(LIMIT_SECONDS)
    rows: list[Row] = []
    with daemon("[leases]\nsettle_ms = 0\n") as running:
        steps: list[Callable[[Daemon], list[Row]]] = [calls, floors, growths, decisions, held]
        for step in track(steps, description="leases", transient=True):
            rows += step(running)
    signal.alarm(0)
    report("leases", "software GPU (no silicon)", rows)


def calls(running: Daemon) -> list[Row]:
    """Renew, which a holder calls; ListTenants, which changes nothing; Acquire, which asks NVML first."""
    with Client(running.socket) as client:
        device = _attached(client)
        lease = client.acquire(TENANT, device, memory=Span(GIB, GIB, GIB))
        renew = _timed(lambda: client.renew(lease.id), CALLS)
        nothing = _timed(client.tenants, CALLS)
        acquire = _timed(
            lambda: client.release(client.acquire(TENANT, device, memory=Span(GIB, GIB, GIB)).id), CALLS // 10
        )
    return [
        Row("lease call (Renew), p50", percentile(renew, 50), "us", "bound of the design", 200.0),
        Row("lease call (Renew), p99", percentile(renew, 99), "us", "bound of the design", 1000.0),
        Row("lease call (Renew), p50", percentile(renew, 50), "us", "ListTenants, p50", percentile(nothing, 50)),
        Row("Acquire and Release, p50", percentile(acquire, 50), "us", "Renew, p50", percentile(renew, 50)),
    ]


def floors(running: Daemon) -> list[Row]:
    """A newcomer's floor that a holder has above its own: from the newcomer's call to its answer."""
    took: list[float] = []
    with Client(running.socket) as client:
        device = _attached(client)
        with HeldLease(running.socket, TENANT, device, memory=Span(GIB, GIB, 15 * GIB), on_pressure=_at_once) as lease:
            for _ in range(ROUNDS):
                _until(lambda: lease.granted_bytes > 14 * GIB)
                began = time.perf_counter_ns()
                other = client.acquire(TENANT, device, memory=Span(8 * GIB, 8 * GIB, 8 * GIB))
                took.append((time.perf_counter_ns() - began) / 1e6)
                client.release(other.id)
    return [
        Row("pressure: asked, acknowledged, granted, p50", percentile(took, 50), "ms", "bound of the design", 50.0),
        Row("pressure: asked, acknowledged, granted, p99", percentile(took, 99), "ms", "bound of the design", 50.0),
    ]


def growths(running: Daemon) -> list[Row]:
    """A process without a lease that takes 4 GiB: from before its call until the holder is down."""
    took: list[float] = []
    down, phases = threading.Event(), random.Random(0)
    with Client(running.socket) as client, _foreign(running) as foreign:
        assert foreign.stdin is not None
        assert foreign.stdout is not None
        foreign.stdout.readline()
        wanted = Span(GIB, GIB, 15 * GIB)
        with HeldLease(
            running.socket, TENANT, _attached(client), memory=wanted, on_pressure=lambda nbytes, deadline_ns: down.set()
        ) as lease:
            for _ in range(GROWTHS):
                _until(lambda: lease.granted_bytes > 13 * GIB)
                time.sleep(phases.random() * LOOK_MS / 1000)
                down.clear()
                foreign.stdin.write(b"\n")
                foreign.stdin.flush()
                down.wait()
                ended = time.monotonic_ns()
                took.append((ended - int(foreign.stdout.readline())) / 1e6)
                foreign.stdin.write(b"\n")
                foreign.stdin.flush()
                foreign.stdout.readline()
    return [
        Row("foreign growth: seen and told, p50", percentile(took, 50), "ms", "look_ms", LOOK_MS),
        Row("foreign growth: seen and told, p99", percentile(took, 99), "ms", "look_ms", LOOK_MS),
    ]


def decisions(running: Daemon) -> list[Row]:
    """What a token pays: an attribute, and the rule over the cells of four processes."""
    with Client(running.socket) as client:
        device = _attached(client)
        lease = client.acquire(TENANT, device, memory=Span(GIB, GIB, GIB))
        renew = percentile(_timed(lambda: client.renew(lease.id), CALLS), 50)
        others = [Client(running.socket) for _ in range(3)]
        links = [other.link(device) for other in others]
        with client.link(device) as link:
            prefetch = percentile(_timed(lambda: link.prefetch(1 << 20), DECISIONS), 50)
            load = percentile(_timed(partial(_load, link), DECISIONS), 50)
        for one, other in zip(links, others, strict=True):
            one.close()
            other.close()
    return [
        Row("may a prefetch start, 4 cells, p50", prefetch, "us", "Renew, p50", renew),
        Row("a load on demand, begun and ended, p50", load, "us", "Renew, p50", renew),
    ]


def held(running: Daemon) -> list[Row]:
    """Processor time of the daemon and its NVML helper while there is a lease, and NVML is asked each look_ms."""
    process = psutil.Process(running.process.pid)
    everybody = [process, *process.children(recursive=True)]
    with Client(running.socket) as client:
        client.acquire(TENANT, _attached(client), memory=Span(GIB, GIB, GIB), ttl_ms=60_000)
        before, began = sum(map(_seconds, everybody)), time.monotonic()
        time.sleep(HELD_SECONDS)
        percent = (sum(map(_seconds, everybody)) - before) / (time.monotonic() - began) * 100
    return [Row("CPU while leases are held", percent, "% of a core", "two per cent", 2.0)]


def _load(link: Link) -> None:
    link.load(1)
    link.loaded(1)


def _attached(client: Client) -> str:
    client.attach(TENANT).close()
    return client.devices()[0].uuid


def _at_once(nbytes: int, deadline_ns: int) -> None:
    assert nbytes > 0
    assert deadline_ns >= 0


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _foreign(running: Daemon) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", FOREIGN],
        env={**running.environment, "CUDA_MPS_PIPE_DIRECTORY": "/nonexistent"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def _timed(call: Callable[[], object], times: int) -> list[float]:
    took: list[float] = []
    for _ in range(times):
        began = time.perf_counter_ns()
        call()
        took.append((time.perf_counter_ns() - began) / 1e3)
    return took


def _until(done: Callable[[], bool]) -> None:
    while not done():
        time.sleep(0.001)
