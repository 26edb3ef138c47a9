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

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from mpsafe.errors import ControlFailed
from mpsafe.model import ActionState, Identity
from mpsafed.freezer import Freezer
from mpsafed.mps.control import Control
from mpsafed.processes import Process, identify

__all__ = ["FenceLimits", "Progress", "Surroundings", "fence"]

Progress: TypeAlias = Callable[[ActionState, str], None]


@dataclass(frozen=True, slots=True)
class FenceLimits:
    """How long each step may take, in seconds. `hold_s`: how long the driver keeps back the end of a doomed client."""

    terminate_s: float = 2.0
    end_s: float = 2.0
    hold_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a fence asks and uses.

    `controls`: the control daemons that may have a client, where its server is known that server's.
    `cut` revokes a client's holds. `may_signal`: whether a process is ours to stop, which is that of the
    user whose control daemon it uses. `cgroup_of`: the cgroup that is a client's tenant's alone, and
    `neighbours` the clients of all other tenants. `release` tells the driver that a client's work is proven stopped,
    so that it need not keep its page tables any more.
    """

    controls: Callable[[Identity, int | None], Sequence[Control]]
    cut: Callable[[Identity], None]
    may_signal: Callable[[Identity], bool]
    cgroup_of: Callable[[Identity], Path | None]
    neighbours: Callable[[Identity], Iterable[Identity]]
    freezer: Freezer
    release: Callable[[Identity], None]


async def fence(
    client: Identity,
    server: int | None,
    *,
    around: Surroundings,
    limits: FenceLimits,
    progress: Progress,
    reached: ActionState = "requested",
) -> None:
    """Stops one client, from the step that was `reached` on. `progress` writes each step down before the next.

    Raises OSError where the kernel refuses; the client runs then.
    """
    walk = _Walk(client, server, around=around, limits=limits, progress=progress)
    try:
        process = Process(client)
    except ProcessLookupError:
        walk.has_ended(reached)
        return
    except OSError as error:
        progress("failed", f"the process cannot be held: {error.strerror}")
        return
    with process:
        if not around.may_signal(client):
            if reached != "requested":  # a daemon that could tell had stopped it
                walk.thaw(process)
            progress("failed", f"process {client.pid} is not of the user of its MPS control daemon: not ours to stop")
            return
        try:
            await walk.run(process, reached)
        except Exception:
            walk.thaw(process)
            raise


class _Walk:
    """One fence of one client. `_server` is known to be a process when the walk begins, or its end proves nothing."""

    def __init__(
        self,
        client: Identity,
        server: int | None,
        *,
        around: Surroundings,
        limits: FenceLimits,
        progress: Progress,
    ) -> None:
        self._client = client
        self._server = server
        self._server_was = identify(server) if server is not None else None
        self._around = around
        self._limits = limits
        self._progress = progress
        self._cgroup = around.cgroup_of(client)

    async def run(self, process: Process, reached: ActionState) -> None:
        if reached in ("requested", "frozen"):
            self._progress("frozen", await self._freeze(process))
        if reached in ("requested", "frozen", "cut"):
            self._around.cut(self._client)
            self._progress("cut", "its hold on the daemon's resources is revoked")
        trouble = self.thaw(process)
        if reached not in ("proven", "assumed"):
            asked = f"terminate_client {self._server} {self._client.pid}"
            self._progress("terminating", f"{asked} ({trouble})" if trouble else asked)
            proven, why = await self._terminate()
            reached = "proven" if proven else "assumed"
            self._progress(reached, why)
        if reached == "proven":
            self._around.release(self._client)
        process.kill()
        ended = await process.ended(self._limits.end_s + (0 if reached == "proven" else self._limits.hold_s))
        self._progress(
            "killed" if ended else "failed", "SIGKILL" if ended else "SIGKILL was sent; the process has not ended"
        )

    def has_ended(self, reached: ActionState) -> None:
        """The process ended by itself, or another has its pid; those it was frozen with run again."""
        self._thaw_cgroup()
        if reached not in ("proven", "assumed"):
            if self._server_has_ended():
                self._progress("proven", f"server {self._server} has ended")
            else:
                self._progress("assumed", "the process ended by itself before its work was proven stopped")
        self._progress("killed", "the process has ended")

    async def _freeze(self, process: Process) -> str:
        """Stops it, by its cgroup where it has one to itself; how, in words."""
        why = ""
        if self._cgroup is not None:
            spared = [identity.pid for identity in self._around.neighbours(self._client)]
            spared += [self._server] if self._server is not None else []
            why = await self._around.freezer.freeze(self._cgroup, member=self._client.pid, spared=spared)
            if not why:
                return f"cgroup {self._cgroup}: it publishes nothing from here on"
        process.freeze()
        return f"SIGSTOP: it publishes nothing from here on{f' ({why})' if why else ''}"

    def thaw(self, process: Process) -> str:
        """Undoes both ways of freezing: which one it was, only a daemon that is dead may know. "" or the trouble."""
        process.thaw()
        return self._thaw_cgroup()

    def _thaw_cgroup(self) -> str:
        return self._around.freezer.thaw(self._cgroup) if self._cgroup is not None else ""

    async def _terminate(self) -> tuple[bool, str]:
        why = "no MPS control daemon has it as a client"
        for control in self._around.controls(self._client, self._server):
            try:
                server = await control.server_of(self._client.pid) if self._server is None else self._server
                if server is None:
                    continue
                if await control.terminate_client(server, self._client.pid, deadline_s=self._limits.terminate_s):
                    return True, "the control program answered 0"
                why = "the control program did not answer 0"
            except ControlFailed as error:
                why = str(error)
        if self._server_has_ended():
            return True, f"server {self._server} has ended"
        return False, why

    def _server_has_ended(self) -> bool:
        """Whether the server that was there at the start is gone: a number that a log names proves nothing."""
        return self._server_was is not None and identify(self._server_was.pid) != self._server_was
