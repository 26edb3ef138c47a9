# SPDX-License-Identifier: Apache-2.0
"""This test will have random holders acquire, resize, obey, defy and leave, and look whether the laws hold."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from hypothesis import given, settings
from hypothesis import strategies as st

from mpsafe.errors import LeasePressed, NoRoom, UnknownLease
from mpsafe.model import Identity
from mpsafe.protocol.leases import Lease, Span
from mpsafed.leases.grants import Usage
from mpsafed.leases.leases import LeaseRules, Leases

MIB: Final = 1 << 20
DEVICE: Final = "GPU-1"
TOTAL: Final = 1000 * MIB
RESERVE: Final = 50 * MIB
HASTY: Final = LeaseRules(reserve_bytes=RESERVE, ttl_s=600, pressure_s=0.002, look_s=0.001, settle_s=0)

Step: TypeAlias = tuple[str, int, Span]

WISHES: Final = st.lists(st.integers(0, 1100), min_size=3, max_size=3).map(
    lambda each: Span(*(nbytes * MIB for nbytes in sorted(each)))
)
STEPS: Final = st.lists(
    st.tuples(st.sampled_from(["acquire", "acquire", "defy", "resize", "release", "foreign", "wait"]),
              st.integers(0, 1000), WISHES),
    max_size=25,
)  # fmt: skip


@dataclass(slots=True)
class World:
    """One device; `foreign_bytes` is what a process without a lease uses, `used` what each holder has allocated."""

    foreign_bytes: int = 0
    used: dict[int, int] = field(default_factory=lambda: dict[int, int]())

    @property
    def room_bytes(self) -> int:
        return max(0, TOTAL - RESERVE - self.foreign_bytes)

    async def look(self) -> Mapping[str, Usage]:
        await asyncio.sleep(0)
        used = {1: self.foreign_bytes, **self.used}
        return {DEVICE: Usage(TOTAL, sum(used.values()), used)}


async def obey(leases: Leases, world: World, process: Identity) -> None:
    """A holder that fills what it has and frees what it is asked for, at once."""
    async for word in leases.words(process):
        world.used[process.pid] = word.granted_bytes
        if word.word in ("shrink", "late"):
            with suppress(UnknownLease):
                leases.renew(word.lease, word.granted_bytes)


def check(leases: Leases) -> None:
    """What holds at every instant."""
    for lease in leases.overview():
        assert lease.memory.floor <= lease.asked_bytes <= lease.granted_bytes <= lease.memory.ceiling
        assert (lease.asked_bytes == lease.granted_bytes) or lease.state in ("pressed", "late")
        assert lease.sm.floor <= lease.sm_percent <= lease.sm.ceiling
    assert sum(lease.sm.floor for lease in leases.overview()) <= 100


def check_grant(leases: Leases, world: World) -> None:
    """What holds when something was granted."""
    assert sum(lease.memory.floor for lease in leases.overview()) <= world.room_bytes


async def walk(steps: list[Step]) -> None:
    world = World()
    leases = Leases(HASTY, world.look)
    holders: list[asyncio.Task[None]] = []
    try:
        for pid, (what, number, wish) in enumerate(steps, 2):
            known = leases.overview()
            one = known[number % len(known)].id if known else 0
            match what:
                case "acquire" | "defy":
                    process = Identity(pid, 1)
                    sm = Span(number % 60, number % 60, 60)
                    wanted = Lease(0, "chat", DEVICE, process, 0, "held", wish, sm, 0, 0, 0)
                    with suppress(NoRoom):
                        got = await leases.acquire(wanted, resident_bytes=0, ttl_s=None)
                        check_grant(leases, world)
                        held = sum(lease.granted_bytes for lease in leases.overview())
                        assert held <= world.room_bytes or not got.granted_bytes, "nothing is granted twice"
                    if what == "acquire":
                        holders.append(asyncio.create_task(obey(leases, world, process)))
                case "resize" if known:
                    with suppress(NoRoom, LeasePressed):
                        grows = wish.floor > leases.known(one).memory.floor
                        await leases.resize(one, wish)
                        if grows:
                            check_grant(leases, world)
                case "release" if known:
                    world.used.pop(leases.known(one).identity.pid, None)
                    leases.release(one)
                case "foreign":
                    world.foreign_bytes = number * MIB
                case _:
                    await asyncio.sleep(0.005)
            check(leases)
    finally:
        for holder in holders:
            holder.cancel()
        await asyncio.gather(*holders, return_exceptions=True)
        await leases.close()


@settings(max_examples=150)
@given(STEPS)
def test_the_laws_hold(steps: list[Step]) -> None:
    asyncio.run(walk(steps))
