# SPDX-License-Identifier: Apache-2.0
"""The way back from a fault that nobody could absorb: the server in FAULT is ended, then another started.

    requested -> terminating (the server) -> killed (its clients) -> done | failed

A server in FAULT refuses new clients, so ending it meets only those that are lost already; one that
is ACTIVE again by itself has new clients, and is left alone. The clients are ended after the
server: its end is the proof that their work has stopped.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from mpsafe.errors import ControlFailed
from mpsafe.model import Identity, ServerState
from mpsafed.fence import Progress
from mpsafed.mps.control import Control
from mpsafed.processes import Process, identify

__all__ = ["RestartLimits", "restart_server"]

POLL_SECONDS: Final = 0.01
SETTLE_POLL_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class RestartLimits:
    """How long each step may take, in seconds.

    `settle_s`: how long a server has to stay ACTIVE to be left alone, longer than what `fuse` takes for
    one fault. `grace_s`: between SIGTERM and SIGKILL of a lost client.
    """

    settle_s: float = 2.5
    grace_s: float = 0.2
    end_s: float = 5.0
    start_s: float = 10.0


async def restart_server(
    server: int,
    uid: int,
    clients: Iterable[Identity],
    *,
    control: Control,
    limits: RestartLimits,
    progress: Progress,
) -> None:
    """Ends a server in FAULT and its clients, and starts another for the same user."""
    try:
        state = await _settled(server, control, limits)
        listed, servers = await control.clients(server), await control.servers()
        if state == "active":
            progress("done", f"server {server} is ACTIVE: it recovered by itself, nothing was ended")
            return
        lost = {*clients, *(identity for identity in map(identify, listed) if identity is not None)}
        progress("terminating", f"shutdown_server {server} -f")
        if server in servers:  # else it is gone, and its pid may be anybody's
            await _end_server(server, control, limits)
        ended, killed = await _end_clients(lost, limits)
        progress("killed", f"{ended} lost clients have ended, {killed} of them by SIGKILL")
        fresh = await _start(uid, server, control, limits)
        progress("done", f"server {fresh} is ACTIVE for uid {uid}")
    except (ControlFailed, TimeoutError) as error:
        progress("failed", str(error) or f"no server for uid {uid} within {limits.start_s:g} s")


async def _settled(server: int, control: Control, limits: RestartLimits) -> ServerState:
    """Its state, once it can be believed: the kernel log tells of a fault before the server knows of it."""
    loop = asyncio.get_running_loop()
    end = loop.time() + limits.settle_s
    while (state := await control.server_state(server)) == "active" and loop.time() < end:
        await asyncio.sleep(SETTLE_POLL_SECONDS)
    return state


async def _end_server(server: int, control: Control, limits: RestartLimits) -> None:
    identity = identify(server)
    if identity is None:
        return
    try:
        with Process(identity) as process:
            await control.shutdown_server(server)
            if not await process.ended(limits.end_s):
                process.kill()
                await process.ended(limits.end_s)
    except ProcessLookupError:
        return


async def _end_clients(clients: Iterable[Identity], limits: RestartLimits) -> tuple[int, int]:
    results = await asyncio.gather(*(_end_client(client, limits) for client in clients))
    return sum(1 for _ in results), sum(results)


async def _end_client(client: Identity, limits: RestartLimits) -> bool:
    """True if it had to be killed."""
    try:
        with Process(client) as process:
            process.thaw()
            process.ask_to_end()
            if await process.ended(limits.grace_s):
                return False
            process.kill()
            await process.ended(limits.end_s)
            return True
    except ProcessLookupError:
        return False


async def _start(uid: int, old: int, control: Control, limits: RestartLimits) -> int:
    """The pid of the server that is ACTIVE; the program tells nothing, so the list is asked."""
    async with asyncio.timeout(limits.start_s):
        while old in (listed := await control.servers()):
            await asyncio.sleep(POLL_SECONDS)
        if not listed:
            await control.start_server(uid)
        while True:
            for pid in await control.servers():
                if await control.server_state(pid) in ("active", "unknown"):
                    return pid
            await asyncio.sleep(POLL_SECONDS)
