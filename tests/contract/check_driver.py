# SPDX-License-Identifier: Apache-2.0
"""What mpsafed relies on of /dev/mpsafe, as ffi/mpsafe_uapi.h specifies it: the software driver and the real module.

    python -m contract.check_driver      with tests/ in PYTHONPATH; one line a check: name, tab, outcome

That asks /dev/mpsafe as root: of the stand-alone module if there is /dev/mpsafe-client, else of a patched nvidia-uvm,
with CUDA processes as clients. Either is to be loaded with mpsafe_inject=1, and no mpsafed may have it open. Faults are
injected: what becomes of one is the same from the hook on. Each check leaves neither an owner nor a client behind.
"""

import errno
import os
import select
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from contract.driver_bench import PATIENCE_S, Bench, cuda_bench, ended_by_sigkill, module_bench, refused
from mpsafe.errors import SourceLost
from mpsafed.driver import Place, Policy, Unit

__all__ = ["CHECKS", "check_driver"]

SLOT: Final = 1 << 16
GROWN: Final = 1 << 21
FAR: Final = 1 << 32
VA: Final = 0x3000_0000_0000
LIMIT, STATE, NOT_SUPPORTED = 0x1A, 0x40, 0x56
ABSORB: Final = Policy(mode="absorb")


def says_what_it_is(bench: Bench) -> None:
    about = bench.open().describe()
    assert about.abi == 1
    assert about.load != 0
    assert about.ring & (about.ring - 1) == 0
    assert about.record_bytes >= 144
    assert "inject" in about.features


def has_one_owner_at_a_time(bench: Bench) -> None:
    first = bench.open()
    first.set_policy(ABSORB)
    try:
        bench.opens().close()
    except (SourceLost, ConnectionError):
        pass
    else:
        raise AssertionError("a second owner was let in")
    assert first.policy().in_force == "absorb", "the second one changed nothing"


def begins_with_the_default_policy_and_closing_brings_it_back(bench: Bench) -> None:
    driver = bench.open()
    assert driver.policy() == Policy()
    driver.set_policy(replace(ABSORB, sinks_max=7, hold_ms=0))
    bench.close(driver)
    assert bench.open().policy() == Policy()


def a_policy_is_in_force_as_it_was_set(bench: Bench) -> None:
    driver = bench.open()
    wanted = Policy("observe", frozenset({"wild"}), frozenset({"sm"}), 3, 4, (5, 6), 7, 8)
    driver.set_policy(wanted)
    assert driver.policy() == replace(wanted, in_force="observe")


def a_change_of_the_mode_is_a_record(bench: Bench) -> None:
    driver = bench.open()
    seen = driver.stats().records
    driver.set_policy(Policy(mode="observe"))
    driver.set_policy(ABSORB)
    told = bench.records(driver, lambda found: bool(found) and found[-1].seq >= seen + 2)
    assert [(one.kind, one.mode) for one in told if one.seq > seen] == [("policy", "observe"), ("policy", "absorb")]


def a_policy_out_of_its_range_changes_nothing(bench: Bench) -> None:
    driver = bench.open()
    driver.set_policy(ABSORB)
    before = driver.policy()
    wrong = (
        replace(ABSORB, sinks_max=0), replace(ABSORB, sinks_max=4097), replace(ABSORB, budget_us=0),
        replace(ABSORB, budget_us=60_000_001), replace(ABSORB, grow_after=(2, 1)), replace(ABSORB, hold_ms=60_001),
        replace(ABSORB, kill_ms=600_001), replace(ABSORB, places=frozenset({"managed"})),
        replace(ABSORB, units=frozenset({"unknown"})),
    )  # fmt: skip
    for policy in wrong:
        refused(errno.EINVAL, partial(driver.set_policy, replace(policy, mode="observe")))
    assert driver.policy() == before


def an_absorbed_fault_dooms_its_client(bench: Bench) -> None:
    driver, victim, other = bench.open(), bench.client(), bench.client()
    driver.set_policy(ABSORB)
    before = bench.entry(driver, victim)
    assert (before.state, before.sinks, before.mode, before.uid) == ("live", 0, "inherit", os.geteuid())
    assert bench.fault(driver, victim, VA + 0x123) == 0
    after = bench.entry(driver, victim)
    assert (after.state, after.sinks, after.sink_bytes, after.faults) == ("doomed", 1, SLOT, 1)
    assert after.doomed_ns >= after.created_ns > 0
    record = bench.last(driver, "absorbed")
    assert (record.client, record.kind, record.status, record.mode) == (victim.identity, "absorbed", 0, "absorb")
    assert (record.number, record.access, record.fault, record.faults) == (after.number, "write", "pte", 1)
    assert record.address // SLOT == VA // SLOT
    assert bench.entry(driver, other).state == "live"


