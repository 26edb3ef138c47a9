# SPDX-License-Identifier: Apache-2.0
"""This test will play with the software device at random and hold it to what MPS's documentation says."""

from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mpsafe.soft.machine import Machine
from mpsafe.soft.parts import Absorbed, CudaError, Device, Fatal, Gone, Process

DEVICES = 3
TOTAL_BYTES = 100
RESULTS = {"trap": 719, "misaligned": 716, "illegal_instruction": 715, "pde": 700, "ro": 700}


def machine() -> Machine:
    return Machine([Device(index, f"GPU-{index}", "0000:01:00.0", "soft", TOTAL_BYTES, 8) for index in range(DEVICES)])


def refusal(call: object) -> int:
    """The result with which a call is refused."""
    assert callable(call)
    with pytest.raises(CudaError) as refused:
        call()
    return refused.value.result


@dataclass(eq=False)
class Shadow:
    """What the test believes of one process."""

    process: Process
    channels: dict[int, tuple[int, int]] = field(default_factory=lambda: dict[int, tuple[int, int]]())
    holds: dict[tuple[int, int], int] = field(default_factory=lambda: dict[tuple[int, int], int]())
    error: int = 0
    doomed: bool = False


class Host(RuleBasedStateMachine):
    """Servers with one group each, and processes that open channels in these groups or in their own."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = machine()
        self.shadows: list[Shadow] = []
        self.groups: dict[int, Process] = {}
        self.dead_on: dict[int, set[int]] = {}
        self.sizes: dict[tuple[int, int], int] = {}
        self.pids = 100

    def born(self, role: str) -> Process:
        self.pids += 1
        return self.machine.connect(pid=self.pids, uid=1000, start_ticks=1, comm="test", role=role)

    def on(self, group: int, devices: set[int]) -> list[Shadow]:
        """Those with a channel of the group on one of these devices."""
        return [s for s in self.shadows if any(g == group and d in devices for d, g in s.channels.values())]

    def reach(self, group: int, device: int) -> tuple[set[int], list[Shadow]]:
        """The documentation's example in words: the devices of all who are on the device, all who are on these."""
        devices = {d for s in self.on(group, {device}) for d, g in s.channels.values() if g == group}
        return devices, self.on(group, devices)

    @initialize(data=st.data(), modes=st.sampled_from(("off", "absorb")))
    def a_host_is_busy(self, data: st.DataObject, modes: Literal["off", "absorb"]) -> None:
        self.machine.mode = modes
        self.a_server_starts()
        for _ in range(4):
            self.a_process_starts()
            self.a_context_is_made(data)

    @precondition(lambda self: len(self.shadows) < 6)
    @rule()
    def a_process_starts(self) -> None:
        self.shadows.append(Shadow(self.born("cuda")))

    @precondition(lambda self: len(self.groups) < 2)
    @rule()
    def a_server_starts(self) -> None:
        owner = self.born("mps")
        group = self.machine.create_group(owner, shared=True).number
        self.groups[group] = owner
        self.dead_on[group] = set()

    @precondition(lambda self: len(self.shadows) > 3)
    @rule(data=st.data())
    def a_process_ends(self, data: st.DataObject) -> None:
        shadow = data.draw(st.sampled_from(self.shadows))
        effects = self.machine.disconnect(shadow.process)
        private = shadow.process.group.number if shadow.process.group else 0
        shared = {group for _, group in shadow.channels.values()} - {private}
        assert {effect.group for effect in effects if isinstance(effect, Gone)} == shared
        self.shadows.remove(shadow)
        for key in shadow.holds:
            self.forget_size(key)

    @precondition(lambda self: len(self.groups) > 1)
    @rule(data=st.data())
    def a_server_ends(self, data: st.DataObject) -> None:
        group = data.draw(st.sampled_from(sorted(self.groups)))
        self.machine.disconnect(self.groups.pop(group))
        for shadow in self.on(group, set(range(DEVICES))):
            shadow.error = shadow.error or 806

    @rule(data=st.data())
    def a_context_is_made(self, data: st.DataObject) -> None:
        shadow = data.draw(st.sampled_from(self.shadows))
        device = data.draw(st.integers(0, DEVICES - 1))
        group = data.draw(st.sampled_from([0, *self.dead_on]))

        def call() -> None:
            channel = self.machine.open(shadow.process, device, group)
            shadow.channels[channel.number] = (device, channel.group.number)
            self.dead_on.setdefault(channel.group.number, set())

        if shadow.error:
            assert refusal(call) == shadow.error
        elif group and group not in self.groups:
            assert refusal(call) == 1, "a server's group that is gone, or somebody's own"
        elif group and self.dead_on[group]:
            assert refusal(call) == 807
        else:
            call()

    @precondition(lambda self: self.with_channels())
    @rule(data=st.data())
    def a_context_is_destroyed(self, data: st.DataObject) -> None:
        shadow = data.draw(st.sampled_from(self.with_channels()))
        number = data.draw(st.sampled_from(sorted(shadow.channels)))
        self.machine.close(shadow.process, number)
        del shadow.channels[number]

    @rule(mode=st.sampled_from(("off", "observe", "absorb")))
    def the_mode_changes(self, mode: Literal["off", "observe", "absorb"]) -> None:
        self.machine.mode = mode

    @precondition(lambda self: self.with_channels())
    @rule(
        data=st.data(),
        kind=st.sampled_from(("mmu pde", "mmu ro", "sm trap", "sm misaligned", "sm illegal_instruction")),
        page=st.integers(0, 3),
    )
    def a_warp_faults(self, data: st.DataObject, kind: str, page: int) -> None:
        shadow = data.draw(st.sampled_from(self.with_channels()))
        fault_class, detail = kind.split()
        number = data.draw(st.sampled_from(sorted(shadow.channels)))
        device, group = shadow.channels[number]
        effect = self.machine.fault(shadow.process, number, fault_class, detail, page << 16, "write")
        if shadow.error:
            assert isinstance(effect, Fatal) and effect.victims == (), "who has failed cannot fail others"
        elif fault_class == "mmu" and (shadow.doomed or self.machine.mode == "absorb"):
            assert isinstance(effect, Absorbed)
            shadow.doomed = True
        else:
            assert isinstance(effect, Fatal)
            devices, reached = self.reach(group, device)
            assert set(effect.devices) == devices
            assert set(effect.victims) == {s.process for s in reached if not s.error}
            self.dead_on[group] |= devices
            for victim in reached:
                victim.error = victim.error or RESULTS[detail]

    @rule(data=st.data())
    def a_client_is_terminated(self, data: st.DataObject) -> None:
        group = data.draw(st.sampled_from(sorted(self.groups)))
        there = self.on(group, set(range(DEVICES)))
        owner = self.groups[group]
        if not there:
            assert refusal(lambda: self.machine.terminate(owner, group, 1)) == 201
            return
        victim = data.draw(st.sampled_from(there))
        effects = self.machine.terminate(owner, group, victim.process.pid)
        assert Gone(victim.process, group) in effects
        victim.channels.clear()
        victim.error = victim.error or 810

    @rule(data=st.data())
    def a_server_makes_its_contexts_anew(self, data: st.DataObject) -> None:
        group = data.draw(st.sampled_from(sorted(self.groups)))
        owner = self.groups[group]
        if self.on(group, self.dead_on[group]):
            assert refusal(lambda: self.machine.recreate(owner, group)) == 807
        else:
            self.machine.recreate(owner, group)
            self.dead_on[group].clear()

    @rule(data=st.data(), key=st.tuples(st.integers(0, DEVICES - 1), st.integers(1, 2)), size=st.integers(-1, 60))
    def memory_is_held(self, data: st.DataObject, key: tuple[int, int], size: int) -> None:
        shadow = data.draw(st.sampled_from(self.shadows))
        device, number = key
        if shadow.doomed:
            assert refusal(lambda: self.machine.alloc(shadow.process, device, number, size)) == 304
            return
        used = sum(held for (d, _), held in self.sizes.items() if d == device)
        if key not in self.sizes and not 0 < size <= TOTAL_BYTES - used:
            assert refusal(lambda: self.machine.alloc(shadow.process, device, number, size)) == 2
            return
        self.machine.alloc(shadow.process, device, number, size)
        self.sizes.setdefault(key, size)
        shadow.holds[key] = shadow.holds.get(key, 0) + 1

    @rule(data=st.data(), key=st.tuples(st.integers(0, DEVICES - 1), st.integers(1, 2)))
    def memory_is_let_go(self, data: st.DataObject, key: tuple[int, int]) -> None:
        shadow = data.draw(st.sampled_from(self.shadows))
        if key not in shadow.holds:
            assert refusal(lambda: self.machine.free(shadow.process, *key)) == 1
            return
        self.machine.free(shadow.process, *key)
        shadow.holds[key] -= 1
        if not shadow.holds[key]:
            del shadow.holds[key]
            self.forget_size(key)

    def forget_size(self, key: tuple[int, int]) -> None:
        if not any(key in shadow.holds for shadow in self.shadows):
            del self.sizes[key]

    def with_channels(self) -> list[Shadow]:
        """The processes that have contexts."""
        return [shadow for shadow in self.shadows if shadow.channels]

    @invariant()
    def a_device_is_charged_once_for_what_is_held(self) -> None:
        for device in range(DEVICES):
            assert self.machine.used_bytes(device) == sum(s for (d, _), s in self.sizes.items() if d == device)

    @invariant()
    def errors_are_those_expected_and_stay(self) -> None:
        assert {s.process: s.error for s in self.shadows} == {s.process: s.process.error for s in self.shadows}
        assert [s.process.doomed for s in self.shadows] == [s.doomed for s in self.shadows]

    @invariant()
    def those_with_channels_are_listed(self) -> None:
        for device in range(DEVICES):
            listed = {process for process, _, _ in self.machine.running(device)}
            assert listed == {s.process for s in self.shadows if any(d == device for d, _ in s.channels.values())}


