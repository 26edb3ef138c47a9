# SPDX-License-Identifier: Apache-2.0
"""What a control daemon can be asked, whichever language it speaks. v2.py and v3.py are the two."""

from collections.abc import Collection
from typing import Protocol

from mpsafe.model import Limits, MpsInterface, ServerState

__all__ = ["Dialect"]


class Dialect(Protocol):
    """One control daemon. Everything raises ControlFailed where no answer, or none that is known, comes.

    Servers and clients are pids, and only what the daemon says: whether to believe it is control.py's
    matter. `server` None, of limits: the daemon's own defaults, which reach the servers that it starts.
    """

    interface: MpsInterface

    async def servers(self) -> list[int]:
        """The servers."""
        ...

    async def server_state(self, server: int) -> ServerState:
        """A server's state; `unknown` where the daemon cannot say."""
        ...

    async def clients(self, server: int) -> list[int]:
        """The clients of a server; none if it is gone."""
        ...

    async def terminate_client(self, server: int, client: int, *, deadline_s: float) -> bool:
        """Ends a client's GPU work. True only with proof that it has stopped."""
        ...

    async def shutdown_server(self, server: int) -> None:
        """Ends a server and whatever runs in it."""
        ...

    async def start_server(self, uid: int) -> None:
        """Asks for a server of a user's; that it has started is not known yet."""
        ...

    async def limited(self) -> list[int | None]:
        """What has limits of its own: servers, and None where there are defaults."""
        ...

    async def limits(self, server: int | None, devices: Collection[str]) -> Limits:
        """Reads limits back, memory of these devices and no others."""
        ...

    async def set_limits(self, server: int | None, limits: Limits) -> None:
        """Sets what is not None, 0 MiB as no limit; read it back. NotSupported where it has no such limit."""
        ...

    async def partitions(self) -> dict[str, list[int]]:
        """The SM partitions in chunks by device UUID. NotSupported where it has none."""
        ...

    async def partition(self, device: str, chunks: list[int]) -> None:
        """Makes and removes partitions of a device until it has these sizes. NotSupported as above."""
        ...

    async def quit(self, *, force: bool) -> None:
        """Asks the daemon to end, when its clients have left or by force; its end is not waited for."""
        ...
