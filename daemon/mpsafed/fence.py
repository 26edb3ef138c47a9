# SPDX-License-Identifier: Apache-2.0
"""The fence: one client is stopped in an order that cannot hurt the others.

    requested -> frozen -> cut -> terminating -> proven | assumed -> killed

A client that exits or is killed with work in flight takes its address space away under that work,
and what still runs then faults for the whole server: never SIGKILL first (ARCHITECTURE, "The safety
protocol"). So: freeze it, that it publishes nothing; cut it off from what it holds; thaw it, because
MPS needs its threads; terminate it; kill the process last. `proven` rests on the control program's
own 0 or on the server's end, and on nothing else; `assumed` says that no proof was had.

Every step may be done twice: a fence that a dead daemon left is walked again from its last step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from mpsafe.errors import ControlFailed
from mpsafe.model import ActionState, Identity
from mpsafed.mps.control import Control
from mpsafed.processes import Process, identify

__all__ = ["FenceLimits", "Progress", "fence"]

Progress: TypeAlias = Callable[[ActionState, str], None]


@dataclass(frozen=True, slots=True)
class FenceLimits:
    """How long each step may take, in seconds."""

    terminate_s: float = 2.0
    end_s: float = 2.0


async def fence(
    client: Identity,
    server: int | None,
    *,
    control: Control,
    limits: FenceLimits,
    cut: Callable[[Identity], None],
    progress: Progress,
    reached: ActionState = "requested",
) -> None:
    """Stops one client, from the step that was `reached` on. `progress` writes each step down before the next."""
    try:
        process = Process(client)
    except ProcessLookupError:
        progress("assumed", "the process ended by itself before its work was proven stopped")
        progress("killed", "the process has ended")
        return
    except OSError as error:
        progress("failed", f"the process cannot be held: {error.strerror}")
        return
    with process:
        if reached in ("requested", "frozen"):
            process.freeze()
            progress("frozen", "SIGSTOP: it publishes nothing from here on")
        if reached in ("requested", "frozen", "cut"):
            cut(client)
            progress("cut", "its hold on the daemon's resources is revoked")
        process.thaw()
        if reached not in ("proven", "assumed"):
            progress("terminating", f"terminate_client {server} {client.pid}")
            proven, why = await _terminate(client, server, control, limits)
            progress("proven" if proven else "assumed", why)
        process.kill()
        ended = await process.ended(limits.end_s)
        progress("killed" if ended else "failed", "SIGKILL" if ended else "SIGKILL was sent; the process has not ended")


async def _terminate(client: Identity, server: int | None, control: Control, limits: FenceLimits) -> tuple[bool, str]:
    try:
        server = await control.server_of(client.pid) if server is None else server
        if server is None:
            return False, "it is a client of no server"
        if await control.terminate_client(server, client.pid, deadline_s=limits.terminate_s):
            return True, "the control program answered 0"
        why = "the control program did not answer 0"
    except ControlFailed as error:
        why = str(error)
    return (True, f"server {server} has ended") if server and identify(server) is None else (False, why)