def a_fault_that_is_only_observed_passes(bench: Bench) -> None:
    driver, victim = bench.open(), bench.client()
    driver.set_policy(Policy(mode="observe"))
    counted = driver.stats()
    assert bench.fault(driver, victim, VA) == STATE
    record = bench.last(driver, "passed")
    assert (record.client, record.status) == (victim.identity, STATE)
    assert driver.stats().passed == counted.passed + 1
    assert bench.entry(driver, victim).state == "live"


def a_fault_while_it_is_off_is_no_record(bench: Bench) -> None:
    driver, victim = bench.open(), bench.client()
    counted = driver.stats()
    assert bench.fault(driver, victim, VA) == STATE
    assert driver.stats() == counted


def a_mode_of_its_own_is_below_that_of_the_policy(bench: Bench) -> None:
    driver, spared, other = bench.open(), bench.client(), bench.client()
    driver.set_policy(ABSORB)
    driver.set_client_mode(bench.entry(driver, spared).number, "observe")
    assert bench.entry(driver, spared).mode == "observe"
    assert bench.fault(driver, spared, VA) == STATE
    driver.set_client_mode(bench.entry(driver, other).number, "off")
    driver.set_client_mode(bench.entry(driver, other).number, "inherit")
    assert bench.fault(driver, other, VA) == 0
    refused(errno.ESRCH, lambda: driver.set_client_mode(1 << 40, "off"))


def places_and_units_are_those_of_the_living(bench: Bench) -> None:
    driver, victim, other = bench.open(), bench.client(), bench.client()
    driver.set_policy(ABSORB)
    assert bench.fault(driver, victim, VA) == 0
    for policy in (replace(ABSORB, places=frozenset[Place]()), replace(ABSORB, units=frozenset[Unit]({"copy"}))):
        driver.set_policy(policy)
        assert bench.fault(driver, bench.client(), VA) == NOT_SUPPORTED
    assert bench.fault(driver, victim, VA + FAR) == 0, "the doomed are absorbed whatever they say"
    driver.set_policy(ABSORB)
    assert bench.fault(driver, other, VA, "other") == NOT_SUPPORTED, "no mapping helps"


def each_place_is_absorbed_as_far_as_its_room_goes(bench: Bench) -> None:
    """Where a place cannot be injected the driver finds it out itself, and it is that of the other checks."""
    driver = bench.open()
    for place in (bench.place, *bench.more_places):
        victim = bench.client()
        driver.set_policy(replace(ABSORB, grow_after=(1, 2)))
        assert [bench.fault(driver, victim, VA + n * FAR, place=place) for n in range(2)] == [0, 0]
        entry = bench.entry(driver, victim)
        assert (entry.state, entry.sinks) == ("doomed", 2)
        assert SLOT + SLOT <= entry.sink_bytes <= SLOT + GROWN
        if place == "external":
            assert entry.sink_bytes == 2 * SLOT, "a map of another's memory has no more room"
        driver.set_policy(replace(ABSORB, places=ABSORB.places - {place}))
        if bench.more_places:
            assert bench.fault(driver, bench.client(), VA, place=place) == NOT_SUPPORTED


def a_fault_of_the_copy_engine_is_its_units_matter(bench: Bench) -> None:
    driver, victim, other = bench.open(), bench.client(), bench.client()
    driver.set_policy(replace(ABSORB, units=frozenset[Unit]({"copy"})))
    assert bench.fault(driver, other, VA) == NOT_SUPPORTED
    if not bench.copies:
        refused(errno.EINVAL, lambda: bench.fault(driver, victim, VA, unit="copy"))
        return
    assert bench.fault(driver, victim, VA, unit="copy") == 0
    assert bench.last(driver, "absorbed").unit == "copy"
    assert bench.entry(driver, other).state == "live"


