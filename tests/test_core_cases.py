# SPDX-License-Identifier: Apache-2.0
"""This test will check of the core what a random walk seldom meets: full tables and rings, no memory, ends of time."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

from core.library import GPUS, Core, Fields, Sight, Who, compiled
from core.model import (
    ABSORBED,
    EBADF,
    EBUSY,
    EINVAL,
    EPERM,
    ESRCH,
    GONE,
    GROWN,
    KILLED,
    LIMIT,
    MS,
    NO_MEMORY,
    NOT_SUPPORTED,
    OK,
    SLOT,
    STATE,
    STORM,
)
from core.requests import DEFAULT_POLICY, wrong_fields

KEY: Final = 0x1000
NOW: Final = 10**12
FOREVER: Final = 2**64 - 1
ABSORB: Final[Fields] = DEFAULT_POLICY | {"mode": 2}


@pytest.fixture
def core() -> Iterator[Core]:
    made = Core(64)
    assert made.open(NOW) == 0
    assert made.request("policy_set", ABSORB, NOW)[0] == 0
    assert made.create(KEY, Who(), 9, NOW) == 0
    yield made
    client = made.get(KEY)
    if client:
        for gpu in GPUS:
            made.sinks_drop(client, gpu)
        made.put(client)
        made.destroy(KEY, NOW)
    made.close(NOW)
    made.deinit()
    assert compiled().lib.mpsafe_memory_live() == 0


@pytest.fixture
def client(core: Core) -> Iterator[Any]:
    found = core.get(KEY)
    yield found
    core.put(found)


def fault(core: Core, client: Any, sight: Sight, *, now: int = NOW, cost: int = 0, status: int = OK) -> tuple[int, Any]:
    verdict, sink = core.fault_begin(client, sight, now)
    core.fault_end(client, sight, sink, 1, status, min(now + cost, FOREVER))
    return verdict, sink


@contextmanager
def starved(allocations: int = 0) -> Generator[None]:
    """No memory but for so many allocations."""
    compiled().lib.mpsafe_memory_fail_after(allocations)
    try:
        yield
    finally:
        compiled().lib.mpsafe_memory_fail_after(-1)


def records(core: Core) -> list[Fields]:
    return list(iter(core.read, None))


@pytest.mark.parametrize("ring", [0, 3, 1 << 21])
def test_a_ring_that_is_none(ring: int) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        Core(ring)


@pytest.mark.parametrize("allowed", [0, 1])
def test_no_memory_for_a_core(allowed: int) -> None:
    with starved(allowed), pytest.raises(OSError, match="Cannot allocate memory"):
        Core(16)
    assert compiled().lib.mpsafe_memory_live() == 0


def test_a_thousand_clients_and_more(core: Core) -> None:
    keys = [number * 0x40 for number in range(1, 3001)]
    for key in keys:
        core.create(key, Who(), key, NOW)
    for key in keys:
        found = core.get(key)
        assert int(compiled().ffi.cast("uintptr_t", compiled().lib.mpsafe_core_client_key(found))) == key
        core.put(found)
    for key in keys[::2] + keys[1::2]:
        if key != KEY:
            core.destroy(key, NOW)
    assert core.request("stats", {}, NOW)[2]["clients"] == 1
    assert sorted(core.calls.put) == sorted(keys)  # KEY's own second process is put back: the key was there already


def test_sinks_grow_and_end_at_their_limit(core: Core, client: Any) -> None:
    core.request("policy_set", ABSORB | {"sinks_max": 70}, NOW)
    sizes = [fault(core, client, Sight(va=number * STORM, room=(0, 1 << 47)))[1].size for number in range(70)]
    assert sizes == [SLOT] * 8 + [GROWN] * 56 + [STORM] * 6
    verdict, _ = fault(core, client, Sight(va=100 * STORM, room=(0, 1 << 47)))
    assert verdict == LIMIT
    verdict, sink = fault(core, client, Sight(va=69 * STORM + 5, room=(0, 0)))
    assert (verdict, sink.made, sink.base, sink.size) == (OK, True, 69 * STORM, STORM)


def test_a_sink_is_cut_to_its_room_and_its_neighbours(core: Core, client: Any) -> None:
    core.request("policy_set", ABSORB | {"grow_after": (2, 2**32 - 1)}, NOW)
    fault(core, client, Sight(va=GROWN + 4 * SLOT, room=(0, 1 << 47)))
    fault(core, client, Sight(va=GROWN + 9 * SLOT, room=(0, 1 << 47)))
    _, between = fault(core, client, Sight(va=GROWN + 6 * SLOT, room=(0, 1 << 47)))
    assert (between.base, between.size) == (GROWN + 5 * SLOT, 4 * SLOT)
    _, before = fault(core, client, Sight(va=GROWN + 3 * SLOT, room=(GROWN + 2 * SLOT, 1 << 47)))
    assert (before.base, before.size) == (GROWN + 2 * SLOT, 2 * SLOT)
    _, elsewhere = fault(core, client, Sight(va=GROWN + 6 * SLOT, room=(0, 1 << 47), gpu=GPUS[1]))
    assert (elsewhere.base, elsewhere.size) == (GROWN, GROWN)


@pytest.mark.parametrize("room", [(0, 0), (SLOT, SLOT), (0, SLOT), (2 * SLOT, 9 * SLOT)])
def test_no_room(core: Core, client: Any, room: tuple[int, int]) -> None:
    assert fault(core, client, Sight(va=SLOT + 5, room=room))[0] == NOT_SUPPORTED


def test_a_fault_without_memory_passes_and_leaves_nothing(core: Core, client: Any) -> None:
    lib = compiled().lib
    live = lib.mpsafe_memory_live()
    with starved():
        assert fault(core, client, Sight())[0] == NO_MEMORY
    assert lib.mpsafe_memory_live() == live
    assert not core.any_doomed()
    for number in range(16):
        fault(core, client, Sight(va=number * STORM, room=(0, 1 << 47)))
    with starved():
        verdict, sink = fault(core, client, Sight(va=3 * STORM))
        assert (verdict, sink.made) == (OK, True)
        assert fault(core, client, Sight(va=1 << 40, room=(0, 1 << 47)))[0] == NO_MEMORY
    assert fault(core, client, Sight(va=1 << 40, room=(0, 1 << 47)))[0] == OK


def test_a_doomed_client_stays_absorbed(core: Core, client: Any) -> None:
    fault(core, client, Sight())
    core.request("client_mode", {"client": 1, "mode": 0, "reserved": (0, 0, 0)}, NOW)
    core.request("policy_set", ABSORB | {"mode": 0, "places": 0, "units": 0}, NOW)
    assert fault(core, client, Sight(va=0, room=(0, SLOT), place=2, unit=2))[0] == OK
    core.close(NOW)
    assert fault(core, client, Sight(va=SLOT, room=(0, 1 << 47), place=3))[0] == OK
    assert fault(core, client, Sight(va=1 << 40, place=4, room=(0, 1 << 47)))[0] == NOT_SUPPORTED
    core.open(NOW)
    core.request("answer", {"client": 1, "action": 1, "ms": 0}, NOW)
    assert fault(core, client, Sight(va=1 << 40, room=(0, 1 << 47)))[0] == OK
    assert core.request("client_next", {"client": 0}, NOW)[2]["state"] == 3


def test_a_budget_ends_what_a_sink_does_not_help(core: Core, client: Any) -> None:
    fault(core, client, Sight(), cost=2_000_000_000 - 1)
    assert fault(core, client, Sight(), cost=1)[0] == OK
    assert fault(core, client, Sight())[0] == LIMIT


def test_the_ends_of_time(core: Core, client: Any) -> None:
    core.request("policy_set", ABSORB | {"kill_ms": 600_000}, NOW)
    _, sink = core.fault_begin(client, Sight(), NOW)
    core.fault_end(client, Sight(), sink, 1, OK, FOREVER)
    core.heartbeat(FOREVER)
    record = records(core)[-2]
    assert (record["type"], record["latency_ns"]) == (ABSORBED, 2**32 - 1)
    assert core.request("client_next", {"client": 0}, FOREVER)[2]["kill_ns"] == FOREVER
    assert fault(core, client, Sight(), now=0)[0] == LIMIT


def test_a_deadline_kills_once(core: Core, client: Any) -> None:
    core.request("policy_set", ABSORB | {"kill_ms": 100}, NOW)
    fault(core, client, Sight())
    assert core.tick(NOW) == NOW + 100 * MS
    core.request("answer", {"client": 1, "action": 2, "ms": 300}, NOW)
    assert core.tick(NOW + 299 * MS) == NOW + 300 * MS
    core.tick(NOW + 300 * MS)
    core.tick(NOW + 400 * MS)
    assert core.calls.killed == [9]
    assert [record["type"] for record in records(core)].count(KILLED) == 1


def test_where_there_is_no_deadline_none_is_made(core: Core, client: Any) -> None:
    fault(core, client, Sight())
    core.request("answer", {"client": 1, "action": 2, "ms": 300}, NOW)
    assert core.request("client_next", {"client": 0}, NOW)[2]["kill_ns"] == 0
    core.tick(NOW + 1000 * MS)
    assert core.calls.killed == []


def test_nobody_is_killed_where_there_is_no_process(core: Core) -> None:
    core.request("policy_set", ABSORB | {"kill_ms": 100}, NOW)
    core.create(KEY + 1, Who(), 0, NOW)
    client = core.get(KEY + 1)
    fault(core, client, Sight())
    assert core.request("client_next", {"client": 1}, NOW)[2]["kill_ns"] == 0
    assert core.request("answer", {"client": 2, "action": 3, "ms": 0}, NOW)[0] == -ESRCH
    core.tick(NOW + 1000 * MS)
    assert core.calls.killed == []
    core.sinks_drop(client, Sight().gpu)
    core.put(client)
    core.destroy(KEY + 1, NOW)


def test_the_end_of_one_that_was_released_is_told(core: Core, client: Any) -> None:
    fault(core, client, Sight())
    core.request("answer", {"client": 1, "action": 1, "ms": 0}, NOW)
    core.sinks_drop(client, Sight().gpu)
    core.destroy(KEY, NOW)
    assert [record["type"] for record in records(core)][-1] == GONE
    assert core.request("stats", {}, NOW)[2]["doomed"] == 0


def test_the_doomed_keep_the_limits_that_were_set_last(core: Core, client: Any) -> None:
    core.request("policy_set", ABSORB | {"sinks_max": 1}, NOW)
    fault(core, client, Sight())
    core.close(NOW)
    assert fault(core, client, Sight(va=1 << 40, room=(0, 1 << 47)))[0] == LIMIT
    core.open(NOW)


def test_a_hold_is_started_once_and_ends_with_its_release(core: Core, client: Any) -> None:
    assert core.hold(client, NOW) == 0
    fault(core, client, Sight())
    assert core.hold(client, NOW) == 2000 * MS
    assert core.hold(client, NOW + MS) == 1999 * MS
    core.request("answer", {"client": 1, "action": 2, "ms": 5000}, NOW + MS)
    assert core.hold(client, NOW + MS) == 5000 * MS
    core.request("answer", {"client": 1, "action": 1, "ms": 0}, NOW + MS)
    assert core.hold(client, NOW + MS) == 0


def test_a_missed_heartbeat_and_its_return(core: Core, client: Any) -> None:
    assert core.tick(NOW + 5000 * MS) == NOW + 5000 * MS + 1
    assert core.tick(NOW + 5000 * MS + 1) == 0
    assert fault(core, client, Sight(), now=NOW + 5000 * MS + 2)[0] == STATE
    core.heartbeat(NOW + 6000 * MS)
    assert [(record["type"], record["mode"]) for record in records(core)] == [(1, 2), (1, 0), (1, 2)]
    assert core.request("stats", {}, NOW + 6000 * MS)[2]["expired"] == 1


def test_what_nobody_read_is_lost_also_without_an_owner(core: Core, client: Any) -> None:
    fault(core, client, Sight())
    assert len(records(core)) == 2
    core.close(NOW)
    for _ in range(70):
        fault(core, client, Sight())
    core.open(NOW)
    stats = core.request("stats", {}, NOW)[2]
    assert (stats["records"], stats["lost"]) == (73, 73 - 64 - 2)
    assert [record["seq"] for record in records(core)] == list(range(10, 74))


def test_one_owner(core: Core) -> None:
    assert core.open(NOW) == -EBUSY
    core.close(NOW)
    assert core.request("stats", {}, NOW)[0] == -EBADF
    assert core.open(NOW) == 0
    assert core.request("policy_get", {}, NOW)[2] == DEFAULT_POLICY


def test_only_where_injection_is_allowed() -> None:
    core = Core(inject=False)
    core.open(NOW)
    assert core.request("inject", {"fault": 1}, NOW)[0] == -EPERM
    core.close(NOW)
    core.deinit()


INJECTION: Final[Fields] = {"client": 1, "va": 5, "access": 3, "fault": 4, "unit": 2, "place": 5, "reserved": 0}


def test_an_injection_goes_to_the_driver(core: Core) -> None:
    result, wrong, after = core.request("inject", INJECTION, NOW)
    assert (result, wrong, after["status"]) == (0, None, NOT_SUPPORTED)
    assert core.calls.injected[0] | {"key": KEY} == core.calls.injected[0]


@pytest.mark.parametrize(
    ("name", "fields", "value"),
    [
        *[("inject", INJECTION, wrong) for wrong in ({"access": 4}, {"fault": 0}, {"fault": 5}, {"unit": 3})],
        *[("inject", INJECTION, wrong) for wrong in ({"place": 6}, {"reserved": 1})],
        *[("policy_set", ABSORB, wrong) for wrong in ({"mode": 3}, {"in_force": 1}, {"places": 1}, {"places": 16})],
        *[("policy_set", ABSORB, wrong) for wrong in ({"units": 1}, {"units": 8}, {"sinks_max": 0})],
        *[("policy_set", ABSORB, wrong) for wrong in ({"sinks_max": 4097}, {"budget_us": 0}, {"hold_ms": 60_001})],
        *[("policy_set", ABSORB, wrong) for wrong in ({"budget_us": 60_000_001}, {"kill_ms": 600_001})],
        *[("policy_set", ABSORB, wrong) for wrong in ({"grow_after": (2, 1)}, {"reserved": (0, 0, 1)})],
        *[("client_mode", {"client": 1, "mode": 2, "reserved": (0, 0, 0)}, wrong) for wrong in ({"mode": 3},)],
        ("client_mode", {"client": 1, "mode": 2, "reserved": (0, 0, 0)}, {"reserved": (0, 1, 0)}),
        ("client_next", {"client": 0, "reserved": 0}, {"reserved": 1}),
        *[("answer", {"client": 1, "action": 2, "ms": 1}, wrong) for wrong in ({"action": 0}, {"action": 4})],
        *[("answer", {"client": 1, "action": 2, "ms": 1}, wrong) for wrong in ({"ms": 0}, {"ms": 600_001})],
        ("answer", {"client": 1, "action": 1, "ms": 0}, {"ms": 1}),
        *[("hello", {"size": 72, "abi": 1, "reserved": 0}, wrong) for wrong in ({"size": 71}, {"reserved": 1})],
    ],
)
def test_a_field_out_of_its_range(core: Core, client: Any, name: str, fields: Fields, value: Fields) -> None:
    fault(core, client, Sight())
    before = core.request("stats", {}, NOW), core.request("policy_get", {}, NOW)
    result, wrong, _ = core.request(name, fields | value, NOW)
    assert result == -EINVAL
    assert wrong in wrong_fields(name, fields | value)
    assert (core.request("stats", {}, NOW), core.request("policy_get", {}, NOW)) == before
    assert core.request(name, fields, NOW)[0] == 0


def test_a_client_that_there_is_not(core: Core) -> None:
    requests: list[tuple[str, Fields]] = [
        ("client_mode", {"client": 2, "mode": 1, "reserved": (0, 0, 0)}),
        ("answer", {"client": 2, "action": 1, "ms": 0}),
        ("inject", INJECTION | {"client": 2}),
    ]
    for name, fields in requests:
        assert core.request(name, fields, NOW)[:2] == (-ESRCH, "client")
    assert core.request("answer", {"client": 1, "action": 1, "ms": 0}, NOW)[:2] == (-EINVAL, "client")
    assert core.raw_request(0xE7FF, compiled().ffi.NULL, NOW) == (-25, None)