TestHost = Host.TestCase


def test_the_documentations_example() -> None:
    """NVIDIA, MPS, "Error Containment": clients A on 0, B on 0 and 1, C on 1, D on 2; A triggers a fatal fault."""
    host = machine()
    server = host.connect(pid=1, uid=0, start_ticks=1, comm="server", role="mps")
    group = host.create_group(server, shared=True).number
    a, b, c, d = (host.connect(pid=pid, uid=0, start_ticks=1, comm="client", role="cuda") for pid in range(2, 6))
    first = host.open(a, 0, group)
    for process, device in ((b, 0), (b, 1), (c, 1), (d, 2)):
        host.open(process, device, group)
    effect = host.fault(a, first.number, "sm", "trap", 0, "none")
    assert isinstance(effect, Fatal)
    assert (effect.devices, effect.victims) == ((0, 1), (a, b, c))
    assert [process.error for process in (a, b, c, d)] == [719, 719, 719, 0]
    newcomer = host.connect(pid=6, uid=0, start_ticks=1, comm="client", role="cuda")
    assert refusal(lambda: host.open(newcomer, 2, group)) == 807
    for process in (a, b):
        host.disconnect(process)
    assert refusal(lambda: host.recreate(server, group)) == 807
    host.disconnect(c)
    host.recreate(server, group)
    for device in range(DEVICES):
        host.open(newcomer, device, group)
    assert d.error == 0