def a_fault_of_nobody_is_refused(bench: Bench) -> None:
    driver, gone = bench.open(), bench.client()
    driver.set_policy(ABSORB)
    number = bench.entry(driver, gone).number
    gone.end()
    deadline = time.monotonic() + PATIENCE_S
    while number in [one.number for one in driver.clients()]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    counted = driver.stats()
    for nobody in (0, number, 1 << 40):
        inject = partial(driver.inject, nobody, VA, access="write", fault="pte", unit="sm", place=bench.place)
        refused(errno.ESRCH, inject)
    assert driver.stats() == counted


def the_doomed_stay_absorbed_without_an_owner(bench: Bench) -> None:
    driver, victim, other = bench.open(), bench.client(), bench.client()
    driver.set_policy(ABSORB)
    assert bench.fault(driver, victim, VA) == 0
    bench.close(driver)
    driver = bench.open()
    assert bench.fault(driver, victim, VA + FAR) == 0
    assert bench.fault(driver, other, VA) == STATE
    assert bench.entry(driver, victim).sinks == 2


def sinks_grow_in_a_storm(bench: Bench) -> None:
    driver, victim = bench.open(), bench.client()
    driver.set_policy(replace(ABSORB, grow_after=(2, 100)))
    assert [bench.fault(driver, victim, VA + number * FAR) for number in range(3)] == [0, 0, 0]
    entry = bench.entry(driver, victim)
    assert (entry.sinks, entry.sink_bytes) == (3, 2 * SLOT + GROWN)


def a_client_has_so_many_sinks_and_no_more(bench: Bench) -> None:
    driver, victim = bench.open(), bench.client()
    driver.set_policy(replace(ABSORB, sinks_max=2))
    assert [bench.fault(driver, victim, VA + number * FAR) for number in range(3)] == [0, 0, LIMIT]


def answers_are_about_the_doomed(bench: Bench) -> None:
    driver, victim = bench.open(), bench.client()
    driver.set_policy(ABSORB)
    number = bench.entry(driver, victim).number
    for request in (driver.release, driver.kill):
        refused(errno.EINVAL, partial(request, number))
        refused(errno.ESRCH, partial(request, 1 << 40))
    assert bench.fault(driver, victim, VA) == 0
    refused(errno.EINVAL, lambda: driver.extend(number, 0))
    refused(errno.EINVAL, lambda: driver.extend(number, 600_001))
    driver.extend(number, 1000)
    assert bench.entry(driver, victim).kill_ns == 0, "where there was no deadline there is none"
    driver.release(number)
    assert bench.entry(driver, victim).state == "released"
    counted = driver.stats()
    driver.kill(number)
    assert ended_by_sigkill(victim)
    assert driver.stats().killed == counted.killed + 1
    told = bench.records(driver, lambda found: ("gone", number) in [(one.kind, one.number) for one in found])
    kinds = [one.kind for one in told if one.number == number]
    assert kinds == ["absorbed", "gone"], "killed is told of the kernel's own deadline only"


def the_deadline_of_the_kernel_ends_a_client(bench: Bench) -> None:
    driver, victim = bench.open(), bench.client()
    driver.set_policy(replace(ABSORB, kill_ms=50, hold_ms=0))
    assert bench.fault(driver, victim, VA) == 0
    assert ended_by_sigkill(victim)
    assert bench.last(driver, "killed").client == victim.identity


def a_deadline_that_is_extended_moves(bench: Bench) -> None:
    driver, victim, other = bench.open(), bench.client(), bench.client()
    driver.set_policy(replace(ABSORB, kill_ms=1000, hold_ms=0))
    assert [bench.fault(driver, one, VA) for one in (victim, other)] == [0, 0]
    before = bench.entry(driver, victim)
    driver.extend(before.number, 600_000)
    assert bench.entry(driver, victim).kill_ns > before.kill_ns + 500_000_000_000
    assert ended_by_sigkill(other), "whose deadline has passed"
    assert bench.entry(driver, victim).state == "doomed", "and that of the other one has not"
    assert victim.process.poll() is None
    driver.release(before.number)  # its end is put off as well


def a_doomed_client_that_is_gone_is_a_record(bench: Bench) -> None:
    driver, victim = bench.open(), bench.client()
    driver.set_policy(ABSORB)
    assert bench.fault(driver, victim, VA) == 0
    number = bench.entry(driver, victim).number
    driver.release(number)
    victim.end()
    gone = bench.last(driver, "gone")
    assert (gone.client, gone.number) == (victim.identity, number)
    assert number not in [one.number for one in driver.clients()]
    assert bench.entry(driver, bench.client()).number > number, "no number is used twice"


