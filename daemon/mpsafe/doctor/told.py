# SPDX-License-Identifier: Apache-2.0
"""What the daemon knows, as far as it answers: a check compares it with what it finds itself."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from mpsafe.client import Client as Daemon
from mpsafe.errors import MpsafeError
from mpsafe.model import Client, ControlDaemon, Device, Standby
from mpsafe.protocol.host import Description

__all__ = ["Told", "ask"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Told:
    """`host` is None where the daemon did not answer; `refused` has the errors, the first of them says why."""

    host: Description | None = None
    devices: list[Device] = field(default_factory=lambda: list[Device]())
    clients: list[Client] = field(default_factory=lambda: list[Client]())
    controls: list[ControlDaemon] = field(default_factory=lambda: list[ControlDaemon]())
    standbys: list[Standby] = field(default_factory=lambda: list[Standby]())
    refused: list[MpsafeError] = field(default_factory=lambda: list[MpsafeError]())


def ask(socket: str, *, timeout_s: float = 30.0) -> Told:
    """Asks for everything; an answer that does not come leaves its place empty and costs no other."""
    refused: list[MpsafeError] = []

    def answer(call: Callable[[], T], without: T) -> T:
        try:
            return call()
        except MpsafeError as error:
            refused.append(error)
            return without

    with Daemon(socket, timeout_s=timeout_s) as daemon:
        # The daemon asks NVML when it is first asked itself, and only then knows whether it sees it.
        devices = answer(daemon.devices, list[Device]())
        if refused or (host := answer(daemon.describe, None)) is None:
            return Told(refused=refused[:1])
        clients = answer(daemon.clients, list[Client]())
        controls = answer(daemon.controls, list[ControlDaemon]()) if "mps" in host.features else []
        standbys = answer(daemon.standbys, list[Standby]()) if "standby" in host.features else []
        return Told(host, devices, clients, controls, standbys, refused)
