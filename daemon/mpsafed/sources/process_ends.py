# SPDX-License-Identifier: Apache-2.0
"""The ends of processes, by pidfd: no polling, no pid that was used again."""

import asyncio
from collections.abc import Callable

from mpsafe.model import Identity
from mpsafed.processes import Process

__all__ = ["ProcessEnds"]


class ProcessEnds:
    """Calls `ended` once for each watched process when it has ended."""

    def __init__(self, ended: Callable[[Identity], None]) -> None:
        self._ended = ended
        self._watched: dict[Identity, Process] = {}

    def watch(self, identity: Identity) -> None:
        """Watches a process; one that has ended already is told at once."""
        if identity in self._watched:
            return
        try:
            process = Process(identity)
        except OSError:
            self._ended(identity)
            return
        self._watched[identity] = process
        asyncio.get_running_loop().add_reader(process.fileno(), self._readable, identity)

    def close(self) -> None:
        """Stops watching everybody."""
        for identity in list(self._watched):
            self._forget(identity)

    def _readable(self, identity: Identity) -> None:
        self._forget(identity)
        self._ended(identity)

    def _forget(self, identity: Identity) -> None:
        process = self._watched.pop(identity)
        asyncio.get_running_loop().remove_reader(process.fileno())
        process.close()
