# SPDX-License-Identifier: Apache-2.0
"""Kernel log lines faster than anybody reads them: is all of it read, what is lost counted, and memory flat?"""

import os
import time
from pathlib import Path
from typing import Final

import msgspec
import psutil
from rich.progress import Progress

from mpsafe.client import Client
from mpsafed.state import Line
from tools.bench.daemon import FLOOD_RATE, LAST_LINE, MMU_LINE, NOBODY, Daemon, daemon
from tools.soak.report import Report

__all__ = ["run"]

LIMIT_SECONDS: Final = 120.0
POLL_SECONDS: Final = 0.05
MIB: Final = 1 << 20
# A full queue, 16,384 signals, costs about 20 MiB over the 41 that the daemon needs when idle.
RESIDENT_MAX_MIB: Final = 80.0


def run(seconds: int) -> int:
    """Floods one daemon; the exit status."""
    report = Report("flood")
    with daemon() as running, Client(running.socket) as client:
        before = client.describe()
        process = psutil.Process(running.process.pid)
        offered, resident = _write(running, seconds, process)
        ended = time.monotonic()
        written = _mark(running)
        while _read_to(running) < written:
            if time.monotonic() - ended > LIMIT_SECONDS:
                report.complain(f"{LIMIT_SECONDS:g} s after the flood the log is not read to its end")
                break
            _mark(running)  # a full queue drops it, and counts it
            time.sleep(POLL_SECONDS)
        behind = time.monotonic() - ended
        lost = client.describe().lost_signals - before.lost_signals
        last = client.events(limit=1)
        alive = client.describe().pid == before.pid
    report.figures |= {
        "seconds": seconds,
        "offered": offered,
        "offered per second": round(offered / seconds),
        "lost and counted": lost,
        "dealt with": offered - lost,
        "behind when it ended, s": round(behind, 3),
        "RSS each second, MiB": [round(one, 1) for one in resident],
        "RSS growth in the second half, MiB": round(resident[-1] - resident[len(resident) // 2], 1),
    }
    if offered < 0.9 * seconds * FLOOD_RATE:
        report.complain(f"only {offered} lines could be offered in {seconds} s")
    if not 0 <= lost <= offered + 1:
        report.complain(f"{lost} of {offered} signals are said to be lost")
    if max(resident) > RESIDENT_MAX_MIB:
        report.complain(f"it took {max(resident):.1f} MiB, and a full queue explains {RESIDENT_MAX_MIB:g}")
    if not alive or not last:
        report.complain("the daemon is another one, or tells no event")
    return report.finish()


def _write(running: Daemon, seconds: int, process: psutil.Process) -> tuple[int, list[float]]:
    """How many lines were written, and the resident memory in MiB each second."""
    offered, resident = 0, [process.memory_info().rss / MIB]
    with running.kernel_log.open("ab") as log, Progress(transient=True) as progress:
        task = progress.add_task("flood", total=seconds)
        began = time.monotonic()
        while (elapsed := time.monotonic() - began) < seconds:
            for _ in range(int(elapsed * FLOOD_RATE) - offered):
                _line(log.fileno(), MMU_LINE.format(bus=1, pid=NOBODY, address=offered & 0xFFFFFFFF))
                offered += 1
            if elapsed >= len(resident):
                resident.append(process.memory_info().rss / MIB)
                progress.update(task, completed=elapsed)
            time.sleep(0.001)
    return offered, [*resident, process.memory_info().rss / MIB]


def _mark(running: Daemon) -> int:
    """Writes one line more, and returns where the log ends: a cursor is kept for lines that are signals."""
    with running.kernel_log.open("ab") as log:
        _line(log.fileno(), LAST_LINE)
        return os.fstat(log.fileno()).st_size


def _read_to(running: Daemon) -> int:
    """Where the daemon has read to, by its own state file."""
    with (Path(running.socket).parent / "state" / "state.jsonl").open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - MIB))
        lines = file.read().split(b"\n")[1:-1]
    cursors = [cursor for line in lines for cursor in msgspec.json.decode(line, type=Line).cursors]
    return max((cursor.position for cursor in cursors if cursor.source == "kernel-log"), default=0)


def _line(fd: int, text: str) -> None:
    os.write(fd, f"3,0,{time.monotonic_ns() // 1000},-;{text}\n".encode())
