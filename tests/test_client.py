# SPDX-License-Identifier: Apache-2.0
"""This test will use both client libraries against a real daemon that answers, refuses, dies and comes back."""

import asyncio
import doctest
import os
import signal
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

import mpsafe.client
from daemon_process import TENANTS, Mpsafed
from mpsafe import __version__
from mpsafe.client import AsyncClient, Client
from mpsafe.errors import (
    BadRequest,
    DaemonUnreachable,
    MpsafeError,
    NoInjection,
    UnknownClient,
    UnknownTenant,
)
from mpsafe.model import Event
from mpsafe.protocol.events import Watched
from mpsafe.soft.host import SoftwareHost
from requires import requires
from tenant_process import Tenant

pytestmark = requires("soft")

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def daemon() -> Iterator[Mpsafed]:
    """One daemon for all of this file; a test that kills it starts it again."""
    with tempfile.TemporaryDirectory(prefix="mpsafe-") as name, SoftwareHost(Path(name)) as host:
        host.start_mps()
        with Mpsafed(host) as daemon:
            daemon.start()
            yield daemon


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, PATIENCE_S))


def exits(daemon: Mpsafed, count: int) -> list[Event]:
    """That many events, made by clients that end."""
    before = daemon.client.describe().last_event
    for _ in range(count):
        with Tenant(daemon.host, "chat"):
            pass
    entries = daemon.entries(since=before)
    return [next(entry for entry in entries if entry.kind == "exit") for _ in range(count)]


def test_the_example_of_the_package(daemon: Mpsafed) -> None:
    globs = {"socket": daemon.socket, "version": __version__}
    example = doctest.DocTestFinder(recurse=False).find(mpsafe.client, "mpsafe.client", globs=globs)
    assert sum(len(found.examples) for found in example) >= 2
    for found in example:
        result = doctest.DocTestRunner().run(found)
        assert (result.failed, result.attempted > 0) == (0, True)


def test_both_give_equal_answers(daemon: Mpsafed) -> None:
    async def check(blocking: Client) -> None:
        async with AsyncClient(daemon.socket, timeout_s=PATIENCE_S) as client:
            ours, theirs = await client.describe(), blocking.describe()
            assert ours == theirs
            assert await client.devices() == blocking.devices()
            assert await client.clients() == blocking.clients()
            assert await client.tenants() == blocking.tenants()
            assert await client.events() == blocking.events()
            assert await client.events(since=ours.last_event) == blocking.events(since=ours.last_event) == []
            assert await client.events(limit=1) == blocking.events(limit=1)

    exits(daemon, 2)
    with Tenant(daemon.host, "embed", daemon.socket) as embed, Client(daemon.socket) as blocking:
        assert [client.identity for client in blocking.clients()] == [embed.identity]
        assert len(blocking.events()) >= 2
        run(check(blocking))


def test_both_attach(daemon: Mpsafed) -> None:
    async def check(blocking: Client) -> None:
        async with AsyncClient(daemon.socket) as client:
            with await client.attach("chat") as ours, blocking.attach("chat") as theirs:
                assert (ours.epoch, ours.generation) == (theirs.epoch, theirs.generation)
                assert ours.page.header().epoch == ours.epoch
                assert ours.page.tenants() == theirs.page.tenants()
                chat = next(tenant for tenant in ours.page.tenants() if tenant.name == "chat")
                assert (chat.health, chat.clients) == ("healthy", 1)

    before = len(os.listdir("/proc/self/fd"))
    with Client(daemon.socket) as blocking:
        run(check(blocking))
    assert len(os.listdir("/proc/self/fd")) == before, "both give back what they took"


def test_an_attachment_wakes_when_the_page_has_changed(daemon: Mpsafed) -> None:
    with Client(daemon.socket) as client, client.attach() as attached:
        while attached.wait(0):
            pass
        before = attached.page.header().last_event
        with Tenant(daemon.host, "batch", daemon.socket):
            assert attached.wait(PATIENCE_S)
            while not any((t.name, t.health) == ("batch", "healthy") for t in attached.page.tenants()):
                assert attached.wait(PATIENCE_S)
        while attached.page.header().last_event == before:
            assert attached.wait(PATIENCE_S)


def test_who_attached_is_a_tenants_process_until_it_ends(daemon: Mpsafed) -> None:
    with Tenant(daemon.host, "embed", daemon.socket) as embed:
        (client,) = [client for client in daemon.client.clients() if client.identity == embed.identity]
        assert client.tenant == "embed"
        (tenant,) = [tenant for tenant in daemon.client.tenants() if tenant.name == "embed"]
        assert (tenant.health, tenant.clients) == ("healthy", [embed.identity])
        generation = tenant.generation
    with daemon.client.attach() as attached:
        while any((t.name, t.health) == ("embed", "healthy") for t in attached.page.tenants()):
            assert attached.wait(PATIENCE_S)
    with Tenant(daemon.host, "embed", daemon.socket):
        (tenant,) = [tenant for tenant in daemon.client.tenants() if tenant.name == "embed"]
        assert tenant.generation == generation + 1


