# SPDX-License-Identifier: Apache-2.0
"""The ends of processes: the fact by pidfd, without polling and for no pid that was used again; how, by others.

A pidfd says that a whole process has ended, and not how. The kernel's process events say how each thread has
ended, the last one some microseconds later. So the pidfd is what counts, and waits for that word.
"""

import asyncio
import os
import signal
from dataclasses import dataclass, replace
from typing import Final

from mpsafe.model import Identity
from mpsafed.processes import Process
from mpsafed.signals import ClientGone
from mpsafed.sources import Emit, now_ns

__all__ = ["ProcessEnds", "how_it_ended"]

WORD_SECONDS: Final = 0.1


@dataclass(slots=True)
class _Watched:
    process: Process
    how: str | None = None
    waiting: asyncio.Handle | None = None


class ProcessEnds:
    """Emits ClientGone once for each watched process when it has ended.

    `heard` says whether somebody listens to process events and will call `thread_ended`.
    """

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._watched: dict[Identity, _Watched] = {}
        self._by_pid: dict[int, Identity] = {}
        self.heard = False

    def watch(self, identity: Identity) -> None:
        """Watches a process; one that has ended already is told at once."""
        if identity in self._watched:
            return
        try:
            process = Process(identity)
        except OSError:
            self._emit(ClientGone(time_ns=now_ns(), client=identity))
            return
        self._watched[identity] = _Watched(process)
        self._by_pid[identity.pid] = identity
        asyncio.get_running_loop().add_reader(process.fileno(), self._ended, identity)

    def watches(self, pid: int) -> bool:
        """Whether a process of this pid is watched."""
        return pid in self._by_pid

    def thread_ended(self, pid: int, status: int) -> None:
        """A thread of this process has ended, with this wait status. The last one to end says how the process did."""
        if (identity := self._by_pid.get(pid)) is None:
            return
        watched = self._watched[identity]
        if watched.process.has_ended():
            watched.how = how_it_ended(status)
            self._tell_by(watched, asyncio.get_running_loop().call_soon(self._tell, identity))

    def close(self) -> None:
        """Stops watching everybody."""
        for identity in list(self._watched):
            self._forget(identity)

    def _ended(self, identity: Identity) -> None:
        loop, watched = asyncio.get_running_loop(), self._watched[identity]
        loop.remove_reader(watched.process.fileno())
        if watched.waiting is None:
            patience_s = WORD_SECONDS if self.heard else 0
            self._tell_by(watched, loop.call_later(patience_s, self._tell, identity))

    def _tell_by(self, watched: _Watched, handle: asyncio.Handle) -> None:
        if watched.waiting is not None:
            watched.waiting.cancel()
        watched.waiting = handle

    def _tell(self, identity: Identity) -> None:
        how = self._forget(identity).how
        gone = ClientGone(time_ns=now_ns(), client=identity)
        self._emit(gone if how is None else replace(gone, how=how))

    def _forget(self, identity: Identity) -> _Watched:
        watched = self._watched.pop(identity)
        if self._by_pid.get(identity.pid) == identity:
            del self._by_pid[identity.pid]
        if watched.waiting is not None:
            watched.waiting.cancel()
        asyncio.get_running_loop().remove_reader(watched.process.fileno())
        watched.process.close()
        return watched


def how_it_ended(status: int) -> str:
    """A wait status (wait(2)) in words: "exit status 1", "signal 11 (SIGSEGV)"."""
    status &= 0xFFFF
    if not os.WIFSIGNALED(status):
        return f"exit status {os.WEXITSTATUS(status)}"
    number = os.WTERMSIG(status)
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"
