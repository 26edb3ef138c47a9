# SPDX-License-Identifier: Apache-2.0
"""A hold on the running control daemon: by a pidfd, so that its end is known at once and its pid is nobody else's."""

import asyncio
from collections.abc import Callable

from mpsafe.model import Identity
from mpsafed.processes import Process

__all__ = ["Held"]


class Held:
    """One life of a control daemon, since `since_s` by the keeper's clock. `ended` is called when it is over.

    `started`: we started it. `stopping`: it was told to quit, `forced`, by force. Raises OSError where
    the process cannot be held, ProcessLookupError where it has ended.
    """

    def __init__(self, identity: Identity, *, since_s: float, started: bool, ended: Callable[["Held"], None]) -> None:
        self._process = Process(identity)
        self.identity = identity
        self.since_s = since_s
        self.started = started
        self.stopping = False
        self.forced = False
        self.over = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._process.fileno(), ended, self)

    def release(self) -> None:
        """Lets it go; whoever waits for its end waits no more."""
        asyncio.get_running_loop().remove_reader(self._process.fileno())
        self._process.close()
        self.over.set()