REFUSALS: list[tuple[str, tuple[object, ...], MpsafeError]] = [
    ("fence", (2**22 + 1,), UnknownClient(2**22 + 1)),
    ("inject", (2**22 + 1,), UnknownClient(2**22 + 1)),
    ("attach", ("nobody",), UnknownTenant("nobody")),
]


@pytest.mark.parametrize(("method", "arguments", "expected"), REFUSALS)
def test_a_refusal_is_the_same_error_with_its_fields(
    daemon: Mpsafed, method: str, arguments: tuple[object, ...], expected: MpsafeError
) -> None:
    async def check() -> None:
        async with AsyncClient(daemon.socket) as client:
            with pytest.raises(type(expected)) as caught:
                await getattr(client, method)(*arguments)
            assert (caught.value.fields(), str(caught.value)) == (expected.fields(), str(expected))
            assert (await client.describe()).acting

    with Client(daemon.socket) as client:
        with pytest.raises(type(expected)) as caught:
            getattr(client, method)(*arguments)
        assert (caught.value.fields(), str(caught.value)) == (expected.fields(), str(expected))
        assert client.describe().acting, "the connection goes on"
    run(check())


def test_a_limit_that_makes_no_sense(daemon: Mpsafed) -> None:
    with pytest.raises(BadRequest, match="parameter limit: expected 1 to 10000, got 0"):
        daemon.client.events(limit=0)


def test_a_fence_by_hand(daemon: Mpsafed) -> None:
    with Tenant(daemon.host, "chat", daemon.socket) as chat:
        before = daemon.client.describe().last_event
        number = daemon.client.fence(chat.pid)
        event = daemon.until(lambda event: event.id == number and event.phase == "closed", since=before)
        assert event.blame.client == chat.identity
        assert [(a.kind, a.target, a.state) for a in event.actions] == [("fence", chat.identity, "killed")]
        assert chat.wait() == -9
        with pytest.raises(UnknownClient):
            daemon.client.fence(chat.pid)


def test_faults_are_injected_only_where_the_driver_lets_them(daemon: Mpsafed) -> None:
    with Tenant(daemon.host, "chat", daemon.socket) as chat:
        with pytest.raises(NoInjection, match="mpsafe_inject=1"):
            daemon.client.inject(chat.pid)
        assert chat.do("work") == "ok"


# A daemon that dies.


def again(daemon: Mpsafed) -> None:
    daemon.kill()
    daemon.start()


def test_reading_goes_on_after_a_restart(daemon: Mpsafed) -> None:
    async def check() -> None:
        async with AsyncClient(daemon.socket, timeout_s=PATIENCE_S) as client:
            before = await client.describe()
            again(daemon)
            after = await client.describe()
            assert (after.pid, after.epoch) != (before.pid, before.epoch)
            assert [tenant.name for tenant in await client.tenants()] == list(TENANTS)

    with Client(daemon.socket, timeout_s=PATIENCE_S) as client:
        before = client.describe()
        again(daemon)
        after = client.describe()
        assert (after.pid, after.epoch) != (before.pid, before.epoch)
        assert after.last_event == before.last_event
    run(check())


def test_a_change_is_not_tried_twice(daemon: Mpsafed) -> None:
    """Nobody knows whether the dead daemon did it."""

    async def check() -> None:
        async with AsyncClient(daemon.socket) as client:
            await client.describe()
            again(daemon)
            with pytest.raises(DaemonUnreachable):
                await client.fence(1)
            with pytest.raises(UnknownClient):
                await client.fence(1)

    with Client(daemon.socket) as client:
        client.describe()
        again(daemon)
        with pytest.raises(DaemonUnreachable):
            client.fence(1)
        with pytest.raises(UnknownClient):
            client.fence(1)
    run(check())


class Follower(threading.Thread):
    """Watches in a thread until `last` has come."""

    def __init__(self, socket: str, since: int) -> None:
        super().__init__()
        self._socket, self._since = socket, since
        self.seen: list[Watched] = []
        self.last: int | None = None
        self.live = threading.Event()

    @override
    def run(self) -> None:
        with Client(self._socket) as client:
            for watched in client.watch(since=self._since, patience_s=PATIENCE_S):
                self.live.set()
                if watched.event is not None:
                    self.seen.append(watched)
                if self.last is not None and watched.seq >= self.last:
                    return


