# SPDX-License-Identifier: Apache-2.0
"""This test will let plans run in a world where daemons come, die and are put there by others."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsafed.declared import Choice, Declared, How
from mpsafed.mps.reconcile import BACK_OFF_MAX_SECONDS, SETTLED_SECONDS, BackOff, Observed, plan

HOWS: list[How] = ["adopt", "systemd", "session"]
observations = st.builds(
    Observed, st.booleans(), st.booleans(), st.booleans(), st.booleans(), st.sampled_from([0.0, 1.0, 60.0])
).filter(lambda seen: seen.answers or not (seen.adopted or seen.started or seen.stopping))


def declared(how: How) -> Declared:
    return Declared("one", 1001, "program", Path("/pipes"), Path("/logs"), how)


@dataclass
class World:
    """A host with one place for a control daemon. `foreign`: somebody else put the daemon there."""

    running: bool = False
    foreign: bool = False
    adopted: bool = False
    limited: bool = False
    wait_s: float = 0.0

    def observed(self) -> Observed:
        started = self.running and self.adopted and not self.foreign
        return Observed(self.running, self.running and self.adopted, started, False, self.wait_s)

    def do(self, step: str) -> None:
        match step:
            case "start":
                assert not self.running, "a second one would be refused"
                self.running, self.foreign, self.adopted, self.limited = True, False, False, False
            case "adopt":
                assert self.running
                self.adopted = True
            case "apply_limits":
                assert self.adopted
                self.limited = True
            case "stop":
                assert not self.foreign, "somebody else's"
                self.running = False
            case other:
                pytest.fail(other)

    def happen(self, what: str) -> None:
        match what:
            case "dies":
                self.running, self.wait_s = False, 1.0
            case "is put there" if not self.running:
                self.running, self.foreign, self.adopted, self.limited = True, True, False, False
            case "is changed":
                self.limited = False
            case _:
                self.wait_s = 0.0


@given(
    st.sampled_from(HOWS),
    st.lists(st.sampled_from(["dies", "is put there", "is changed", "time", "wanted", "unwanted"]), max_size=20),
)
def test_it_becomes_what_is_declared_and_stays_so(how: How, events: list[str]) -> None:
    world, choice = World(), Choice("one")
    for event in [*events, "time"]:
        if event in ("wanted", "unwanted"):
            choice = Choice("one", wanted=event == "wanted")
        world.happen(event)
        was_running, was_foreign = world.running, world.foreign
        for step in plan(declared(how), choice, world.observed()):
            world.do(step)
        if was_foreign and was_running:
            assert world.running, "never stopped by us"
    for step in plan(declared(how), choice, world.observed()):
        world.do(step)
    if choice.wanted and how != "adopt":
        assert world.running
    if world.running:
        assert world.adopted
        assert world.limited or not choice.wanted
    if world.running and not choice.wanted and how != "adopt":
        assert world.foreign
    settled = World(**vars(world))
    for step in plan(declared(how), choice, world.observed()):
        assert step == "apply_limits", "nothing is left to do but to look again"
        world.do(step)
    assert world == settled


@given(st.sampled_from(HOWS), st.booleans(), observations)
def test_what_is_never_done(how: How, wanted: bool, observed: Observed) -> None:
    steps = plan(declared(how), Choice("one", wanted=wanted), observed)
    if how == "adopt" or not wanted or observed.answers or observed.wait_s:
        assert "start" not in steps
    if "stop" in steps:
        assert observed.stopping or (observed.started and not wanted and how != "adopt")
    assert ("adopt" in steps) == ((observed.answers and not observed.adopted) or "start" in steps)
    if "apply_limits" in steps:
        assert steps[-1] == "apply_limits"


def test_the_wait_doubles_to_a_minute_and_is_forgotten() -> None:
    back_off, waits = BackOff(), list[float]()
    assert back_off.wait_s(0.0) == 0.0, "the first start is tried at once"
    for _ in range(8):
        back_off = back_off.after_failure(100.0)
        waits.append(back_off.wait_s(100.0))
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert back_off.after_end(100.0, SETTLED_SECONDS - 1).wait_s(100.0) == 60
    settled = back_off.after_end(100.0, SETTLED_SECONDS)
    assert settled.wait_s(100.0) == 0.0
    assert settled.after_failure(100.0).wait_s(100.0) == 1.0


@given(st.lists(st.tuples(st.floats(0, 1e9), st.floats(0, 120)), max_size=20), st.floats(0, 1e9))
def test_no_jump_of_the_clock_makes_it_wait_longer(ends: list[tuple[float, float]], now_s: float) -> None:
    back_off = BackOff()
    for end_s, lived_s in ends:
        back_off = back_off.after_end(end_s, lived_s)
        assert 0 <= back_off.wait_s(now_s) <= BACK_OFF_MAX_SECONDS
        assert back_off.wait_s(end_s + BACK_OFF_MAX_SECONDS) == 0
