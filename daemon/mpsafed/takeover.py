# SPDX-License-Identifier: Apache-2.0
"""The takeover: a standby of a tenant is promoted when the process that served it is lost.

    requested -> promoted -> granted -> done | failed

Promotion waits for nobody: the tenant's next epoch begins, the old process is cut off from the vault, and the standby
is told, while the old process is still being stopped. What was committed in its durable regions the standby may read;
write it may when that process's work is proven stopped, and where there is no proof, never.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from mpsafe.model import ActionState, Identity, Region
from mpsafed.policy import Takeover
from mpsafed.standbys import Standbys, Waiting

__all__ = ["Epochs", "Proofs", "TakeoverLimits", "TakeoverProgress", "take_over"]


class Epochs(Protocol):
    """What a takeover asks of the vault."""

    def holder_of(self, tenant: str) -> Identity | None: ...
    def number_of(self, tenant: str) -> int: ...
    def move(self, tenant: str, process: Identity) -> int: ...
    def cut(self, process: Identity) -> None: ...
    def proven(self, process: Identity) -> list[Region]: ...


class TakeoverProgress(Protocol):
    """Writes a step into the event, and what is known of the timeline by then."""

    def __call__(self, state: ActionState, detail: str, *, standby: Identity | None = None, epoch: int = 0) -> None: ...


@dataclass(frozen=True, slots=True)
class TakeoverLimits:
    """In seconds: until a promoted standby has said that it knows, and until it has said that it serves."""

    received_s: float = 1.0
    serving_s: float = 30.0


_Proof: TypeAlias = "asyncio.Future[str]"


class Proofs:
    """Whether the work of lost processes is proven stopped: "" that it is, or why it will not be."""

    def __init__(self, epochs: Epochs) -> None:
        self._epochs = epochs
        self._known: dict[Identity, _Proof] = {}

    def of(self, process: Identity) -> "_Proof":
        """To be awaited, any number of times."""
        return self._known.setdefault(process, asyncio.get_running_loop().create_future())

    def proven(self, process: Identity) -> None:
        """Its durable regions go to whoever holds its tenant's epoch, also where a takeover has given up waiting."""
        self._epochs.proven(process)
        self._settle(process, "")

    def unproven(self, process: Identity, why: str) -> None:
        """There is no proof, and nothing is under way that would give one."""
        self._settle(process, why)

    def forget(self, process: Identity) -> None:
        """Nobody asks any more."""
        self._known.pop(process, None)

    def _settle(self, process: Identity, why: str) -> None:
        if (proof := self._known.get(process)) is not None and not proof.done():
            proof.set_result(why)


async def take_over(
    decision: Takeover,
    event: int,
    *,
    standbys: Standbys,
    epochs: Epochs,
    proofs: Proofs,
    outside: Callable[[Identity, Identity], bool],
    limits: TakeoverLimits,
    progress: TakeoverProgress,
    reached: ActionState = "requested",
) -> None:
    """Promotes a standby, from the step `reached` on. `outside`: whether a standby shares no server with the victim."""
    proof = proofs.of(decision.victim)
    try:
        promoted = await _promote(decision, event, standbys, epochs, outside, limits, progress, reached)
        if promoted is None:
            progress("failed", f"tenant {decision.tenant} has no standby that is warm")
            return
        identity = promoted.standby.identity
        why = "" if reached == "granted" else await proof
        if not why and epochs.holder_of(decision.tenant) != identity:
            why = f"process {identity.pid} does not hold the epoch any more"
        if why:
            promoted.tell("refused", event=event, detail=why)
        else:
            promoted.tell("granted", epochs.number_of(decision.tenant), event)
            progress("granted", "the old process is proven stopped: its durable regions are to be written")
        missing = [f"no durable region was granted: {why}"] if why else []
        if not await _within(promoted.serving, limits.serving_s):
            missing.append(f"it has not said within {limits.serving_s:g} s that it serves")
        promoted.set_phase("serving")
        progress("done", "; ".join(missing) or f"process {identity.pid} serves the tenant")
    finally:
        proofs.forget(decision.victim)


async def _promote(
    decision: Takeover,
    event: int,
    standbys: Standbys,
    epochs: Epochs,
    outside: Callable[[Identity, Identity], bool],
    limits: TakeoverLimits,
    progress: TakeoverProgress,
    reached: ActionState,
) -> Waiting | None:
    """The first standby that says that it knows. One that a dead daemon had promoted already comes first."""
    holder = epochs.holder_of(decision.tenant)
    known: Waiting | None = None
    if reached != "requested" and holder is not None and holder != decision.victim:
        known = await standbys.back(holder, limits.received_s)
    epochs.cut(decision.victim)
    tried = [known] if known is not None else []
    tried += [one for one in standbys.warm(decision.tenant) if outside(one.standby.identity, decision.victim)]
    for waiting in tried:
        identity = waiting.standby.identity
        epoch = epochs.move(decision.tenant, identity)
        waiting.tell("promoted", epoch, event)
        progress("promoted", f"process {identity.pid} was told", standby=identity, epoch=epoch)
        if await _within(waiting.received, limits.received_s):
            return waiting
        standbys.unregister(waiting)
    return None


async def _within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
