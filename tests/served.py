# SPDX-License-Identifier: Apache-2.0
"""The daemon's service in this process: its interfaces over a real engine, and a supervisor that a test can see."""

import asyncio
import os
import socket
import threading
from dataclasses import replace
from types import TracebackType
from typing import Final, Self

from typing_extensions import override

from control_program import control_of
from mpsafe.client import Client
from mpsafe.errors import NoInjection, NotOurs, NotSupported
from mpsafe.model import ControlDaemon, Figures, Identity, Limits
from mpsafe.protocol.events import EventsInterface
from mpsafe.protocol.host import HostInterface
from mpsafe.protocol.mps import MpsInterface
from mpsafe.protocol.standby import StandbyInterface
from mpsafe.protocol.vault import VaultInterface
from mpsafe.soft.host import SoftwareHost
from mpsafed.api.events import EventsService
from mpsafed.api.host import HostService
from mpsafed.api.mps import MpsService
from mpsafed.api.service import Service
from mpsafed.api.standby import StandbyService
from mpsafed.api.vault import VaultService
from mpsafed.config import TenantConfig
from mpsafed.devices import Devices
from mpsafed.engine import Engine
from mpsafed.fence import FenceLimits
from mpsafed.freezer import Freezer
from mpsafed.metrics import Metrics
from mpsafed.mps.control import Control
from mpsafed.mps.controls import Controls
from mpsafed.peer import Peer
from mpsafed.policy import Policy
from mpsafed.restart import RestartLimits
from mpsafed.state import State
from mpsafed.takeover import TakeoverLimits
from mpsafed.tenants import Tenants
from vault_rig import vault_of

__all__ = ["Declared", "Served"]

PATIENCE_S: Final = 60.0


class Declared:
    """Keeps what is declared of some control daemons, and refuses as the real one does: "watched" is not ours."""

    def __init__(self, *controls: ControlDaemon) -> None:
        self.controls = {control.name: control for control in controls}
        self.forced: list[bool] = []

    def overview(self) -> list[ControlDaemon]:
        return list(self.controls.values())

    async def start(self, name: str) -> None:
        if name == "watched":
            raise NotOurs(name)
        self._change(name, replace(self.controls[name], wanted=True, state="running"))

    async def stop(self, name: str, *, force: bool) -> None:
        self.forced.append(force)
        self._change(name, replace(self.controls[name], wanted=False, state="stopped", identity=None))

    async def set_limits(self, name: str, limits: Limits | None) -> None:
        declared = limits or Limits()
        self._change(name, replace(self.controls[name], declared=declared, in_force=declared))

    async def partition(self, name: str, device: str, chunks: list[int]) -> None:
        if self.controls[name].interface != "v3":
            raise NotSupported("partition", "an MPS that was started with -S")
        partitions = self.controls[name].declared.partitions | {device: chunks}
        declared = replace(self.controls[name].declared, partitions=partitions)
        self._change(name, replace(self.controls[name], declared=declared, in_force=declared))

    def _change(self, name: str, changed: ControlDaemon) -> None:
        self.controls[name] = changed


class Served:
    """On a thread of its own, with the tenants chat and embed. `reports` has what the engine was told."""

    def __init__(self, host: SoftwareHost, supervisor: Declared, *, admin_group: str = "no-such-group") -> None:
        self.host = host
        self.socket = os.fspath(host.directory / "served")
        self.reports: list[tuple[Figures | None, int | None, str, int]] = []
        self.client = Client(self.socket, timeout_s=PATIENCE_S)
        self._supervisor = supervisor
        self._admin_group = admin_group
        self._serving = threading.Event()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._serving.wait(PATIENCE_S), "the service did not come up"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(PATIENCE_S)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        listener.bind(self.socket)
        os.chmod(self.socket, 0o666)
        state = State(self.host.directory / "served-state")
        service = Service(listener, self._admin_group, "test")
        vault = vault_of("chat", "embed")
        tenants = Tenants([TenantConfig("chat"), TenantConfig("embed")], state)
        engine = _Engine(
            state=state,
            policy=Policy(),
            tenants=tenants,
            controls=Controls([control_of(self.host.control_program, self.host.environment)]),
            apply_limits=_no_limits,
            fence_limits=FenceLimits(60, 60),
            restart_limits=RestartLimits(settle_s=1, grace_s=60, end_s=60, start_s=60),
            takeover_limits=TakeoverLimits(received_s=60),
            epochs=vault.epochs,
            ended=vault.ended,
            freezer=Freezer(None),
            release=lambda client: None,
            metrics=Metrics(),
            cut=service.drop,
            devices_changed=lambda: None,
        )
        engine.told = self.reports
        devices = Devices(environment=self.host.environment)
        try:
            await engine.resume()
            service.add(HostInterface(HostService(engine, devices, "none")))
            service.add(VaultInterface(VaultService(vault, tenants, engine.ends.watch)))
            service.add(StandbyInterface(StandbyService(engine, tenants)))
            service.add(EventsInterface(EventsService(engine, inject=_cannot_inject)))
            service.add(MpsInterface(MpsService(self._supervisor)))
            service.start()
            self._serving.set()
            await self._ended.wait()
        finally:
            service.close()
            await devices.close()
            await engine.close()
            state.close()


def _cannot_inject(client: Identity) -> None:
    raise NoInjection(f"nothing that is served here has a driver, for process {client.pid} or any other")


class _Engine(Engine):
    """The real one, which also notes what it is called with."""

    told: list[tuple[Figures | None, int | None, str, int]]

    @override
    def report(self, figures: Figures | None, *, error: int | None, text: str, peer: Peer) -> None:
        self.told.append((figures, error, text, peer.pid))
        super().report(figures, error=error, text=text, peer=peer)


async def _no_limits(control: Control, server: int | None) -> list[str]:
    return []
