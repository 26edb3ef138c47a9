# SPDX-License-Identifier: Apache-2.0
"""This test will hold leases through both clients and the helper that keeps one."""

import asyncio
import os
from contextlib import aclosing

import pytest

from daemon_process import PATIENCE_S, Mpsafed
from mpsafe.client import AsyncClient, Client
from mpsafe.errors import NoRoom
from mpsafe.leases import HeldLease
from mpsafe.protocol.leases import Span
from requires import requires

pytestmark = requires("soft")

GIB = 1 << 30


@pytest.fixture
def chat(mpsafed: Mpsafed) -> Client:
    """This process, attached for the tenant chat."""
    mpsafed.client.attach("chat").close()
    return mpsafed.client


@pytest.fixture
def device(mpsafed: Mpsafed) -> str:
    return mpsafed.client.devices()[0].uuid


def test_a_lease_that_cannot_be_had_is_not_begun(mpsafed: Mpsafed, device: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(NoRoom):
        HeldLease(mpsafed.socket, "chat", device, memory=Span(99 * GIB, 99 * GIB, 99 * GIB))
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_client_that_awaits(mpsafed: Mpsafed, chat: Client, device: str) -> None:
    async def check() -> None:
        async with AsyncClient(mpsafed.socket, timeout_s=PATIENCE_S) as client:
            lease = await client.acquire("chat", device, memory=Span(GIB, 2 * GIB, 3 * GIB), sm=Span(1, 2, 3))
            assert await client.leases() == chat.leases() == [lease]
            assert (await client.resize(lease.id, memory=Span(GIB, GIB, GIB))).lease.granted_bytes == GIB
            async with aclosing(client.watch_leases()) as words:
                assert (await anext(words)).lease == lease.id
                assert (await client.renew(lease.id, GIB)).granted_bytes == GIB
                with await client.link(device) as link:
                    assert link.cells()[link.cell][1].pid == os.getpid()
                await client.release(lease.id)
                async for word in words:
                    if word.word == "ended":
                        break

    asyncio.run(asyncio.wait_for(check(), PATIENCE_S))
