# SPDX-License-Identifier: Apache-2.0
"""Four processes that serve one model with shared experts, and an antagonist that takes memory from under them.

A small model with random weights, caches in the software GPU's memory with leases, an emulated link of 2 GB/s that all
share; no figure here is a GPU's. The antagonist takes 30 % of the caches' memory after a third of the time, and gives
it back after two thirds.
"""

import contextlib
import tempfile
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Final

from rich.console import Console

from daemon_process import Mpsafed
from expert_server import Server
from mpsafe.soft.host import SoftwareHost
from tools.bench.rows import Row, report
from vault_process import OUTSIDE, VaultProcess

__all__ = ["main"]

MIB: Final = 1 << 20
DEVICE_MIB: Final = 256
SETTINGS: Final = "[leases]\nreserve_mib = 16\nsettle_ms = 200\n"
PROCESSES: Final = 4
TOKENS: Final = 8
PHASE_S: Final = 6.0
STEP_S: Final = 0.5
TAKEN: Final = 0.3
BARS: Final = " ▁▂▃▄▅▆▇█"


@contextlib.contextmanager
def daemon() -> Generator[Mpsafed]:
    """The real daemon over a small software GPU."""
    with contextlib.ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="mpsafe-bench-"))
        host = stack.enter_context(SoftwareHost(Path(name), memory_bytes=DEVICE_MIB * MIB))
        host.start_mps()
        daemon = stack.enter_context(Mpsafed(host, more=SETTINGS))
        daemon.start(ready_for="calls")
        yield daemon


class Asking:
    """Asks one server again and again in a thread, and notes when it had how many tokens."""

    def __init__(self, server: Server) -> None:
        self.done: list[float] = []
        self.digests: set[str] = set()
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Asking":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.digests.add(self._server.ask(f"answer(1, {TOKENS})")[0])
            self.done += [time.monotonic()] * TOKENS


def main() -> None:
    """Measures and prints."""
    with daemon() as host, contextlib.ExitStack() as stack:
        first = stack.enter_context(Server(host))
        first.up()
        alone = _rate([first], PHASE_S)
        servers = [first]
        for _ in range(PROCESSES - 1):
            servers.append(stack.enter_context(Server(host)))
            servers[-1].up()
        curve, digests, freed_ms, taken = _antagonist(host, servers)
        each = [one.ask("pss()") for one in servers]
    pss, rss = (sum(one[name] for one in each) / MIB for name in ("pss", "rss"))
    rows = [Row(f"{PROCESSES} processes: host memory of experts (PSS)", pss, "MiB", "a copy each (RSS)", rss)]
    third = len(curve) // 3
    before, during, after = (sum(curve[n * third + 1 : (n + 1) * third]) / (third - 1) for n in range(3))
    rows += [
        Row(f"{PROCESSES} processes: tokens/s in all", before, "1/s", "one alone", alone, more_is_better=True),
        Row("antagonist has 30 %: tokens/s", during, "1/s", "before", before, more_is_better=True),
        Row("antagonist is gone: tokens/s", after, "1/s", "before", before, more_is_better=True),
        Row("2 MiB wanted of a full device until they are had, slowest", freed_ms, "ms", "bound", 50.0),
    ]
    report("sharing", "software GPU, emulated link", rows)
    most = max(curve)
    bars = "".join(BARS[round(one / most * (len(BARS) - 1))] for one in curve)
    out = Console(highlight=False)
    out.print(f"tokens/s, each {STEP_S:g} s: |{bars}| at most {most:.0f}")
    out.print(f"the antagonist has {taken} MiB in the middle third")
    out.print(f"{len(digests)} different answers to one question; out of memory: no")


def _rate(servers: list[Server], seconds: float) -> float:
    """Tokens a second of all."""
    with contextlib.ExitStack() as stack:
        asking = [stack.enter_context(Asking(one)) for one in servers]
        time.sleep(seconds)
        return sum(len(one.done) for one in asking) / seconds


def _antagonist(host: Mpsafed, servers: list[Server]) -> tuple[list[float], set[str], float, int]:
    """The curve, the answers, how long 2 MiB took to be had at most, and how many MiB were."""
    caches = sum(one.ask("served.cache_bytes") for one in servers)
    waits: list[float] = []
    with contextlib.ExitStack() as stack:
        asking = [stack.enter_context(Asking(one)) for one in servers]
        began = time.monotonic()
        time.sleep(PHASE_S)
        with VaultProcess(host.host, "batch", host.socket, environment=OUTSIDE) as antagonist:
            antagonist.do("memories = []")
            room = DEVICE_MIB * MIB - 16 * MIB - caches
            while 2 * MIB * len(waits) < room + TAKEN * caches:
                waits.append(_take(antagonist))
            time.sleep(max(0.0, began + 2 * PHASE_S - time.monotonic()))
        time.sleep(max(0.0, began + 3 * PHASE_S - time.monotonic()))
    done = [at - began for one in asking for at in one.done]
    steps = int(3 * PHASE_S / STEP_S)
    curve = [sum(n * STEP_S <= at < (n + 1) * STEP_S for at in done) / STEP_S for n in range(steps)]
    pressed = sorted(waits[room // (2 * MIB) :])
    digests = {digest for one in asking for digest in one.digests}
    return curve, digests, pressed[-1] * 1e3, 2 * len(waits)


def _take(antagonist: VaultProcess) -> float:
    """Seconds until 2 MiB more are had."""
    began = time.monotonic()
    while True:
        antagonist.begin("memories.append(cuda.Memory.create(driver, driver.devices()[0], 2 << 20))")
        if antagonist.answer().startswith("= "):
            return time.monotonic() - began
        time.sleep(0.001)
