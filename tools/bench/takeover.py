# SPDX-License-Identifier: Apache-2.0
"""A takeover: what the asker of a small decoder waits for when the MPS server is lost, with a standby and without.

Three requests are open; a neighbour's SM exception ends the server; the clock runs from the write of that fault to the
next right token at the asker. All with the real daemon; over the software GPU nothing here is a GPU's figure, and with
GPU=1 it is a real device under the real MPS, whose control daemon is of the benchmark's own.

    standby_ms        a warm standby, promoted by mpsafed
    remap_ms          no standby: a process that is started already and has all imports done, which learns of the end of
                      the first one by its pidfd, makes a context, maps the vault and goes on from the cache in it;
                      most of it is that end, so the time from there is told too
    host_memory_ms    the same, with the weights in its own host memory and no vault: it copies them and decodes again
    cold_restart_ms   a new process until it has a context, and nothing else
    promotion_ms      mpsafed's first signal to the standby's word that it knows
"""

import contextlib
import importlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from rich.progress import Progress

from mpsafe.client import Client
from mpsafe.demo.asker import Asked, ask
from mpsafe.demo.hosts import GpuHost, Host, SoftwareGpu
from mpsafe.errors import DaemonUnreachable
from mpsafe.model import Takeover
from tools.bench.rows import Row, percentile, report

__all__ = ["main"]

