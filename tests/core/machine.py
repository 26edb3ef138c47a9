# SPDX-License-Identifier: Apache-2.0
"""The core and its model, walked together at random: each answer, each record and each count is compared."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final, cast

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from typing_extensions import override

from core.library import GPUS, Core, Fields, Sight, Who, compiled
from core.model import ABSORB, GROWN, LIVE, MS, NO_MEMORY, OK, SLOT, Client, Model, Sink
from core.requests import DEFAULT_POLICY, policies, requests

__all__ = ["CoreMachine"]

KEYS: Final = st.integers(1, 6).map(lambda number: number << 12)
END: Final = 1 << 49
# Time passes by a hair, by what a fault costs, backwards; and, where that is the point, to the edges of deadlines.
STEPS: Final = st.sampled_from([0, 0, 1, 1000, MS, 3 * MS, 500 * MS, -1, -MS])
LEAPS: Final = st.sampled_from([2000 * MS - 1, 2500 * MS, 5000 * MS, 5000 * MS + 1, 600_000 * MS])
COSTS: Final = st.sampled_from([0, 100, 500])
IDENTITIES: Final = st.builds(
    Who,
    tgid=st.integers(-(2**31), 2**31 - 1),
    uid=st.integers(0, 2**32 - 1),
    start_ticks=st.integers(0, 2**64 - 1),
    comm=st.binary(max_size=16).map(lambda text: text.partition(b"\0")[0]),
)


def _armed(limits: Mapping[str, object]) -> Fields:
    return cast(Fields, {**DEFAULT_POLICY, **limits, "mode": ABSORB})


# Limits that a few faults reach.
TIGHT: Final[st.SearchStrategy[Fields]] = st.fixed_dictionaries(
    {
        "places": st.sampled_from([0b1110, 0b0010, 0b1100]),
        "units": st.sampled_from([0b110, 0b010]),
        "sinks_max": st.sampled_from([1, 2, 4, 8, 8]),
        "budget_us": st.sampled_from([1, 2, 1000, 2_000_000, 2_000_000]),
        "grow_after": st.sampled_from([(0, 0), (0, 1), (1, 1), (1, 2), (1, 3), (2, 4)]),
        "hold_ms": st.sampled_from([0, 1, 2000]),
        "kill_ms": st.sampled_from([0, 0, 1, 600]),
    }
).map(_armed)


def _near(region: int, half: int) -> int:
    return 0x7000_0000_0000 + region * GROWN + half * SLOT // 2


@st.composite
def sights(draw: st.DrawFn) -> Sight:
    """Mostly what a sink can take, close to one another; one in eight is anything."""
    odd = draw(st.integers(0, 7)) == 7
    near = st.builds(_near, st.integers(0, 4), st.integers(0, 7) | st.just(63))
    va = draw(st.integers(0, END - 1) | st.sampled_from([0, 2**64 - 1, 2**64 - SLOT - 1]) if odd else near)
    slots = st.sampled_from([0, 1, 2] if odd else [1, 2, 33, 8192, 100_000, 100_000])
    start = max(0, va // SLOT - draw(slots)) * SLOT
    end = min(2**64 - SLOT, (va // SLOT + draw(slots)) * SLOT)
    return Sight(
        va=va,
        room=(start, max(start, end)),
        access=draw(st.integers(0, 3)),
        fault=draw(st.integers(0, 5) if odd else st.integers(1, 3)),
        place=draw(st.sampled_from([0, 3, 4, 5, 6, 31, 32, 0xFFFF]) if odd else st.integers(1, 3)),
        unit=draw(st.sampled_from([0, 1, 3, 32]) if odd else st.integers(1, 2)),
        veid=draw(st.integers(0, 0xFFFF)),
        gpc=draw(st.integers(0, 0xFFFF)),
        gpu=draw(st.sampled_from(GPUS)),
    )


class CoreMachine(RuleBasedStateMachine):
    """Keys stand for VA spaces; `held` are references that outlive them; `open_faults` wait for their end."""

    @initialize(ring=st.sampled_from([1, 2, 4, 64]), inject=st.booleans(), policy=TIGHT)
    def load(self, ring: int, inject: bool, policy: Fields) -> None:
        self.lib = compiled().lib
        self.live = self.lib.mpsafe_memory_live()  # of a walk that failed before
        self.inject = inject
        self.core = Core(ring, inject=inject)
        self.model = Model(ring)
        self.clock = 10**15
        self.processes = 0
        self.backings = 0
        self.freed: list[int] = []
        self.held: list[tuple[Any, Client]] = []
        self.open_faults: dict[int, tuple[Any, Client, Sight, Any, Sink | None]] = {}
        for key in (1 << 12, 2 << 12):
            self.create(key, Who(), 0, 1, 1)
            self.hold_reference(key)
        self.arm(policy)

    def arm(self, policy: Fields) -> None:
        """An owner whose heart beats, and a policy that absorbs."""
        if not self.model.owned:
            self.open(0)
        self.heartbeat(0)
        if self.model.in_force != ABSORB:
            self.ask(("policy_set", policy), 0)

    def pass_time(self, step: int) -> int:
        self.clock += step
        self.model.at(self.clock)
        return self.clock

    # The driver's side.

    @rule(key=KEYS, who=IDENTITIES, step=STEPS, anonymous=st.integers(0, 9), starved=st.integers(0, 9))
    def create(self, key: int, who: Who, step: int, anonymous: int, starved: int) -> None:
        self.processes += 1
        process = self.processes if anonymous else 0
        if starved == 0:
            self.lib.mpsafe_memory_fail_after(0)
            assert self.core.create(key, who, process, self.clock) == -12
            self.lib.mpsafe_memory_fail_after(-1)
            self.freed += [process] if process else []
            return
        now = self.pass_time(step)
        result = self.model.create(key, who, process)
        assert self.core.create(key, who, process, now) == result
        if result:
            self.freed += [process] if process else []

    @rule(key=KEYS, step=STEPS, sure=st.integers(0, 2))
    def maybe_destroy(self, key: int, step: int, sure: int) -> None:
        if sure == 0:
            self.destroy(key, step)

    def destroy(self, key: int, step: int) -> None:
        client = self.model.clients.get(key)
        if client is None:
            self.core.destroy(key, self.clock)
            return
        if client.pending:
            return
        for gpu in GPUS:
            self.drop(key, gpu)
        now = self.pass_time(step)
        self.model.destroy(key)
        self.core.destroy(key, now)
        if client.process and not any(held is client for _, held in self.held):
            self.freed.append(client.process)

    @rule(key=KEYS, gpu=st.sampled_from(GPUS))
    def drop(self, key: int, gpu: bytes) -> None:
        client = self.model.clients.get(key)
        if client is None or client.pending:
            return
        pointer = self.core.get(key)
        self.core.calls.dropped.clear()
        self.core.sinks_drop(pointer, gpu)
        self.core.put(pointer)
        assert self.core.calls.dropped == self.model.sinks_drop(client, gpu)

    @rule(key=KEYS)
    def hold_reference(self, key: int) -> None:
        pointer = self.core.get(key)
        client = self.model.clients.get(key)
        assert (pointer is None) == (client is None)
        if client:
            assert self.core.get_by_id(client.number) == pointer
            self.core.put(pointer)
            self.held.append((pointer, client))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def put_reference(self, data: st.DataObject) -> None:
        pointer, client = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        if client.pending and not any(held is client for _, held in self.held):
            self.held.append((pointer, client))
            return
        self.core.put(pointer)
        if client.gone and client.process and not any(held is client for _, held in self.held):
            self.freed.append(client.process)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), sight=sights(), step=STEPS, starved=st.integers(0, 5))
    def fault_begins(self, data: st.DataObject, sight: Sight, step: int, starved: int) -> None:
        pointer, client = data.draw(st.sampled_from(self.held))
        if client.pending:
            return
        now = self.pass_time(step)
        expected, sink, there = self.model.fault_begin(client, sight, now)
        self.lib.mpsafe_memory_fail_after(0 if starved == 0 else -1)
        verdict, made = self.core.fault_begin(pointer, sight, now)
        self.lib.mpsafe_memory_fail_after(-1)
        self.open_faults[client.number] = (pointer, client, sight, made, sink)
        if verdict == NO_MEMORY:
            assert (starved, expected, there) == (0, OK, False)
            self.model.starve(client)
            return
        assert verdict == expected
        if sink:
            assert (made.base, made.size, made.made) == (sink.base, sink.size, there)

    @precondition(lambda self: self.open_faults)
    @rule(data=st.data(), step=STEPS, status=st.sampled_from([OK, OK, OK, OK, 0x65]), backed=st.booleans())
    def fault_ends(self, data: st.DataObject, step: int, status: int, backed: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.open_faults)))
        pointer, client, sight, made, sink = self.open_faults.pop(number)
        self.backings += 1
        backing = self.backings if backed else 0
        now = self.pass_time(step)
        self.model.fault_end(client, sight, sink, backing, status, now)
        self.core.fault_end(pointer, sight, made, backing, status, now)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), policy=TIGHT, storm=st.lists(sights(), min_size=1, max_size=16), cost=COSTS)
    def storm(self, data: st.DataObject, policy: Fields, storm: list[Sight], cost: int) -> None:
        self.arm(policy)
        pointer, client = data.draw(st.sampled_from(self.held))
        if not client.pending:
            self.absorb(pointer, client, storm, cost)

    @precondition(lambda self: any(client.state == LIVE and not client.pending for _, client in self.held))
    @rule(data=st.data(), policy=TIGHT, mode=st.sampled_from([0, 1, 2, 0xFFFF]), sight=sights())
    def fault_of_a_client_in_its_own_mode(self, data: st.DataObject, policy: Fields, mode: int, sight: Sight) -> None:
        self.arm(policy)
        live = [(pointer, client) for pointer, client in self.held if client.state == LIVE and not client.pending]
        pointer, client = data.draw(st.sampled_from(live))
        if not client.gone:
            self.ask(("client_mode", {"client": client.number, "mode": mode, "reserved": (0, 0, 0)}), 0)
        self.absorb(pointer, client, [sight], 0)

    def absorb(self, pointer: Any, client: Client, sights: list[Sight], cost: int) -> None:
        for sight in sights:
            now = self.pass_time(100)
            expected, sink, there = self.model.fault_begin(client, sight, now)
            verdict, made = self.core.fault_begin(pointer, sight, now)
            assert verdict == expected
            if sink:
                assert (made.base, made.size, made.made) == (sink.base, sink.size, there)
            now = self.pass_time(cost)
            self.model.fault_end(client, sight, sink, 1, OK, now)
            self.core.fault_end(pointer, sight, made, 1, OK, now)

    @rule(sight=sights(), step=STEPS)
    def orphan(self, sight: Sight, step: int) -> None:
        now = self.pass_time(step)
        self.model.orphan(sight)
        self.core.orphan(sight, now)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), step=STEPS | LEAPS)
    def hold_and_refuse(self, data: st.DataObject, step: int) -> None:
        pointer, client = data.draw(st.sampled_from(self.held))
        now = self.pass_time(step)
        assert self.core.hold(pointer, now) == self.model.hold(client)
        assert self.core.refuses(pointer) == self.model.refuses(client)

    # The owner's side.

    @rule(step=STEPS)
    def open(self, step: int) -> None:
        now = self.pass_time(step)
        assert self.core.open(now) == self.model.open()

    @precondition(lambda self: self.model.owned)
    @rule(step=STEPS, sure=st.integers(0, 3))
    def close(self, step: int, sure: int) -> None:
        if sure == 0:
            now = self.pass_time(step)
            self.model.close()
            self.core.close(now)

    @rule(policy=policies, step=STEPS)
    def set_policy(self, policy: Fields, step: int) -> None:
        self.ask(("policy_set", policy), step)

    @precondition(lambda self: self.model.clients)
    @rule(data=st.data(), action=st.integers(1, 3), ms=st.sampled_from([1, 600, 3000, 600_000]), step=STEPS)
    def answer(self, data: st.DataObject, action: int, ms: int, step: int) -> None:
        client = data.draw(st.sampled_from(list(self.model.clients.values())))
        self.ask(("answer", {"client": client.number, "action": action, "ms": ms if action == 2 else 0}), step)
        pointer = self.core.get(client.key)
        assert self.core.hold(pointer, self.clock) == self.model.hold(client)
        self.core.put(pointer)

    @precondition(lambda self: self.model.clients)
    @rule(data=st.data(), mode=st.sampled_from([0, 1, 2, 2, 0xFFFF, 0xFFFF]), step=STEPS)
    def set_client_mode(self, data: st.DataObject, mode: int, step: int) -> None:
        client = data.draw(st.sampled_from(list(self.model.clients.values())))
        self.ask(("client_mode", {"client": client.number, "mode": mode, "reserved": (0, 0, 0)}), step)

    @rule(number=st.integers(0, 8))
    def look_around(self, number: int) -> None:
        self.ask(("stats", {}), 0)
        self.ask(("policy_get", {}), 0)
        self.ask(("client_next", {"client": number, "reserved": 0}), 0)
        self.ask(("hello", {"size": 72, "abi": 1, "reserved": 0}), 0)

    @rule(drawn=requests, step=STEPS)
    def ask(self, drawn: tuple[str, Fields], step: int) -> None:
        name, fields = drawn
        now = self.pass_time(step)
        self.core.calls.injected.clear()
        result, wrong, after = self.core.request(name, fields, now)
        expected, candidates, changed = self.model.request(name, fields, inject=self.inject)
        assert result == expected, (name, fields)
        assert wrong in candidates or (wrong is None and not candidates)
        assert {key: after[key] for key in fields | changed} == dict(fields) | dict(changed)
        assert len(self.core.calls.injected) == (name == "inject" and result == 0)

    @rule(step=STEPS)
    def heartbeat(self, step: int) -> None:
        now = self.pass_time(step)
        assert self.core.heartbeat(now) == self.model.heartbeat()

    @rule(step=STEPS | LEAPS)
    def tick(self, step: int) -> None:
        now = self.pass_time(step)
        assert self.core.tick(now) == self.model.tick()

    @rule(times=st.integers(1, 5))
    def read(self, times: int) -> None:
        for _ in range(times):
            assert self.core.read() == self.model.read()

    @rule(times=st.integers(0, 5))
    def rewind(self, times: int) -> None:
        self.read(times)
        self.model.read_to = 0
        self.core.rewind()

    # What holds at every instant.

    @invariant()
    def readers_and_counts_agree(self) -> None:
        assert self.core.readable() == self.model.readable()
        assert self.core.any_doomed() == (self.model.stats()["doomed"] != 0)
        assert self.core.calls.killed == self.model.killed
        assert sorted(self.core.calls.put) == sorted(self.freed)
        assert self.core.calls.wakes >= (1 if self.model.records else 0)

    @precondition(lambda self: self.model.owned)
    @invariant()
    def what_an_owner_sees_agrees(self) -> None:
        self.ask(("stats", {}), 0)
        for client in self.model.clients.values():
            self.ask(("client_next", {"client": client.number - 1, "reserved": 0}), 0)

    @invariant()
    def sinks_do_not_overlap(self) -> None:
        for client in self.model.clients.values():
            spans = sorted((sink.gpu, sink.base, sink.base + sink.size) for sink in client.sinks)
            assert all(a[0] != b[0] or a[2] <= b[1] for a, b in pairwise(spans))
            assert all(base % SLOT == 0 and end % SLOT == 0 for _, base, end in spans)

    @override
    def teardown(self) -> None:
        for pointer, client, sight, made, sink in self.open_faults.values():
            self.model.fault_end(client, sight, sink, 0, OK, self.clock)
            self.core.fault_end(pointer, sight, made, 0, OK, self.clock)
        if not self.model.owned:
            self.open(0)
        assert self.core.request("stats", {}, self.clock)[2] == self.model.stats()
        self.rewind(0)
        while (record := self.core.read()) is not None:
            assert record == self.model.read()
        assert self.model.read() is None
        for pointer, _ in self.held:
            self.core.put(pointer)
        for key in list(self.model.clients):
            self.open_faults.clear()
            self.destroy(key, 0)
        self.core.close(self.clock)
        self.core.deinit()
        assert self.lib.mpsafe_memory_live() == self.live
