# SPDX-License-Identifier: Apache-2.0
"""Who gets how much of one device: pure functions of the leases, what is asked for, and what NVML says.

The laws, for each device, whenever something is granted:

    the sum of all memory floors <= room = total - reserve - what is foreign
    the sum of all SM floors     <= 100 per cent
    floor <= what is granted <= ceiling

Spare memory goes to the targets first, then up to the ceilings, the same bytes for each that still wants some. Where
there is too little, those above their targets go down first, and nobody below its floor.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from mpsafe.protocol.leases import Span

__all__ = [
    "GRAIN_BYTES",
    "Facts",
    "Granted",
    "Share",
    "Short",
    "State",
    "Usage",
    "facts_of",
    "grant",
    "spread",
    "squeeze",
]

# What cuMemCreate gives at least: nobody is told that it may grow by less.
GRAIN_BYTES: Final = 2 << 20
ALL_SMS: Final = 100


@dataclass(frozen=True, slots=True)
class Share:
    """One lease as the rules see it. `held_bytes`: what it was granted and has not said to have given back."""

    memory: Span
    sm: Span
    held_bytes: int
    sm_percent: int
    late: bool = False


State: TypeAlias = Mapping[int, Share]


@dataclass(frozen=True, slots=True)
class Usage:
    """What NVML says of one device. `processes`: used bytes by pid; None where NVML cannot tell."""

    total_bytes: int
    used_bytes: int
    processes: Mapping[int, int | None]


@dataclass(frozen=True, slots=True)
class Facts:
    """A device as the rules see it. `own_bytes`: what each holder, by pid, uses beside its leases."""

    room_bytes: int
    own_bytes: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Granted:
    """`held_bytes` and `sm_percent` may be granted, once the others are down to `asks`, by lease."""

    held_bytes: int
    sm_percent: int
    asks: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Short:
    """The floor cannot be met: so much of it could be promised."""

    what: Literal["bytes", "per cent"]
    free: int


def facts_of(usage: Usage, *, reserve_bytes: int, held: Mapping[int, int], own: Mapping[int, int]) -> Facts:
    """The room that there is for leases. `held`: bytes by pid of each holder; `own`: what was its own before.

    Foreign is what processes without a lease use, what nobody can be named for (the driver's, memory of the vault),
    and what holders use beside their leases. The last cannot be seen apart while a lease is not filled: it is what
    it was, until the process uses less than that in all, or more than that and the lease together.
    """
    now = {pid: _own(usage.processes.get(pid, 0), held[pid], own.get(pid, 0)) for pid in held}
    leased = {pid: held[pid] if (used := usage.processes.get(pid, 0)) is None else used for pid in held}
    named = {pid: used or 0 for pid, used in usage.processes.items() if pid not in held}
    unnamed = max(0, usage.used_bytes - sum(leased.values()) - sum(named.values()))
    foreign = min(sum(named.values()) + sum(now.values()) + unnamed, max(usage.used_bytes, sum(now.values())))
    return Facts(max(0, usage.total_bytes - reserve_bytes - foreign), now)


def grant(state: State, memory: Span, sm: Span, facts: Facts, *, resident_bytes: int = 0) -> Granted | Short:
    """What a new lease gets beside those of `state`. `resident_bytes`: what the process uses of it already."""
    promised = sum(share.memory.floor for share in state.values())
    if promised + memory.floor > facts.room_bytes and memory.ceiling:
        return Short("bytes", max(0, facts.room_bytes - promised))
    percent = sum(share.sm.floor for share in state.values())
    if percent + sm.floor > ALL_SMS:
        return Short("per cent", max(0, ALL_SMS - percent))
    unshared = ALL_SMS - sum(share.sm_percent for share in state.values())
    sm_percent = max(sm.floor, min(sm.ceiling, unshared))
    here = max(memory.floor, min(resident_bytes, memory.ceiling))
    new = max(state, default=0) + 1
    joined = {**state, new: Share(memory, sm, here, sm_percent)}
    if asks := squeeze(joined, facts):
        return Granted(here, sm_percent, {lease: to for lease, to in asks.items() if lease != new})
    return Granted(spread(joined, facts, grain_bytes=1).get(new, here), sm_percent, {})


def squeeze(state: State, facts: Facts) -> dict[int, int]:
    """Who has to go down, to how many bytes, so that all of it fits, as far as the floors allow; nobody if it does."""
    if sum(share.held_bytes for share in state.values()) <= facts.room_bytes:
        return {}
    low = {lease: min(share.memory.floor, share.held_bytes) for lease, share in state.items()}
    middle = {lease: max(low[lease], min(share.memory.target, share.held_bytes)) for lease, share in state.items()}
    high = {lease: share.held_bytes for lease, share in state.items()}
    left = _fill(low, middle, facts.room_bytes - sum(low.values()))
    _fill(low, high, left)
    return {lease: low[lease] for lease, share in state.items() if low[lease] < share.held_bytes}


def spread(state: State, facts: Facts, *, grain_bytes: int = GRAIN_BYTES) -> dict[int, int]:
    """Who may grow, to how many bytes, by `grain_bytes` at least: nobody who is late, and nobody where all is held."""
    takers = {lease: share for lease, share in state.items() if not share.late}
    given = {lease: share.held_bytes for lease, share in takers.items()}
    middle = {lease: max(share.memory.target, share.held_bytes) for lease, share in takers.items()}
    high = {lease: max(share.memory.ceiling, share.held_bytes) for lease, share in takers.items()}
    left = _fill(given, middle, facts.room_bytes - sum(share.held_bytes for share in state.values()))
    _fill(given, high, left)
    return {lease: to for lease, to in given.items() if to >= takers[lease].held_bytes + grain_bytes}


def _fill(given: dict[int, int], most: Mapping[int, int], left: int) -> int:
    """Raises each to its most at most, all by the same bytes; returns what is left."""
    order = sorted(given, key=lambda lease: (most[lease] - given[lease], lease))
    for number, lease in enumerate(order):
        more = min(most[lease] - given[lease], max(0, left) // (len(order) - number))
        given[lease] += more
        left -= more
    return left


def _own(used: int | None, held: int, before: int) -> int:
    """What a holder that uses so much in all uses beside its leases."""
    return 0 if used is None else max(used - held, min(before, used))
