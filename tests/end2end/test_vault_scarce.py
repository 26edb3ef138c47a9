# SPDX-License-Identifier: Apache-2.0
"""This test will have the daemon run out of descriptors, and a standby hang while the daemon dies."""

import os
import resource
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from daemon_process import Mpsafed
from mpsafe.client.calls import Opened
from mpsafe.client.opened import OpenedRegion
from mpsafe.errors import PeerMisbehaved
from mpsafe.model import Identity, Region
from requires import requires
from vault_process import OUTSIDE, VaultProcess

pytestmark = requires("soft")

Start = Callable[..., VaultProcess]

ASYNC = """
import asyncio
from mpsafe.client import AsyncClient
from mpsafe.errors import EpochHeld, UnknownRegion

async def everything(tenant):
    memory = cuda.Memory.create(driver, context.device, cuda.granularity(driver, context.device))
    handle = memory.export()
    uuid = context.device.uuid
    async with AsyncClient(client.socket) as other:
        with await other.attach(tenant):
            made = await other.create_region(tenant, "one", "immutable", uuid, [memory.nbytes], [handle])
            made = await other.commit_region(made.id, "sum64:" + "0" * 16)
            with await other.open_region(region=made.id) as opened:
                assert len(opened.handles) == 1 and opened.region == made
            with await other.open_region(tenant=tenant, name="one") as opened:
                cuda.Memory.import_fd(driver, opened.handles[0], memory.nbytes).close()
            epoch = await other.claim(tenant)
            held = await other.create_region(tenant, "two", "durable", uuid, [memory.nbytes], [handle])
            assert (held.epoch, await other.collect(dry_run=True)) == (epoch, [])
            await other.release_region(made.id)
            try:
                await other.open_region(region=made.id)
            except UnknownRegion:
                pass
            state = await other.vault()
            assert [one.name for one in state.regions] == ["two"]
            return await other.drain()
"""


@pytest.fixture
def start(mpsafed: Mpsafed) -> Iterator[Start]:
    """Starts processes of the tenant chat, clients of the MPS server or `outside` of it."""
    with ExitStack() as stack:

        def started(*, outside: bool = False) -> VaultProcess:
            environment = OUTSIDE if outside else None
            return stack.enter_context(VaultProcess(mpsafed.host, "chat", mpsafed.socket, environment=environment))

        yield started


@contextmanager
def few(mpsafed: Mpsafed, spare: int) -> Generator[None]:
    """The daemon may open this many descriptors more than it has."""
    before = resource.prlimit(mpsafed.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(mpsafed.pid, resource.RLIMIT_NOFILE, (mpsafed.descriptors() + spare, before[1]))
    try:
        yield
    finally:
        resource.prlimit(mpsafed.pid, resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("spare", [0, 1, 4, 12, 40])
def test_a_daemon_without_descriptors_takes_nothing_in_and_loses_nothing(
    mpsafed: Mpsafed, start: Start, spare: int
) -> None:
    """Too few for the message, which the kernel cuts (MSG_CTRUNC), for the helper, or for copies of its own."""
    one = start(outside=True)
    one.do("kept = vault.create('kept', 'immutable', 4096); kept.write(b'as it was'); kept.commit()")
    one.do("made = [cuda.Memory.create(driver, context.device, 2 << 20) for _ in range(24)]")
    one.do("more = (context.device.uuid, [2 << 20] * 24, [memory.export() for memory in made])")
    with few(mpsafed, spare):
        answer = one.fails("client.create_region('chat', 'more', 'immutable', *more)")
        assert answer.startswith(("VaultClosed", "BadRequest", "DaemonUnreachable", "InternalError")), answer
    one.do("client.close()")
    assert one.do("[r.name for r in client.vault().regions]") == "['kept']"
    assert one.do("vault.open('kept').read(9)") == "b'as it was'"
    assert one.do("client.create_region('chat', 'more', 'immutable', *more).state") == "'open'"
    assert "Traceback" not in mpsafed.errors.read_text()


def test_a_standby_that_hangs_while_the_daemon_is_killed(mpsafed: Mpsafed, start: Start) -> None:
    """It was promoted and cannot say so, nor come back to the next daemon: that promotes the other one."""
    mpsafed.override("[takeover]\nreceived_ms = 2000\n")
    mpsafed.kill()
    mpsafed.start()
    primary, deaf, standby = start(), start(outside=True), start(outside=True)
    primary.do("vault.claim(); kv = Durable.create(vault, 'kv', 4096); kv.data.write(b'token'); kv.commit(b'1')")
    deaf.stands_by()
    standby.do("words = client.stand_by('chat'); next(words)")
    standby.begin("client.progress(next(one for one in words if one.phase == 'promoted').event, received_ns=1)")
    deaf.process.send_signal(signal.SIGSTOP)
    mpsafed.client.promote("chat")
    mpsafed.until(lambda event: any(one.standby == deaf.identity for one in event.takeovers))
    mpsafed.kill()
    mpsafed.start(ready_for="calls")
    assert standby.result() == "None"
    event = mpsafed.until(lambda event: any(one.standby == standby.identity for one in event.takeovers))
    assert event.takeovers[0].victim == primary.identity
    assert standby.do("Durable.open(vault, 'kv').data.read(5)") == "b'token'"
    assert deaf.process.wait(60) == -9


def test_the_vault_from_asyncio(start: Start) -> None:
    one = start(outside=True)
    one.do(ASYNC)
    assert one.do("asyncio.run(everything('chat'))") == "1"
    said = one.fails("vault.create('more', 'immutable', 4096)")
    assert said.startswith("VaultClosed") and "drained" in said


def test_an_answer_that_makes_no_sense_is_refused_by_the_client() -> None:
    """Which of a daemon's handles are whose is the region's word: as many as it has sizes, or none is taken."""
    region = Region(1, "chat", "one", "immutable", "open", "GPU-1", [4096, 4096], 0, 0, Identity(1, 1))
    for handles, layout, count in (
        ([0], None, 1),
        ([0, 1], 2, 3),
        ([0, 0], None, 1),
        ([0, 1], None, 3),
        ([1, 2], None, 2),
    ):
        fds = [os.memfd_create("x") for _ in range(count)]
        with pytest.raises(PeerMisbehaved, match="2 handles and 0 layouts of region 1"):
            OpenedRegion.of("the daemon", Opened(region, handles, layout), fds)
        for fd in fds:
            with pytest.raises(OSError):
                os.close(fd)