def the_next_owner_reads_from_the_oldest_record(bench: Bench) -> None:
    driver = bench.open()
    driver.set_policy(ABSORB)
    driver.set_policy(Policy(mode="observe"))
    made = driver.stats().records
    first = bench.records(driver, lambda found: bool(found) and found[-1].seq >= made)
    assert [one.seq for one in first] == list(range(first[0].seq, first[0].seq + len(first)))
    driver.rewind()
    again = bench.records(driver, lambda found: len(found) >= len(first))
    assert again == first
    bench.close(driver)
    taken = bench.records(bench.open(), lambda found: len(found) >= len(first))
    assert taken[: len(first)] == first
    assert {one.load for one in taken} == {bench.drivers[0].describe().load}


def what_is_overwritten_unread_is_counted(bench: Bench) -> None:
    driver = bench.open()
    made = driver.stats().records
    bench.records(driver, lambda found: not made or (bool(found) and found[-1].seq >= made))
    lost = driver.stats().lost
    ring = driver.describe().ring
    for number in range(ring + 10):
        driver.set_policy(Policy(mode=("observe", "absorb")[number % 2]))
    driver.rewind()
    found = bench.records(driver, lambda found: bool(found) and found[-1].seq >= made + ring + 10)
    assert found[0].seq == made + 11
    assert driver.stats().lost == lost + (0 if bench.sends_ahead else 10)


def a_missed_heartbeat_is_stock_behaviour_until_the_next_one(bench: Bench) -> None:
    driver, victim, other = bench.open(), bench.client(), bench.client()
    driver.set_policy(ABSORB)
    assert bench.fault(driver, victim, VA) == 0
    expired = driver.stats().expired
    deadline = time.monotonic() + 20 * bench.heartbeat_s
    while driver.policy().in_force == "absorb":
        assert time.monotonic() < deadline
        select.select([], [], [], bench.heartbeat_s / 20)
    assert driver.policy().mode == "absorb"
    assert driver.stats().expired == expired + 1
    assert bench.fault(driver, other, VA) == STATE
    assert bench.fault(driver, victim, VA + FAR) == 0, "the doomed stay absorbed"
    driver.heartbeat()
    assert driver.policy().in_force == "absorb"
    assert bench.fault(driver, bench.client(), VA) == 0


CHECKS: Final[tuple[Callable[[Bench], None], ...]] = (
    says_what_it_is,
    has_one_owner_at_a_time,
    begins_with_the_default_policy_and_closing_brings_it_back,
    a_policy_is_in_force_as_it_was_set,
    a_change_of_the_mode_is_a_record,
    a_policy_out_of_its_range_changes_nothing,
    an_absorbed_fault_dooms_its_client,
    a_fault_that_is_only_observed_passes,
    a_fault_while_it_is_off_is_no_record,
    a_mode_of_its_own_is_below_that_of_the_policy,
    places_and_units_are_those_of_the_living,
    each_place_is_absorbed_as_far_as_its_room_goes,
    a_fault_of_the_copy_engine_is_its_units_matter,
    a_fault_of_nobody_is_refused,
    the_doomed_stay_absorbed_without_an_owner,
    sinks_grow_in_a_storm,
    a_client_has_so_many_sinks_and_no_more,
    answers_are_about_the_doomed,
    the_deadline_of_the_kernel_ends_a_client,
    a_deadline_that_is_extended_moves,
    a_doomed_client_that_is_gone_is_a_record,
    the_next_owner_reads_from_the_oldest_record,
    what_is_overwritten_unread_is_counted,
    a_missed_heartbeat_is_stock_behaviour_until_the_next_one,
)


def check_driver(bench: Bench) -> dict[str, str]:
    """What became of each check: "ok", or what was wrong."""
    found: dict[str, str] = {}
    for check in CHECKS:
        try:
            check(bench)
        except Exception as error:  # whatever it is, the others are still to be run
            found[check.__name__] = repr(error)
        else:
            found[check.__name__] = "ok"
        finally:
            bench.clear()
    return found


def main() -> int:
    """As the module says; 1 if anything is wrong."""
    found = check_driver(module_bench() if Path("/dev/mpsafe-client").exists() else cuda_bench())
    for name, outcome in found.items():
        sys.stdout.write(f"{name}\t{outcome}\n")
    return 0 if set(found.values()) == {"ok"} else 1


if __name__ == "__main__":
    raise SystemExit(main())