def test_a_stream_goes_on_behind_its_last_entry_with_nothing_lost_or_doubled(daemon: Mpsafed) -> None:
    first = daemon.client.describe().last_event
    follower = Follower(daemon.socket, first)
    follower.start()
    assert follower.live.wait(PATIENCE_S)
    exits(daemon, 2)
    with Tenant(daemon.host, "chat") as while_down:
        daemon.client.clients()
        daemon.kill()
        while_down.process.kill()
        while_down.wait()
        daemon.start()
    exits(daemon, 1)
    again(daemon)
    follower.last = exits(daemon, 1)[-1].seq
    exits(daemon, 1)
    follower.join(PATIENCE_S)
    assert not follower.is_alive()
    seqs = [watched.seq for watched in follower.seen]
    assert seqs == list(range(first + 1, seqs[-1] + 1))
    assert all(watched.lost == 0 for watched in follower.seen)
    ended = [w.event for w in follower.seen if w.event is not None and w.event.kind == "exit"]
    assert len({event.id for event in ended}) >= 5


def test_an_awaited_stream_goes_on_too(daemon: Mpsafed) -> None:
    async def check() -> None:
        first = daemon.client.describe().last_event
        loop = asyncio.get_running_loop()
        seen: list[int] = []
        async with AsyncClient(daemon.socket) as client, aclosing(client.watch(since=first)) as stream:
            assert (await anext(stream)).event is None
            await loop.run_in_executor(None, exits, daemon, 2)
            last = daemon.client.describe().last_event
            seen += await _until(stream, last)
            await loop.run_in_executor(None, again, daemon)
            await loop.run_in_executor(None, exits, daemon, 1)
            last = daemon.client.describe().last_event
            seen += await _until(stream, last)
        assert seen == list(range(first + 1, last + 1))

    run(check())


async def _until(stream: AsyncIterator[Watched], last: int) -> list[int]:
    seen: list[int] = []
    while last not in seen:
        watched = await anext(stream)
        if watched.event is not None:
            assert watched.lost == 0
            seen.append(watched.seq)
    return seen


def test_a_stream_without_a_beginning_is_of_new_entries(daemon: Mpsafed) -> None:
    exits(daemon, 1)
    stream = Client(daemon.socket).watch()
    live = next(stream)
    assert (live.event, live.seq) == (None, daemon.client.describe().last_event)
    made = exits(daemon, 1)
    assert next(stream).seq == live.seq + 1 <= made[0].seq
    assert isinstance(stream, Iterator)
    close: Callable[[], None] = getattr(stream, "close")  # noqa: B009 -- an Iterator to its users, a generator here
    close()


def test_a_daemon_that_stays_away(tmp_path: Path) -> None:
    nobody = os.fspath(tmp_path / "nobody")

    async def check() -> None:
        async with AsyncClient(nobody) as client:
            with pytest.raises(DaemonUnreachable, match="No such file or directory"):
                await client.describe()
            with pytest.raises(DaemonUnreachable):
                await anext(client.watch(patience_s=0))

    with Client(nobody) as client:
        with pytest.raises(DaemonUnreachable, match=f"does not answer on {nobody}: No such file or directory"):
            client.describe()
        with pytest.raises(DaemonUnreachable):
            next(client.watch(patience_s=0))
    run(check())


def test_a_daemon_that_hangs(daemon: Mpsafed) -> None:
    async def check() -> None:
        async with AsyncClient(daemon.socket, timeout_s=0.1) as client:
            with pytest.raises(DaemonUnreachable, match="no answer in time"):
                await client.tenants()

    daemon.process.send_signal(signal.SIGSTOP)
    try:
        with (
            pytest.raises(DaemonUnreachable, match="no answer in time"),
            Client(daemon.socket, timeout_s=0.1) as client,
        ):
            client.tenants()
        run(check())
    finally:
        daemon.process.send_signal(signal.SIGCONT)


def test_many_clients_that_come_at_once(daemon: Mpsafed) -> None:
    """More than the daemon can take in while it is away wait, and are not refused."""
    daemon.process.send_signal(signal.SIGSTOP)
    clients = [Client(daemon.socket, timeout_s=PATIENCE_S) for _ in range(200)]
    answered: list[int] = []

    def ask(client: Client) -> None:
        with client:
            answered.append(len(client.tenants()))

    threads = [threading.Thread(target=ask, args=[client]) for client in clients]
    try:
        for thread in threads:
            thread.start()
    finally:
        daemon.process.send_signal(signal.SIGCONT)
    for thread in threads:
        thread.join(PATIENCE_S)
    assert answered == [len(TENANTS)] * len(clients)
