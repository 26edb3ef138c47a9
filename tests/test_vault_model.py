# SPDX-License-Identifier: Apache-2.0
"""This test will kill and restart the daemon, owners and standbys in every order, and look who may write what.

The law, kept by a plain model beside the vault: a region is given for writing only when everybody who had it for
writing before is proven stopped; nothing that was answered for is lost, and nothing else is held.
"""

import asyncio
import itertools
import os
from collections import defaultdict

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from typing_extensions import override

from mpsafe.errors import BadRequest, EpochHeld, NotGranted, UnknownRegion, VaultClosed
from mpsafe.model import Identity, Region, RegionKind
from mpsafed.vault.vault import Vault
from vault_rig import Table, vault_of

ROUNDS = 1000 if "MPSAFE_ALL" in os.environ else 150
TENANTS = ("chat", "chat", "chat", "embed")
PICK = st.integers(0, 11)


class VaultMachine(RuleBasedStateMachine):
    """One vault through many lives of the daemon."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Table()
        self.memory = os.memfd_create("memory")
        self.alive: list[Identity] = []
        self.tenant_of: dict[Identity, str] = {}
        self.stopped: set[Identity] = set()
        self.writers: dict[int, set[Identity]] = defaultdict(set)
        self.answered: dict[int, Region] = {}
        self.pids = itertools.count(1)
        self.vault = self.started()

    def started(self) -> Vault:
        return vault_of(*TENANTS, table=self.table, alive=lambda process: process in self.alive)

    @override
    def teardown(self) -> None:
        self.vault.close()
        self.table.let_go(list(self.table.held))
        os.close(self.memory)

    @rule()
    def begins(self) -> None:
        if len(self.alive) < 4:
            process = Identity(next(self.pids), 1)
            self.alive.append(process)
            self.tenant_of[process] = TENANTS[process.pid % len(TENANTS)]

    @precondition(lambda self: self.alive)
    @rule(pick=PICK)
    def claims(self, pick: int) -> None:
        process = self.alive[pick % len(self.alive)]
        holder = self.vault.epochs.holder_of(self.tenant_of[process])
        try:
            self.vault.epochs.claim(self.tenant_of[process], process)
        except EpochHeld:
            assert holder != process
            assert holder in self.alive
        else:
            assert holder in (None, process) or holder not in self.alive

    @precondition(lambda self: self.alive)
    @rule(pick=PICK)
    def is_promoted(self, pick: int) -> None:
        process = self.alive[pick % len(self.alive)]
        self.vault.epochs.move(self.tenant_of[process], process)
        self.opens_to_write(pick)

    @precondition(lambda self: self.alive)
    @rule(pick=PICK, handles=st.integers(1, 3))
    def creates_immutable(self, pick: int, handles: int) -> None:
        made = self.create(self.alive[pick % len(self.alive)], "immutable", handles)
        self.answered[made.id] = made

    @precondition(lambda self: self.alive)
    @rule(pick=PICK, handles=st.integers(1, 3))
    def creates_durable(self, pick: int, handles: int) -> None:
        process = self.alive[pick % len(self.alive)]
        try:
            made = self.create(process, "durable", handles)
        except (EpochHeld, BadRequest):
            assert self.vault.epochs.holder_of(self.tenant_of[process]) != process
            return
        assert self.vault.epochs.holder_of(self.tenant_of[process]) == process
        self.answered[made.id] = made
        self.writers[made.id].add(process)

    def create(self, process: Identity, kind: RegionKind, handles: int) -> Region:
        sizes = [1] * handles
        region = Region(0, self.tenant_of[process], "r", kind, "open", "GPU-1", sizes, 0, 0, process)
        return asyncio.run(self.vault.create(region, [self.memory] * handles, None))

    @precondition(lambda self: self.alive)
    @rule(pick=PICK)
    def opens_to_write(self, pick: int) -> None:
        process = self.alive[pick % len(self.alive)]
        for number, region in self.answered.items():
            if region.kind == "durable":
                try:
                    self.vault.handles(self.vault.known(number), process, write=True)
                except (EpochHeld, NotGranted):
                    continue
                assert self.writers[number] - {process} <= self.stopped, "two writers"
                self.writers[number].add(process)

    @precondition(lambda self: self.alive)
    @rule(pick=PICK)
    def commits(self, pick: int) -> None:
        process = self.alive[pick % len(self.alive)]
        for number, region in list(self.answered.items()):
            if region.kind == "immutable" and region.creator == process:
                self.answered[number] = self.vault.commit(number, "sum64:0123456789abcdef", process)

    @precondition(lambda self: self.alive)
    @rule(pick=PICK)
    def is_cut(self, pick: int) -> None:
        self.vault.epochs.cut(self.alive[pick % len(self.alive)])

    @precondition(lambda self: self.alive)
    @rule(pick=PICK, proven=st.booleans())
    def ends(self, pick: int, proven: bool) -> None:
        process = self.alive.pop(pick % len(self.alive))
        self.forget_uncommitted(process)
        self.vault.ended(process)
        if proven:
            self.is_proven(process)

    @rule()
    def all_that_ended_are_proven_stopped(self) -> None:
        for process in self.tenant_of:
            if process not in self.alive:
                self.is_proven(process)

    def is_proven(self, process: Identity) -> None:
        self.stopped.add(process)
        for region in self.vault.epochs.proven(process):
            holder = self.vault.epochs.holder_of(region.tenant)
            assert holder is not None
            self.writers[region.id].add(holder)

    def forget_uncommitted(self, process: Identity) -> None:
        for number, region in list(self.answered.items()):
            if region.kind == "immutable" and region.state == "open" and region.creator == process:
                del self.answered[number]

    @precondition(lambda self: len(self.answered) > 3)
    @rule(pick=PICK)
    def is_released(self, pick: int) -> None:
        number = sorted(self.answered)[pick % len(self.answered)]
        self.vault.release(number)
        del self.answered[number]

    @rule()
    def is_collected(self) -> None:
        for one in self.vault.collect(dry_run=False):
            del self.answered[one.region.id]

    @rule()
    def daemon_dies(self) -> None:
        self.vault.close()
        self.vault = self.started()

    @precondition(lambda self: self.alive)
    @rule(pick=PICK, at=st.integers(0, 3))
    def daemon_dies_in_a_create(self, pick: int, at: int) -> None:
        """At a descriptor: those before it are held, and nothing was answered."""
        self.table.room = len(self.table.held) + at
        self.table.deaf = True
        with pytest.raises(VaultClosed):
            self.create(self.alive[pick % len(self.alive)], "immutable", 4)
        self.table.deaf, self.table.room = False, 1 << 16
        self.daemon_dies()

    @invariant()
    def what_was_answered_for_is_there_and_nothing_else(self) -> None:
        there = {region.id: region for region in self.vault.regions()}
        assert set(there) == set(self.answered)
        for number, region in self.answered.items():
            assert (there[number].tenant, there[number].sizes, there[number].digest) == (
                region.tenant,
                region.sizes,
                region.digest,
            )
        assert len(self.table.held) - ("vault-index" in self.table.held) == sum(
            len(region.sizes) for region in there.values()
        )


VaultMachine.TestCase.settings = settings(max_examples=ROUNDS, stateful_step_count=60)
TestVault = VaultMachine.TestCase


def test_an_index_that_is_torn_at_any_byte_ends_there() -> None:
    """What came behind the last whole line was never answered for."""
    table, memory = Table(), os.memfd_create("memory")
    vault = vault_of("chat", table=table)
    process = Identity(os.getpid(), 1)
    for _ in range(3):
        region = Region(0, "chat", "r", "immutable", "open", "GPU-1", [1], 0, 0, process)
        asyncio.run(vault.create(region, [memory], None))
        vault.commit(vault.regions()[-1].id, "sum64:0123456789abcdef", process)
    vault.close()
    whole = os.pread(table.held["vault-index"], 1 << 20, 0)
    held = dict(table.held)
    for size in range(len(whole) + 1):
        copy = Table()
        torn = os.memfd_create("torn")
        os.write(torn, whole[:size])
        copy.hold({**held, "vault-index": torn})
        os.close(torn)
        found = vault_of("chat", table=copy)
        numbers = [region.id for region in found.regions()]
        assert numbers == list(range(1, len(numbers) + 1))
        assert set(copy.held) == {"vault-index", *(f"vault-{number}-0" for number in numbers)}
        assert len(numbers) == sum(
            b'"whole":true' in line and b'"state":"committed"' not in line
            for line in whole[:size].splitlines(True)
            if line.endswith(b"\n")
        )
        found.close()
        copy.let_go(list(copy.held))
    os.close(memory)


def test_a_region_that_is_not_there() -> None:
    vault = vault_of("chat")
    with pytest.raises(UnknownRegion, match="the vault has no region 7"):
        vault.known(7)
    with pytest.raises(UnknownRegion, match="chat/weights"):
        vault.newest("chat", "weights")
    vault.close()


def test_a_holder_that_has_no_room_left_loses_nothing() -> None:
    table, memory = Table(), os.memfd_create("memory")
    vault = vault_of("chat", table=table)
    process = Identity(os.getpid(), 1)
    region = Region(0, "chat", "r", "immutable", "open", "GPU-1", [1, 1], 0, 0, process)
    asyncio.run(vault.create(region, [memory, memory], None))
    table.room = len(table.held) + 1
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(VaultClosed, match="the table is full"):
        asyncio.run(vault.create(region, [memory, memory], None))
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert [one.id for one in vault.regions()] == [1]
    table.room += 1
    assert asyncio.run(vault.create(region, [memory, memory], None)).id > 1
    vault.close()
    table.let_go(list(table.held))
    os.close(memory)


def test_a_vault_that_holds_nothing_leaves_nothing_behind() -> None:
    table, process = Table(), Identity(os.getpid(), 1)
    vault = vault_of("chat", table=table, alive=lambda process: True)
    vault.epochs.claim("chat", process)
    vault.close()
    assert set(table.held) == {"vault-index"}, "somebody holds an epoch"
    vault = vault_of("chat", table=table)
    assert vault.epochs.number_of("chat") == 1
    assert vault.drain() == 0
    vault.close()
    assert table.held == {}
