# SPDX-License-Identifier: Apache-2.0
"""An engine over real processes and a control program of its own, and the signals that it is given."""

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncGenerator, Callable, Coroutine
from pathlib import Path
from typing import Any

from control_program import ControlProgram
from mpsafe import xid
from mpsafe.model import Event, Identity
from mpsafed.config import TenantConfig
from mpsafed.engine import Engine
from mpsafed.fence import FenceLimits
from mpsafed.freezer import Freezer
from mpsafed.metrics import Metrics
from mpsafed.mps.control import Control
from mpsafed.mps.controls import Controls
from mpsafed.policy import Policy
from mpsafed.processes import identify
from mpsafed.restart import RestartLimits
from mpsafed.signals import (
    Cursor,
    FaultAbsorbed,
    ServerChanged,
    XidSeen,
)
from mpsafed.sources import now_ns
from mpsafed.state import State
from mpsafed.takeover import TakeoverLimits
from mpsafed.tenants import Tenants
from vault_rig import Table, vault_of

__all__ = ["Host", "absorbed", "closed", "identity_of", "in_fault", "run", "sm_xid", "told", "until"]


class Host:
    """What an engine is run on. Each engine is one life of the daemon, over the same state."""

    def __init__(self, directory: Path, processes: list[subprocess.Popen[bytes]]) -> None:
        self.directory = directory
        self.server, self.guilty, self.other = processes
        self.cut: list[int] = []
        self.table = Table()
        self.limited: list[tuple[str, int | None]] = []
        self.program = ControlProgram(directory, {})
        self.answers = {
            "get_server_list": "if test -e $0.started; then echo 777; "
            f"elif ! test -e $0.ended; then echo {self.server.pid}; fi",
            f"get_server_status {self.server.pid}": "if test -e $0.fault; then echo FAULT; else echo ACTIVE; fi",
            f"get_client_list {self.server.pid}": f"echo {self.guilty.pid}; echo {self.other.pid}",
            f"shutdown_server {self.server.pid} -f": f"kill {self.server.pid}; : >$0.ended",
            "start_server*": ": >$0.started",
            "get_server_status 777": "echo ACTIVE",
            "get_client_list 777": ":",
            "terminate_client*": "echo 0",
        }
        self.program.answer(self.answers)

    def breaks(self) -> None:
        """From here on the control program says that the server is in FAULT."""
        self.program.path.with_name(self.program.path.name + ".fault").touch()

    async def apply_limits(self, control: Control, server: int | None) -> list[str]:
        """Nothing is declared; what was asked for is kept in `limited`."""
        self.limited.append((control.name, server))
        return []

    @contextlib.asynccontextmanager
    async def engine(self, policy: Policy | None = None) -> AsyncGenerator[Engine]:
        state = State(self.directory / "state")
        tenants = Tenants([TenantConfig("chat"), TenantConfig("embed")], state)
        vault = vault_of("chat", "embed", table=self.table)
        engine = Engine(
            state=state,
            policy=policy or Policy(),
            tenants=tenants,
            controls=Controls([self.program.control()]),
            apply_limits=self.apply_limits,
            fence_limits=FenceLimits(60, 60),
            restart_limits=RestartLimits(settle_s=1, grace_s=60, end_s=60, start_s=60),
            takeover_limits=TakeoverLimits(received_s=60),
            epochs=vault.epochs,
            ended=vault.ended,
            freezer=Freezer(None),
            release=lambda client: None,
            metrics=Metrics(),
            cut=self.cut.append,
            devices_changed=lambda: None,
        )
        following = asyncio.ensure_future(engine.inventory.follow())
        try:
            await engine.resume()
            yield engine
        finally:
            following.cancel()
            await asyncio.wait([following])
            await engine.close()
            vault.close()
            state.close()


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


def identity_of(process: subprocess.Popen[bytes]) -> Identity:
    found = identify(process.pid)
    assert found is not None
    return found


async def until(engine: Engine, wanted: Callable[[Event], bool]) -> Event:
    """The first entry that is `wanted`, also one of the past."""
    seen = 0
    with engine.subscribed() as changed:
        while True:
            for entry in engine.state.stream[seen:]:
                seen += 1
                if wanted(entry):
                    return entry
            changed.clear()
            await changed.wait()


def closed(kind: str = "fault") -> Callable[[Event], bool]:
    return lambda event: (event.kind, event.phase) == (kind, "closed")


def absorbed(who: subprocess.Popen[bytes]) -> FaultAbsorbed:
    return FaultAbsorbed(
        time_ns=now_ns(), cursor=Cursor("driver", "load", 1), client=identity_of(who), uid=0, name="python",
        device="GPU-1", address=0x5000, access="write", fault="pde",
    )  # fmt: skip


def sm_xid(who: subprocess.Popen[bytes], *, position: int = 1) -> XidSeen:
    text = f"NVRM: Xid (PCI:0000:01:00): 13, pid={who.pid}, name=python, Graphics SM Warp Exception on (GPC 0)"
    found = xid.parse_message(text)
    assert found is not None
    return XidSeen(time_ns=now_ns(), cursor=Cursor("kernel-log", "boot", position), xid=found, text=text)


def in_fault(server: subprocess.Popen[bytes]) -> ServerChanged:
    text = "Server status changed to FAULT"
    return ServerChanged(time_ns=now_ns(), server=server.pid, state="fault", text=text)


def told(event: Event) -> list[tuple[str, str]]:
    return [(action.kind, action.state) for action in event.actions]
