# SPDX-License-Identifier: Apache-2.0
"""Whether the driver still knows what the vault holds.

A reset of a device, or a driver that was unloaded, takes memory away and leaves its handles: nothing can be imported
by them any more, and nobody is told. So it is asked for each region, by the helper that checks handles: when the daemon
starts, when a device came, went or failed. A region that is lost is shown as such and given to nobody; it is let go of
by whoever made it, or as garbage. Where the driver knows it again it was not lost.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from mpsafe.errors import VaultClosed
from mpsafe.model import Region
from mpsafed.vault.vault import Vault

__all__ = ["Losses"]

# After what gave cause to look: a device that comes back needs a moment.
SETTLE_SECONDS: Final = 1.0
AGAIN_SECONDS: Final = 5.0
TRIES: Final = 12

_log = logging.getLogger(__name__)


class Losses:
    """`known` says why memory of that device is lost, or ""; VaultClosed where nobody can tell. `tell` is called with
    regions that were found lost just now."""

    def __init__(
        self,
        vault: Vault,
        *,
        known: Callable[[Sequence[int], str], Awaitable[str]],
        tell: Callable[[list[Region]], None],
        settle_s: float = SETTLE_SECONDS,
    ) -> None:
        self._vault = vault
        self._known = known
        self._tell = tell
        self._settle_s = settle_s
        self._cause = asyncio.Event()

    def look(self) -> None:
        """There is cause to look again."""
        self._cause.set()

    async def run(self) -> None:
        """Looks once, and whenever there is cause."""
        while True:
            for _ in range(TRIES):
                self._cause.clear()
                try:
                    await self._look()
                    break
                except VaultClosed as error:
                    _log.warning("whether the vault's memory is still there is not known: %s", error)
                    await asyncio.sleep(AGAIN_SECONDS)
            await self._cause.wait()
            await asyncio.sleep(self._settle_s)

    async def _look(self) -> None:
        lost: list[Region] = []
        for region in self._vault.regions():
            fds = self._vault.memory_of(region)
            if fds is None:
                continue
            why = await self._known(fds, region.device)
            if self._vault.memory_of(region) is not None and self._vault.lose(region.id, why):
                lost.append(region)
        if lost:
            self._tell(lost)
