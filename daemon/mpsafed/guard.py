# SPDX-License-Identifier: Apache-2.0
"""Whose a process is: which control daemon has it, whether it is ours to stop, and whom that must not touch."""

from collections.abc import Callable, Mapping

from mpsafe.errors import UnknownControl
from mpsafe.model import Client, Identity, Server
from mpsafed.mps.control import Control
from mpsafed.mps.controls import Controls
from mpsafed.mps.inventory import Inventory
from mpsafed.processes import name_and_uid

__all__ = ["Guard"]


class Guard:
    """`remembered` are servers of which the inventory may know no more; `tenant_of` names a process's tenant."""

    def __init__(
        self,
        controls: Controls,
        inventory: Inventory,
        *,
        remembered: Mapping[int, Server],
        tenant_of: Callable[[Identity], str | None],
    ) -> None:
        self._controls = controls
        self._inventory = inventory
        self._remembered = remembered
        self._tenant_of = tenant_of

    def control_of(self, server: int) -> Control | None:
        """The control daemon that has a server, or had it last; where there is only one, that one."""
        known = self._inventory.servers.get(server) or self._remembered.get(server)
        if known is not None and known.control:
            try:
                return self._controls[known.control]
            except UnknownControl:
                return None
        everyone = list(self._controls)
        return everyone[0] if len(everyone) == 1 else None

    def controls_of(self, client: Identity, server: int | None) -> list[Control]:
        """The control daemons that may have a client: its server's, or those that may serve its user.

        One of another user's is not asked: what it answers would be taken for proof.
        """
        control = self.control_of(server) if server is not None else None
        if control is not None:
            return [control]
        about = name_and_uid(client)
        return [one for one in self._controls if about is None or one.declared.uid in (None, about[1])]

    def may_signal(self, process: Identity) -> bool:
        """Whether a client or a server is ours to stop: under a control daemon of one user it has to be that user's.

        One that has ended is nobody's, and no signal reaches it.
        """
        client = self._inventory.clients.get(process)
        control = self.control_of(client.server if client is not None else process.pid)
        if control is None or control.declared.uid is None:
            return True
        about = name_and_uid(process)
        return about is None or about[1] == control.declared.uid

    def neighbours(self, client: Identity) -> list[Identity]:
        """The clients of all other tenants, and those of none."""
        tenant = self._tenant_of(client)
        return [identity for identity, one in self._inventory.clients.items() if self._is_other(client, one, tenant)]

    def _is_other(self, client: Identity, one: Client, tenant: str | None) -> bool:
        return one.identity != client and one.state != "gone" and (tenant is None or one.tenant != tenant)
