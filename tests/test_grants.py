# SPDX-License-Identifier: Apache-2.0
"""This test will have leases come, change and go beside others that grow, and look whether the laws hold."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mpsafe.protocol.leases import Span
from mpsafed.leases.grants import Facts, Granted, Share, Short, Usage, facts_of, grant, spread, squeeze

GIB: Final = 1 << 30
NO_SMS: Final = Span()
WISHES: Final = st.lists(st.integers(0, 120), min_size=3, max_size=3).map(lambda each: Span(*sorted(each)))


def held(*spans: tuple[int, int, int, int]) -> dict[int, Share]:
    """Leases by floor, target, ceiling, and what they have."""
    return {number: Share(Span(*span[:3]), NO_SMS, span[3], 0) for number, span in enumerate(spans, 1)}


class Device(RuleBasedStateMachine):
    """One device of 100 units, leases that obey, are late, or go, and processes without a lease."""

    @initialize(reserve=st.integers(0, 20))
    def begin(self, reserve: int) -> None:
        self.reserve = reserve
        self.foreign = 0
        self.state: dict[int, Share] = {}
        self.number = 0
        self.just_granted = False

    @property
    def facts(self) -> Facts:
        usage = Usage(100, self.foreign, {7: self.foreign})
        return facts_of(usage, reserve_bytes=self.reserve, held={}, own={})

    @rule(memory=WISHES, sm=WISHES)
    def acquire(self, memory: Span, sm: Span) -> None:
        floors = sum(share.memory.floor for share in self.state.values()) + memory.floor
        percent = sum(share.sm.floor for share in self.state.values()) + sm.floor
        found = grant(self.state, memory, sm, self.facts)
        match found:
            case Short():
                assert floors > self.facts.room_bytes or percent > 100
            case Granted():
                assert floors <= self.facts.room_bytes or not memory.ceiling
                assert percent <= 100
                assert memory.floor <= found.held_bytes <= memory.ceiling
                assert sm.floor <= found.sm_percent <= sm.ceiling
                self.obey(found.asks)
                self.number += 1
                self.state[self.number] = Share(memory, sm, found.held_bytes, found.sm_percent)
                self.just_granted = True
                if not found.asks:
                    assert sum(share.held_bytes for share in self.state.values()) <= self.facts.room_bytes

    def obey(self, asks: Mapping[int, int]) -> None:
        for lease, to in asks.items():
            share = self.state[lease]
            assert min(share.memory.floor, share.held_bytes) <= to < share.held_bytes
            self.state[lease] = replace(share, held_bytes=to)

    @precondition(lambda self: self.state)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        del self.state[data.draw(st.sampled_from(sorted(self.state)))]
        self.just_granted = False

    @rule(nbytes=st.integers(0, 150))
    def foreign_growth(self, nbytes: int) -> None:
        self.foreign = nbytes
        self.just_granted = False

    @rule()
    def pressure(self) -> None:
        asks = squeeze(self.state, self.facts)
        before = sum(share.held_bytes for share in self.state.values())
        assert bool(asks) <= (before > self.facts.room_bytes)
        self.obey(asks)
        after = sum(share.held_bytes for share in self.state.values())
        floors = sum(min(share.memory.floor, share.held_bytes) for share in self.state.values())
        assert after <= max(self.facts.room_bytes, floors)
        assert not squeeze(self.state, self.facts)

    @precondition(lambda self: self.state)
    @rule(data=st.data())
    def lateness(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.state)))
        self.state[number] = replace(self.state[number], late=not self.state[number].late)

    @rule()
    def growth(self) -> None:
        offers = spread(self.state, self.facts, grain_bytes=1)
        before = sum(share.held_bytes for share in self.state.values())
        for lease, to in offers.items():
            share = self.state[lease]
            assert not share.late
            assert share.held_bytes < to <= share.memory.ceiling
            self.state[lease] = replace(share, held_bytes=to)
        if offers:
            assert sum(share.held_bytes for share in self.state.values()) <= self.facts.room_bytes
        else:
            free = self.facts.room_bytes - before
            assert free <= 0 or all(s.late or s.held_bytes >= s.memory.ceiling for s in self.state.values())

    @invariant()
    def laws(self) -> None:
        assert sum(share.sm.floor for share in self.state.values()) <= 100
        for share in self.state.values():
            assert share.memory.floor <= share.held_bytes <= share.memory.ceiling
        if self.just_granted:
            assert sum(s.memory.floor for s in self.state.values()) <= max(0, 100 - self.reserve - self.foreign)


TestDevice = Device.TestCase


@given(WISHES, WISHES, st.integers(0, 100))
def test_spare_memory_is_shared_fairly(one: Span, other: Span, room: int) -> None:
    assume(one.floor + other.floor <= room)
    state = held(
        (one.floor, one.target, one.ceiling, one.floor), (other.floor, other.target, other.ceiling, other.floor)
    )
    offers = spread(state, Facts(room, {}), grain_bytes=1)
    got = {lease: offers.get(lease, share.held_bytes) for lease, share in state.items()}
    for lease, beside in ((1, 2), (2, 1)):
        mine, theirs = state[lease].memory, state[beside].memory
        if got[lease] < mine.target:
            assert got[beside] <= theirs.target, "nobody is over its target while another is below"
            assert got[beside] - theirs.floor <= got[lease] - mine.floor + 1, "the same for each"


@pytest.mark.parametrize(
    ("state", "room", "asks"),
    [
        pytest.param(held((1, 5, 9, 9), (1, 5, 9, 5)), 14, {}, id="it fits"),
        pytest.param(held((1, 5, 9, 9), (1, 5, 9, 5)), 12, {1: 7}, id="who is over its target first"),
        pytest.param(held((1, 5, 9, 9), (1, 5, 9, 5)), 6, {1: 3, 2: 3}, id="then both"),
        pytest.param(held((4, 5, 9, 9), (2, 5, 9, 5)), 3, {1: 4, 2: 2}, id="nobody below its floor"),
    ],
)
def test_who_goes_down_first(state: dict[int, Share], room: int, asks: dict[int, int]) -> None:
    assert squeeze(state, Facts(room, {})) == asks


def test_a_floor_that_others_hold_is_asked_of_them() -> None:
    found = grant(held((2, 8, 10, 10)), Span(4, 4, 4), NO_SMS, Facts(10, {}))
    assert found == Granted(4, 0, {1: 6})
    assert grant(held((2, 8, 10, 10)), Span(9, 9, 9), NO_SMS, Facts(10, {})) == Short("bytes", 8)


def test_what_is_foreign() -> None:
    usage = Usage(16 * GIB, 9 * GIB, {1: 4 * GIB, 2: 3 * GIB, 3: None})
    nobody = facts_of(usage, reserve_bytes=GIB, held={}, own={})
    assert nobody.room_bytes == 6 * GIB, "what nobody can be named for is foreign, too"
    filled = facts_of(usage, reserve_bytes=GIB, held={1: 3 * GIB}, own={1: GIB})
    assert (filled.room_bytes, filled.own_bytes) == (9 * GIB, {1: GIB}), "a holder's lease is not foreign, the rest is"
    empty = facts_of(usage, reserve_bytes=GIB, held={1: 10 * GIB}, own={1: 4 * GIB})
    assert empty.own_bytes == {1: 4 * GIB}, "a lease that is not filled says nothing of what it has beside"
    over = facts_of(usage, reserve_bytes=GIB, held={1: GIB}, own={})
    assert over.own_bytes == {1: 3 * GIB}, "more than the lease is beside it"
    unseen = facts_of(usage, reserve_bytes=GIB, held={3: GIB}, own={})
    assert unseen.room_bytes == 7 * GIB, "whose use NVML cannot tell is taken to fill its lease"