LIMIT_SECONDS: Final = 900
GIB: Final = 1 << 30
# Bytes of weights, and how many rounds of each.
SIZES: Final = ((GIB // 10, 15), (GIB, 7), (4 * GIB, 3))
GPU_SIZES: Final = ((GIB, 5), (8 * GIB, 3), (30 * GIB, 2), (60 * GIB, 2))
# A copy of the weights besides those in the vault has to fit onto the device.
COPIED_MAX: Final = 30 * GIB
PROMPTS: Final = {"one": b"the quick brown", "two": b"fox", "three": b"jumps over"}
# So many that the fault comes in the middle, also where it is slow.
TOKENS: Final = 400
SHAPE_TOKENS: Final = 512
FAULT_AT: Final = 30
PATIENCE_S: Final = 120.0
OUTSIDE: Final = {"CUDA_MPS_PIPE_DIRECTORY": "/nonexistent"}
# What is imported already when the clock starts, and waits for a line on stdin.
PRELOADED: Final = "import sys; import {module} as m; print('preloaded', flush=True); sys.stdin.readline(); m.main()"


@dataclass(frozen=True, slots=True)
class Rig:
    """A running daemon on a software host."""

    host: Host
    socket: str
    path: Path


@contextlib.contextmanager
def daemon(make: Callable[[Path], Host]) -> Generator[Rig]:
    """The real daemon on such a host, with the tenants chat and batch."""
    with tempfile.TemporaryDirectory(prefix="mpsafe-bench-") as name, make(Path(name) / "gpu") as host:
        host.start_mps()
        kind, driver = host.driver_table
        socket, config = f"{name}/mpsafed.sock", Path(name) / "mpsafe.toml"
        config.write_text(
            f'[daemon]\nsocket = "{socket}"\nstate_directory = "{name}/state"\n'
            f'[sources]\nkernel_log = "{host.kernel_log}"\n[driver]\nkind = "{kind}"\npath = "{driver}"\n'
            f'[mps]\nmode = "adopt"\ncontrol = "{host.control_program}"\npipe_directory = "{host.pipe_directory}"\n'
            f'log_directory = "{host.log_directory}"\n[vault]\nkeeper = "{name}/keeper"\n'
            '[[tenant]]\nname = "chat"\n[[tenant]]\nname = "batch"\n'
        )
        with (Path(name) / "mpsafed.log").open("wb") as log:
            command = [sys.executable, "-m", "mpsafed.main", "--config", os.fspath(config)]
            process = subprocess.Popen(command, env=host.environment, stderr=log)
            try:
                while not _answers(socket):
                    time.sleep(0.01)
                yield Rig(host, socket, Path(name) / "chat.sock")
                with Client(socket) as client:
                    client.drain()
            finally:
                process.terminate()
                process.wait()


def _answers(socket: str) -> bool:
    try:
        with Client(socket) as client:
            return bool(client.tenants())
    except DaemonUnreachable:
        return False


class Process:
    """One process of the example, read line by line."""

    def __init__(self, rig: Rig, *command: str, outside: bool = False) -> None:
        environment = {**rig.host.environment, **(OUTSIDE if outside else {})}
        environment["PYTHONPATH"] = os.pathsep.join([environment.get("PYTHONPATH", ""), os.getcwd()])
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [sys.executable, *command], env=environment, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
        )

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def said(self) -> str:
        """The next line."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            raise RuntimeError(f"a process of the benchmark has ended with {self.process.wait()}")
        return line

    def say(self, line: str = "") -> None:
        """Writes a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()


def serving(rig: Rig, role: str, pad_bytes: int) -> list[str]:
    """Arguments of the serving example."""
    return [role, "chat", rig.socket, os.fspath(rig.path), json.dumps({"tokens": SHAPE_TOKENS, "pad_bytes": pad_bytes})]


@dataclass(frozen=True, slots=True)
class Loss:
    """One round, in ns since the epoch of the clock: the fault was written, the next right token came.

    `ended_ns`: the process that served had ended, 0 where nobody waited for that.
    """

    fault_ns: int
    again_ns: int
    ended_ns: int
    takeover: Takeover | None

    @property
    def ms(self) -> float:
        """From the fault to the token."""
        return (self.again_ns - self.fault_ns) / 1e6


def round_of(rig: Rig, how: str, weight_bytes: int, expected: dict[str, bytes]) -> Loss:
    """One loss, when all that the one before has led to is over."""
    _settle(rig)
    module, role = ("tools.bench.host_memory", "host") if how == "host" else ("mpsafe.demo.serving", "restarted")
    with contextlib.ExitStack() as stack:
        neighbour = stack.enter_context(Process(rig, "-m", "mpsafe.cuda.faulty", "sm", "--wait"))
        neighbour.said()
        first = stack.enter_context(Process(rig, "-m", "mpsafe.demo.serving", *serving(rig, "primary", weight_bytes)))
        first.said()
        if how == "standby":
            second = Process(rig, "-m", "mpsafe.demo.serving", *serving(rig, "standby", weight_bytes), outside=True)
            stack.enter_context(second)
        else:
            words = PRELOADED.format(module=module)
            second = stack.enter_context(Process(rig, "-c", words, *serving(rig, role, weight_bytes), outside=True))
        second.said()
        requests = {name: Asked(prompt, TOKENS) for name, prompt in PROMPTS.items()}
        ended = os.pidfd_open(first.process.pid)
        stack.callback(os.close, ended)
        fault_ns = 0

        def lose() -> None:
            nonlocal fault_ns
            if not fault_ns and sum(len(one.said) for one in requests.values()) >= FAULT_AT:
                fault_ns = time.time_ns()
                neighbour.say()

        starter = stack.enter_context(_watcher(ended, _stdin(second))) if how != "standby" else None
        connected = ask(rig.path, requests, patience_s=PATIENCE_S, each=lose)
        if len(connected) < 2:
            raise RuntimeError(f"{how}: all tokens came before the fault cost anything")
        if {name: bytes(one.said) for name, one in requests.items()} != expected:
            raise RuntimeError(f"{how}: the output is not that of the undisturbed run")
        again = min(ns for one in requests.values() for ns in one.came_ns if ns > connected[-1])
        ended_ns = int(starter.readline()) if starter is not None else 0
        takeover = _timeline(rig) if how == "standby" else None
    _release(rig)
    return Loss(fault_ns, again, ended_ns, takeover)


# Waits for the end of a process and says so in a pipe: a supervisor that has nothing else to do.
WATCHER: Final = """
import os, select, sys, time
ended, pipe = map(int, sys.argv[1:])
print("ready", flush=True)
select.select([ended], [], [])
os.write(pipe, b"\\n")
print(time.time_ns(), flush=True)
"""


@contextlib.contextmanager
def _watcher(ended: int, pipe: int) -> Generator[IO[str]]:
    """One that waits already; yields where it says when the end came."""
    command = [sys.executable, "-S", "-c", WATCHER, str(ended), str(pipe)]
    process = subprocess.Popen(command, pass_fds=[ended, pipe], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.stdout
    finally:
        process.kill()
        process.communicate()


def _stdin(process: Process) -> int:
    assert process.process.stdin is not None
    return process.process.stdin.fileno()


def _release(rig: Rig) -> None:
    """Nothing of one run is another's: its weights may be of another shape."""
    with Client(rig.socket) as client:
        for region in client.vault().regions:
            client.release_region(region.id)


def _settle(rig: Rig) -> None:
    with Client(rig.socket) as client:
        while any(event.phase != "closed" for event in client.events()):
            time.sleep(0.05)


def _timeline(rig: Rig) -> Takeover:
    """Of the newest takeover, once its event is closed."""
    with Client(rig.socket) as client:
        while True:
            newest = [event for event in client.events() if event.takeovers][-1]
            if newest.phase == "closed":
                return newest.takeovers[-1]
            time.sleep(0.01)


def undisturbed(rig: Rig) -> dict[str, bytes]:
    """What a run says to which nothing happens."""
    with Process(rig, "-m", "mpsafe.demo.serving", *serving(rig, "primary", 0)) as process:
        process.said()
        requests = {name: Asked(prompt, TOKENS) for name, prompt in PROMPTS.items()}
        ask(rig.path, requests, patience_s=PATIENCE_S)
    _release(rig)
    return {name: bytes(one.said) for name, one in requests.items()}


def cold_restart(rig: Rig, rounds: int) -> list[float]:
    """A new process until it has a context."""
    took: list[float] = []
    for _ in range(rounds):
        began = time.perf_counter_ns()
        with Process(rig, "-m", "mpsafe.cuda.faulty", "sm", "--wait", outside=True) as process:
            process.said()
            took.append((time.perf_counter_ns() - began) / 1e6)
    return took


def throughput(rig: Rig) -> dict[str, float]:
    """Tokens a second of an undisturbed run, with a commit for each step and without; see throughput.py."""
    with Process(rig, "-m", "tools.bench.throughput", "chat", rig.socket) as process:
        found: dict[str, float] = json.loads(process.said())
    _release(rig)
    return found


def main(*, gpu: bool = False) -> None:
    """Measures everything and writes the report, also of a part where it is ended: SIGALRM ends what hangs."""
    signal.alarm(LIMIT_SECONDS)
    for number in (signal.SIGALRM, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    rows: list[Row] = []
    try:
        with daemon(GpuHost if gpu else SoftwareGpu) as rig:
            _measure(rig, rows, GPU_SIZES if gpu else SIZES)
    finally:
        signal.alarm(0)
        if rows:
            report("takeover", _device() if gpu else "software GPU (no silicon)", rows)


def _measure(rig: Rig, rows: list[Row], sizes: Sequence[tuple[int, int]]) -> None:
    """Everything, cheapest first; each row is there as soon as it is known."""
    promotions: list[float] = []
    served: list[float] = []
    with Progress(transient=True) as progress:
        task = progress.add_task("takeover", total=3 * sum(rounds for _, rounds in sizes) + 2)
        flow = throughput(rig)
        rows += [
            Row(
                "throughput, commit each step",
                flow["published"],
                "tokens/s",
                "no vault",
                flow["unpublished"],
                more_is_better=True,
            ),
            Row("a commit", flow["commit_us"], "us", "0.5 % of a step of 20 ms", 100.0),
        ]
        progress.advance(task)
        cold = statistics.median(cold_restart(rig, 9))
        rows.append(Row("cold_restart_ms, context only", cold, "ms", "itself", cold))
        progress.advance(task)
        expected = undisturbed(rig)
        for weight_bytes, rounds in sizes:
            took: dict[str, list[float]] = {"standby": [], "remap": []}
            if weight_bytes <= COPIED_MAX:
                took["host"] = []
            ends: list[float] = []
            for _ in range(rounds):
                for how, found in took.items():
                    loss = round_of(rig, how, weight_bytes, expected)
                    found.append(loss.ms)
                    if how == "remap":
                        ends.append((loss.again_ns - loss.ended_ns) / 1e6)
                    if (takeover := loss.takeover) is not None:
                        promotions.append((takeover.received_ns - takeover.signal_ns) / 1e6)
                        served.append((loss.again_ns - takeover.signal_ns) / 1e6)
                    progress.advance(task)
            rows += _rows(f"{weight_bytes / GIB:.1f} GiB", took, statistics.median(ends))
    rows += [
        Row("promotion_ms, p50", percentile(promotions, 50), "ms", "bound of the design", 2.0),
        Row("promotion_ms, p99", percentile(promotions, 99), "ms", "bound of the design", 2.0),
        Row("signal to next token, p50", percentile(served, 50), "ms", "bound of the design (a GPU's)", 10.0),
        Row("signal to next token, p99", percentile(served, 99), "ms", "bound of the design (a GPU's)", 31.0),
    ]


def _device() -> str:
    """The first device and its driver, as NVML names them."""
    pynvml: Any = importlib.import_module("pynvml")
    pynvml.nvmlInit()
    name = pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0))
    return f"{name}, driver {pynvml.nvmlSystemGetDriverVersion()}"


def _rows(size: str, took: dict[str, list[float]], since_end: float) -> list[Row]:
    ours, remap, *host = (statistics.median(found) for found in took.values())
    baselines = {"remap_ms": remap, "remap, from the old one's end": since_end}
    if host:
        baselines["host_memory_ms"] = host[0]
    return [Row(f"standby_ms, {size} of weights", ours, "ms", name, ms) for name, ms in baselines.items()]
