# SPDX-License-Identifier: Apache-2.0
"""Which expert is in which slot, while a model serves: the rules of `replay.py`, over transfers that take time."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from mpsafe.errors import LeaseTooSmall
from mpsafe.experts.host import HostExperts
from mpsafe.experts.links import Link, Transfer
from mpsafe.experts.policies import Flags, Policy, Routed, Shape
from mpsafe.experts.slots import SlotPool
from mpsafe.experts.trace import Ids

__all__ = ["Counters", "Residency"]

NOWHERE: Final = -1


@dataclass(slots=True)
class Counters:
    """`late`: on its way when it was asked for; `stalled_s`: waited for transfers; `moved_bytes`: over the link.

    `policy_s`: until the policy knew what to do, `resident_s`: until it was done, which includes to begin transfers.
    """

    hits: int = 0
    late: int = 0
    misses: int = 0
    prefetched: int = 0
    wasted: int = 0
    moved_bytes: int = 0
    stalled_s: float = 0.0
    policy_s: float = 0.0
    resident_s: float = 0.0
    tokens: int = 0


class Residency:
    """Not safe to be used by two threads at once: its caller holds a lock."""

    def __init__(self, shape: Shape, policy: Policy, host: HostExperts, pool: SlotPool, link: Link) -> None:
        self.shape = shape
        self.counters = Counters()
        self._policy = policy
        self._host = host
        self._pool = pool
        self._link = link
        self._slot = np.full(shape.total, NOWHERE)
        self._free = list(range(pool.count - 1, -1, -1))
        self._coming: dict[int, Transfer] = {}
        self._waiting = np.zeros(shape.total, bool)
        self._unused = np.zeros(shape.total, bool)

    @property
    def floor(self) -> int:
        """The fewest slots to serve with: one layer's experts and as many on their way."""
        return min(2 * self.shape.used, self.shape.total)

    def slot(self, flat: int) -> int:
        """Where an expert that `ask` has brought is."""
        return int(self._slot[flat])

    def absent(self, flat: Ids) -> Flags:
        """Who of these has no slot."""
        found: Flags = self._slot[flat] == NOWHERE
        return found

    def ask(self, flat: Ids, routed: Routed) -> list[Transfer]:
        """What a layer needs, at most as many as there are slots: returns what has yet to arrive."""
        absent = self.absent(flat)
        missing, there = flat[absent], flat[~absent]
        coming = [self._coming[one] for one in there.tolist() if self._still_coming(one)]
        self.counters.hits += len(there) - len(coming)
        self.counters.late += len(coming)
        self.counters.misses += len(missing)
        if len(missing):
            self._make_room(flat, len(missing))
            self._link.computed()
        for transfer in coming:
            self._link.hurry(transfer)
        coming += [self._bring(one, urgent=True) for one in missing.tolist()]
        self._unused[flat] = False
        experts = self.shape.experts
        self._waiting[routed.layer * experts : (routed.layer + 1) * experts] = False
        return coming

    def prefetch(self, most: int, *, in_use: Ids) -> None:
        """Sends for what the policy wishes, as long as less than `most` experts are on their way for nobody yet.

        Nobody of those `in_use`, which are computed at the same time, leaves for it.
        """
        room = most - sum(not (one.urgent or one.arrived) for one in self._coming.values())
        if room <= 0:
            return
        wishes = self._policy.wishes()
        absent = self._slot[wishes.flat] == NOWHERE
        flat, likely = wishes.flat[absent][:room], wishes.likely[absent][:room]
        if not len(flat):
            return
        may_leave = (self._slot != NOWHERE) & ~self._waiting
        may_leave[in_use] = False
        self._link.computed()
        leaving = iter(self._policy.leaving(may_leave, len(flat)).tolist())
        brought: list[int] = []
        for wish, chance in zip(flat.tolist(), likely.tolist(), strict=True):
            victim = None if self._free else next(leaving, None)
            if not self._free and (victim is None or not self._policy.worth(wish, chance, victim)):
                continue
            if not self._link.admits(self._host.layout.nbytes):
                break
            if victim is not None:
                self._leave(victim)
            self._bring(wish, urgent=False)
            self._waiting[wish] = self._unused[wish] = True
            brought.append(wish)
        if brought:
            self.counters.prefetched += len(brought)
            self._policy.brought(np.asarray(brought))

    def fill(self) -> None:
        """Brings experts into all free slots, of each layer equally many, and waits for them. Counts from here on."""
        coming: list[Transfer] = []
        self._link.computed()
        for number in range(self.shape.total):
            expert, layer = divmod(number, self.shape.layers)
            flat = layer * self.shape.experts + expert
            if self._free and self._slot[flat] == NOWHERE:
                coming.append(self._bring(flat, urgent=True))
        self._link.wait(coming)
        self.counters = Counters()

    def stop(self) -> None:
        """Nothing is on its way any more, and nothing of the host's memory is referred to."""
        for transfer in self._coming.values():
            if not transfer.arrived:
                self._link.abandon(transfer)
        self._coming.clear()

    def resize(self, slots: int) -> None:
        """More slots, or fewer: then who is worth least leaves. LeaseTooSmall below `floor`; MemoryError."""
        if slots < self.floor:
            raise LeaseTooSmall(slots, self.floor)
        self._link.computed()
        before = self._pool.count
        if slots < before:
            self._shrink(slots)
        self._pool.resize(slots)
        self._free = [*range(slots - 1, before - 1, -1), *self._free]

    def _shrink(self, slots: int) -> None:
        """Who is in a slot that goes moves into one that stays, if it is worth more than who is there."""
        resident = self._slot != NOWHERE
        order = self._policy.leaving(resident, int(resident.sum()))[::-1]
        keep = min(len(order), slots)
        for flat in order[keep:].tolist():
            self._leave(flat)
        self._free = [slot for slot in self._free if slot < slots]
        for flat in order[:keep].tolist():
            if self._slot[flat] >= slots:
                if (transfer := self._coming.pop(flat, None)) is not None:
                    self._link.wait([transfer])
                target = self._free.pop()
                self._pool.record(target).copy_(self._pool.record(int(self._slot[flat])))
                self._slot[flat] = target
        self._free.sort(reverse=True)

    def _make_room(self, needed: Ids, count: int) -> None:
        leave = count - len(self._free)
        if leave <= 0:
            return
        resident = self._slot != NOWHERE
        resident[needed] = False
        victims = self._policy.leaving(resident & ~self._waiting, leave)
        if len(victims) < leave:
            victims = self._policy.leaving(resident, leave)
        for flat in victims.tolist():
            self._leave(flat)

    def _leave(self, flat: int) -> None:
        if (transfer := self._coming.pop(flat, None)) is not None and not transfer.arrived:
            self._link.abandon(transfer)
        self.counters.wasted += int(self._unused[flat])
        self._waiting[flat] = self._unused[flat] = False
        self._free.append(int(self._slot[flat]))
        self._slot[flat] = NOWHERE

    def _bring(self, flat: int, *, urgent: bool) -> Transfer:
        slot = self._free.pop()
        layer, expert = divmod(flat, self.shape.experts)
        source = self._host.record(layer, expert)
        transfer = self._link.send(source, self._pool.record(slot), urgent=urgent)
        self._slot[flat] = slot
        self._coming[flat] = transfer
        self.counters.moved_bytes += len(source)
        return transfer

    def _still_coming(self, flat: int) -> bool:
        transfer = self._coming.get(flat)
        if transfer is None:
            return False
        if transfer.arrived:
            del self._coming[flat]
            return False
        return True