def test_what_is_nobodys_is_refused() -> None:
    host = machine()
    one, other = (host.connect(pid=pid, uid=pid, start_ticks=1, comm="client", role="cuda") for pid in (1, 2))
    server = host.connect(pid=3, uid=3, start_ticks=1, comm="server", role="mps")
    group = host.create_group(server, shared=True).number
    channel = host.open(one, 0, 0).number
    private = one.group.number if one.group else 0
    assert refusal(lambda: host.close(other, channel)) == 1
    assert refusal(lambda: host.fault(other, channel, "sm", "trap", 0, "none")) == 1
    assert refusal(lambda: host.open(other, 0, private)) == 1, "a private group is private"
    assert refusal(lambda: host.open(other, 0, group)) == 1, "a server serves its own user"
    assert refusal(lambda: host.terminate(other, group, 1)) == 1
    assert refusal(lambda: host.recreate(other, group)) == 1
    for index in (-1, DEVICES):
        assert refusal(lambda index=index: host.open(one, index, 0)) == 101
        assert refusal(lambda index=index: host.running(index)) == 101


def test_the_first_error_sticks() -> None:
    host = machine()
    server = host.connect(pid=1, uid=0, start_ticks=1, comm="server", role="mps")
    group = host.create_group(server, shared=True).number
    one, other = (host.connect(pid=pid, uid=0, start_ticks=1, comm="client", role="cuda") for pid in (2, 3))
    for process in (one, other):
        host.open(process, 0, group)
    host.fault(one, host.open(one, 2, 0).number, "sm", "trap", 0, "none")
    effect = host.fault(other, host.open(other, 1, group).number, "mmu", "pde", 0, "read")
    assert isinstance(effect, Fatal)
    assert (effect.devices, effect.victims) == ((0, 1), (other,))
    host.terminate(server, group, one.pid)
    host.disconnect(server)
    assert (one.error, other.error) == (719, 700)
