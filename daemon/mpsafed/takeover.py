# SPDX-License-Identifier: Apache-2.0
"""The takeover: a standby of a tenant is promoted when the process that served it is lost.

    requested -> promoted -> granted -> done | failed

Promotion waits for nobody: the tenant's next epoch begins, the old process is cut off from the vault, and the standby
is told, while the old process is still being stopped. What was committed in its durable regions the standby may read;
write it may when that process's work is proven stopped, and where there is no proof, never.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Protocol

from mpsafe.errors import VaultClosed
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
    def writers(self, tenant: str) -> set[Identity]: ...
    def proven(self, process: Identity) -> list[Region]: ...


_log = logging.getLogger(__name__)

# Those of whom a takeover may still ask.
KNOWN_MAX: Final = 1024


class TakeoverProgress(Protocol):
    """Writes a step into the event, and what is known of the timeline by then."""

    def __call__(self, state: ActionState, detail: str, *, standby: Identity | None = None, epoch: int = 0) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeoverLimits:
    """In seconds: until a promoted standby has said that it knows, until one that waited before the daemon was
    restarted is back, until there is proof that what may still be written by others is not, and until the standby
    has said that it serves."""

    received_s: float = 1.0
    back_s: float = 5.0
    proof_s: float = 60.0
    serving_s: float = 30.0


class Proofs:
    """Whether the work of lost processes is proven stopped."""

    def __init__(self, epochs: Epochs) -> None:
        self._epochs = epochs
        self._known: OrderedDict[Identity, str] = OrderedDict()
        self._news = asyncio.Event()

    def proven(self, process: Identity) -> None:
        """It is. Its durable regions go to whoever holds its tenant's epoch, also where a takeover has given up."""
        try:
            self._epochs.proven(process)
        except VaultClosed as error:
            _log.error("what process %d could write is not granted: %s", process.pid, error)
        self._tell(process, "")

    def unproven(self, process: Identity, why: str) -> None:
        """It is not, and nothing is under way that would prove it; who was proven once stays so."""
        if self._known.get(process) != "":
            self._tell(process, why)

    async def all_of(self, processes: Callable[[], set[Identity]], seconds: float) -> str:
        """Waits for proof of all of them, who may become fewer; "" when there is, or why there will be none."""
        try:
            async with asyncio.timeout(seconds):
                while waiting := [one for one in processes() if self._known.get(one) != ""]:
                    if reasons := [self._known[one] for one in waiting if one in self._known]:
                        return reasons[0]
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return f"nothing has proven within {seconds:g} s that the old process has stopped"
        return ""

    def _tell(self, process: Identity, why: str) -> None:
        self._known[process] = why
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)
        self._news.set()


async def take_over(
    decision: Takeover,
    event: int,
    *,
    standbys: Standbys,
    epochs: Epochs,
    proofs: Proofs,
    outside: Callable[[Identity, Identity], bool],
    end: Callable[[Identity], None],
    being_stopped: Callable[[], set[Identity]],
    limits: TakeoverLimits,
    progress: TakeoverProgress,
    promoted: Waiting | None,
    reached: ActionState,
) -> None:
    """Promotes a standby, from the step `reached` on.

    `promoted`: the standby that has said to a daemon before this one that it knows. `outside`: whether a standby shares
    no server with the victim. `end` kills a standby, which is no client of MPS. `being_stopped`: those whose stop is
    under way in any event.
    """
    if promoted is None:
        promoted = await _promote(decision, event, standbys, epochs, outside, end, limits, progress)
    elif reached == "promoted":
        promoted.tell("promoted", epochs.number_of(decision.tenant), event)
    if promoted is None:
        progress("failed", f"tenant {decision.tenant} has no standby that is warm")
        return
    identity = promoted.standby.identity

    def others() -> set[Identity]:
        """Whoever may be writing what this one is to write; of one that was lost before there may never be a proof."""
        return {decision.victim, *(epochs.writers(decision.tenant) & being_stopped())} - {identity}

    why = "" if reached == "granted" else await _unless_gone(promoted, proofs.all_of(others, limits.proof_s))
    if why:
        promoted.tell("refused", event=event, detail=why)
    else:
        promoted.tell("granted", epochs.number_of(decision.tenant), event)
        progress("granted", "the old process is proven stopped: its durable regions are to be written")
    missing = [f"no durable region was granted: {why}"] if why else []
    if not await _within(promoted.serving, limits.serving_s, promoted.gone):
        missing.append(f"process {identity.pid} has not said that it serves")
    promoted.set_phase("serving")
    progress("done", "; ".join(missing) or f"process {identity.pid} serves the tenant")


async def _promote(
    decision: Takeover,
    event: int,
    standbys: Standbys,
    epochs: Epochs,
    outside: Callable[[Identity, Identity], bool],
    end: Callable[[Identity], None],
    limits: TakeoverLimits,
    progress: TakeoverProgress,
) -> Waiting | None:
    """The first standby that says that it knows. One that a dead daemon had promoted already comes first.

    One that says nothing in time is ended: it might wake up and serve beside the next.
    """
    epochs.cut(decision.victim)
    holder = epochs.holder_of(decision.tenant)
    tried: list[Waiting | None] = []
    if (
        holder is not None
        and holder != decision.victim
        and (holder in standbys.away(decision.tenant) or standbys.of(holder))
    ):
        tried.append(await standbys.back(holder, limits.back_s))
        if tried == [None]:
            end(holder)
            standbys.forget(holder)

    def may(one: Waiting) -> bool:
        return outside(one.standby.identity, decision.victim)

    if not any(tried):
        tried = [*await standbys.anybody(decision.tenant, may, limits.back_s)]
    else:
        tried += [one for one in standbys.warm(decision.tenant) if may(one)]
    for waiting in tried:
        if waiting is None:
            continue
        identity = waiting.standby.identity
        epoch = epochs.move(decision.tenant, identity)
        waiting.tell("promoted", epoch, event)
        progress("promoted", f"process {identity.pid} was told", standby=identity, epoch=epoch)
        if await _within(waiting.received, limits.received_s, waiting.gone):
            return waiting
        end(identity)
        standbys.forget(identity)
    return None


async def _unless_gone(promoted: Waiting, proof: Coroutine[Any, Any, str]) -> str:
    """The answer, or that the promoted process has ended before there was one: that is another event's matter."""
    asking = asyncio.ensure_future(proof)
    ending = asyncio.ensure_future(promoted.gone.wait())
    try:
        await asyncio.wait({asking, ending}, return_when=asyncio.FIRST_COMPLETED)
        if asking.done():
            return asking.result()
        return f"process {promoted.standby.identity.pid}, which was promoted, has ended"
    finally:
        asking.cancel()
        ending.cancel()


async def _within(event: asyncio.Event, seconds: float, gone: asyncio.Event) -> bool:
    """Whether it is set in time, and before the process has gone."""
    waits = [asyncio.ensure_future(one.wait()) for one in (event, gone)]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    return event.is_set()
