# SPDX-License-Identifier: Apache-2.0
"""Processes: who they are, when they end, and the signals we send. Never by a bare pid."""

import asyncio
import contextlib
import os
import select
import signal
import time
from collections.abc import Generator
from typing import Self

import psutil

from mpsafe.model import Identity

__all__ = ["Process", "has_ended", "identify", "name_and_uid"]


def identify(pid: int) -> Identity | None:
    """The process that has this pid now; None if none has. Start time: proc(5), stat, field 22.

    psutil's create_time is a time of day, which moves when the clock is set; clock ticks since boot
    do not, and the kernel part reports the same number.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return Identity(pid, int(fields[19])) if len(fields) > 19 else None


def started_ns(identity: Identity) -> int:
    """When it started, CLOCK_REALTIME in nanoseconds, to a clock tick."""
    boot_ns = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return boot_ns + identity.start_ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def name_and_uid(identity: Identity) -> tuple[str, int] | None:
    """Name and effective uid of a process; None if it has ended."""
    try:
        process = psutil.Process(identity.pid)
        with process.oneshot():
            found = process.name(), process.uids().effective
    except psutil.Error:
        return None
    return found if identify(identity.pid) == identity else None


def has_ended(identity: Identity) -> bool:
    """Whether a process has ended, also where its parent has not waited for it yet."""
    try:
        with Process(identity) as process:
            return process.has_ended()
    except ProcessLookupError:
        return True


class Process:
    """A hold on one process through a pidfd (pidfd_open(2)); `with` lets it go.

    Raises ProcessLookupError if the process that `identity` names has ended, also where another has
    its pid by now.
    """

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self._fd = os.pidfd_open(identity.pid)
        if identify(identity.pid) != identity:
            os.close(self._fd)
            raise ProcessLookupError(identity.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets it go."""
        os.close(self._fd)

    def fileno(self) -> int:
        """The pidfd: readable once the process has ended."""
        return self._fd

    def has_ended(self) -> bool:
        """Whether all of it has ended, also where its parent has not waited for it yet."""
        end = select.poll()
        end.register(self, select.POLLIN)
        return bool(end.poll(0))

    def freeze(self) -> None:
        """Stops it: it can publish nothing until it is thawed."""
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets it run again: MPS needs a client's threads to terminate it."""
        self._send(signal.SIGCONT)

    def ask_to_end(self) -> None:
        """SIGTERM."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        """To one that has ended and been waited for, a signal is nothing."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._fd, number)

    async def ended(self, timeout_s: float | None) -> bool:
        """Waits until it has ended, `timeout_s` seconds at most (None: for ever); says whether it has."""
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        with _reader(loop, self._fd, done):
            finished, _ = await asyncio.wait([done], timeout=timeout_s)
        return bool(finished)


@contextlib.contextmanager
def _reader(loop: asyncio.AbstractEventLoop, fd: int, done: asyncio.Future[None]) -> Generator[None]:
    def readable() -> None:
        if not done.done():
            done.set_result(None)

    loop.add_reader(fd, readable)
    try:
        yield
    finally:
        loop.remove_reader(fd)
        done.cancel()
