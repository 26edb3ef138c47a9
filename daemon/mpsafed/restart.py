# SPDX-License-Identifier: Apache-2.0
"""The way back from a fault that nobody could absorb: the server in FAULT is ended, then another started.

    requested -> terminating (the server) -> killed (its clients) -> started -> limited -> done | failed

A server in FAULT refuses new clients, so ending it meets only those that are lost already; one that
is ACTIVE again by itself has new clients, and is left alone. Its state is asked for last, and who has come
nevertheless is lost with the others. The clients are ended after the server: its end is the proof that their
work has stopped. The default limits are set before the new
server starts, because they count for servers that start; its own are set and read back after.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal

from mpsafe.errors import ControlFailed, Refused
from mpsafe.model import ActionState, Identity, ServerState
from mpsafed.fence import Progress
from mpsafed.mps.control import Control
from mpsafed.processes import Process, identify

__all__ = ["RestartLimits", "restart_server"]

POLL_SECONDS: Final = 0.01
SETTLE_POLL_SECONDS: Final = 0.05
_ENDED: Final[frozenset[ActionState]] = frozenset({"killed", "started", "limited"})


@dataclass(frozen=True, slots=True)
class RestartLimits:
    """How long each step may take, in seconds.

    `settle_s`: how long a server has to stay ACTIVE to be left alone, longer than what `fuse` takes for
    one fault. `grace_s`: between SIGTERM and SIGKILL of a lost client. `limit_s`: for setting limits.
    """

    settle_s: float = 2.5
    grace_s: float = 0.2
    end_s: float = 5.0
    start_s: float = 10.0
    limit_s: float = 5.0


async def restart_server(
    server: int,
    uid: int,
    clients: Iterable[Identity],
    *,
    known: Callable[[], Iterable[Identity]],
    control: Control,
    limits: RestartLimits,
    may_signal: Callable[[Identity], bool],
    apply_limits: Callable[[int | None], Awaitable[list[str]]],
    progress: Progress,
    reached: ActionState = "requested",
) -> None:
    """Ends a server in FAULT and its clients, and starts another for the same user, from the step `reached` on.

    `clients` were its clients at the time of the fault, `known` gives those that are known to be now.
    `apply_limits` sets the declared limits, of a server or (None) the default ones, and returns a
    sentence for each that is not in force. What it cannot set is told and is no reason to stop.
    """
    walk = _Walk(
        server,
        uid,
        known=known,
        control=control,
        limits=limits,
        may_signal=may_signal,
        apply_limits=apply_limits,
        progress=progress,
    )
    try:
        if reached in _ENDED or await walk.end(clients, reached):
            await walk.start(reached)
    except TimeoutError:
        progress("failed", f"no server for uid {uid} within {limits.start_s:g} s")
    except (ControlFailed, OSError) as error:
        progress("failed", str(error))


class _Walk:
    """One restart of one server. `_others`: servers that run beside it, where MPS has several at a time."""

    def __init__(
        self,
        server: int,
        uid: int,
        *,
        known: Callable[[], Iterable[Identity]],
        control: Control,
        limits: RestartLimits,
        may_signal: Callable[[Identity], bool],
        apply_limits: Callable[[int | None], Awaitable[list[str]]],
        progress: Progress,
    ) -> None:
        self._server = server
        self._uid = uid
        self._known = known
        self._control = control
        self._limits = limits
        self._may_signal = may_signal
        self._apply_limits = apply_limits
        self._progress = progress
        self._others: set[int] = set()
        self._vanished = False

    async def end(self, clients: Iterable[Identity], reached: ActionState) -> bool:
        """Ends the server and its clients. False: the restart is over, nothing is to be started.

        Of a server that the control daemon does not list, and that no daemon before this one saw listed,
        only a log tells, and who its clients are as well: nobody is ended for it.
        """
        server = self._server
        while True:
            if await self._settled() == "active":
                self._progress("done", f"server {server} is ACTIVE: it recovered by itself, nothing was ended")
                return False
            listed, servers = await self._control.clients(server), await self._control.servers()
            if await self._control.server_state(server) != "active":
                break
        if server not in servers and reached == "requested":
            self._vanished = True
            return True
        lost = {*clients, *(identity for identity in map(identify, listed) if identity is not None)}
        self._progress("terminating", f"shutdown_server {server} -f")
        if server in servers:  # else it is gone, and its pid may be anybody's
            self._others = {*servers} - {server}
            if not await self._end_server():
                self._progress("failed", f"server {server} does not end, and its clients are not killed before it")
                return False
        self._progress("killed", await self._end_clients(lost | {*self._known()}))
        return True

    async def start(self, reached: ActionState) -> None:
        """Starts a server, unless one is there, and sets its limits."""
        fresh, drift = await self._start()
        if reached != "limited":
            gone = f"server {self._server} was gone, nobody was ended for it; " if self._vanished else ""
            self._progress("started", f"{gone}server {fresh} is ACTIVE for uid {self._uid}{_differing(drift)}")
        drift = await self._limited(fresh)
        self._progress("limited", f"limits of server {fresh}{_differing(drift) or ' are in force'}")
        state = await self._control.server_state(fresh)
        if state in ("active", "unknown"):
            self._progress("done", f"server {fresh} is ACTIVE for uid {self._uid} and takes clients")
        else:
            self._progress("failed", f"server {fresh} was ACTIVE and is {state} now")

    async def _settled(self) -> ServerState:
        """Its state, once it can be believed: the kernel log tells of a fault before the server knows of it."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._limits.settle_s
        while (state := await self._control.server_state(self._server)) == "active" and loop.time() < end:
            await asyncio.sleep(SETTLE_POLL_SECONDS)
        return state

    async def _end_server(self) -> bool:
        identity = identify(self._server)
        if identity is None:
            return True
        try:
            with Process(identity) as process:
                await self._control.shutdown_server(self._server)
                if not await process.ended(self._limits.end_s) and self._may_signal(identity):
                    process.kill()
                return await process.ended(self._limits.end_s)
        except ProcessLookupError:
            return True

    async def _end_clients(self, lost: set[Identity]) -> str:
        """Ends those that are ours to end; how it went, in words."""
        ways = await asyncio.gather(*map(self._end_client, lost))
        left = f"; {ways.count('left')} could not be ended" if "left" in ways else ""
        ended = len(ways) - ways.count("left")
        return f"{ended} lost clients have ended, {ways.count('killed')} of them by SIGKILL{left}"

    async def _end_client(self, client: Identity) -> Literal["ended", "killed", "left"]:
        try:
            with Process(client) as process:
                if not self._may_signal(client):
                    return "left"
                process.thaw()
                process.ask_to_end()
                if await process.ended(self._limits.grace_s):
                    return "ended"
                process.kill()
                return "killed" if await process.ended(self._limits.end_s) else "left"
        except ProcessLookupError:
            return "ended"
        except OSError:
            return "left"

    async def _start(self) -> tuple[int, list[str]]:
        """The pid of the server that is ACTIVE; the program tells nothing, so the list is asked."""
        async with asyncio.timeout(self._limits.start_s):
            while self._server in (listed := await self._control.servers()):
                await asyncio.sleep(POLL_SECONDS)
        drift: list[str] = []
        if not {*listed} - self._others:
            drift = await self._limited(None)
            await self._control.start_server(self._uid)
        async with asyncio.timeout(self._limits.start_s):
            while True:
                for pid in {*await self._control.servers()} - self._others:
                    if await self._control.server_state(pid) in ("active", "unknown"):
                        return pid, drift
                await asyncio.sleep(POLL_SECONDS)

    async def _limited(self, server: int | None) -> list[str]:
        """Sets limits; what is not in force, in sentences."""
        try:
            async with asyncio.timeout(self._limits.limit_s):
                return await self._apply_limits(server)
        except TimeoutError:
            return [f"the limits could not be set within {self._limits.limit_s:g} s"]
        except (Refused, OSError) as error:
            return [str(error)]


def _differing(drift: list[str]) -> str:
    return f", but {'; '.join(drift)}" if drift else ""
