# SPDX-License-Identifier: Apache-2.0
"""A vault in this process: what it holds is held by a table, and a test says which descriptors are device memory."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence

from mpsafe.errors import VaultClosed
from mpsafe.model import Identity
from mpsafed.processes import has_ended
from mpsafed.vault.vault import Quota, Vault

__all__ = ["Table", "vault_of"]


class Table:
    """A holder: a dictionary of descriptors that outlives vaults, as systemd outlives daemons.

    `room`: for how many. While it is `deaf` it lets go of nothing, as if who asks had died before.
    """

    name = "table"

    def __init__(self, room: int = 1 << 16) -> None:
        self.held: dict[str, int] = {}
        self.room = room
        self.deaf = False

    def handed_over(self) -> dict[str, int]:
        return {name: os.dup(fd) for name, fd in self.held.items()}

    def hold(self, fds: Mapping[str, int]) -> None:
        for name, fd in fds.items():
            if len(self.held) >= self.room:
                raise VaultClosed("the table is full")
            assert name not in self.held
            self.held[name] = os.dup(fd)

    def let_go(self, names: Iterable[str]) -> None:
        if self.deaf:
            return
        for name in names:
            if (fd := self.held.pop(name, None)) is not None:
                os.close(fd)


async def no_doubt(fds: Sequence[int], sizes: Sequence[int], device: str) -> None:
    """Takes everything for device memory."""


def vault_of(
    *tenants: str,
    table: Table | None = None,
    quotas: Mapping[str, Quota] | None = None,
    handles_max: int = 1 << 16,
    alive: Callable[[Identity], bool] | None = None,
) -> Vault:
    """A vault of these tenants."""
    return Vault(
        table or Table(),
        quotas or {tenant: Quota() for tenant in tenants},
        handles_max=handles_max,
        check=no_doubt,
        alive=alive or (lambda process: not has_ended(process)),
        changed=lambda: None,
    )
