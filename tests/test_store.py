# SPDX-License-Identifier: Apache-2.0
"""This test will keep contents in the store of a real daemon, share them between processes, and try to cheat."""

import asyncio
import fcntl
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Final

import pytest

from as_user import as_user
from daemon_process import PATIENCE_S, Mpsafed
from mpsafe.client import AsyncClient, Client
from mpsafe.client.calls import Kept
from mpsafe.client.wire import Wire
from mpsafe.errors import BadContent, BadRequest, MpsafeError, NotPermitted, StoreFull, UnknownContent, UnknownTenant
from mpsafe.soft.host import SoftwareHost
from mpsafed.store import SEALS
from requires import requires
from vault_process import OUTSIDE, VaultProcess

pytestmark = requires("soft")

MIB = 1 << 20
# What a process allocates while it looks.
NOISE_KIB = 1024
PROMPT: Final = '[store]\ngrace_ms = 0\n[[tenant]]\nname = "chat"\nstore_bytes = 8388608\n'
LONG: Final = PROMPT.replace("grace_ms = 0", "grace_ms = 600000")
SHARED: Final = LONG.replace("[store]", "[store]\nshared = true")
ROLLUP: Final = "{l.split()[0]: int(l.split()[1]) for l in open('/proc/self/smaps_rollup') if ' kB' in l}"

Sealed = Callable[..., int]
Start = Callable[..., VaultProcess]


def patient(more: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("daemon", [pytest.param(more, id="")], indirect=True)


@pytest.fixture(params=[pytest.param(PROMPT, id="")])
def daemon(request: pytest.FixtureRequest, software_host: SoftwareHost) -> Iterator[Mpsafed]:
    with Mpsafed(software_host, more=request.param) as daemon:
        daemon.start(ready_for="calls")
        yield daemon


@pytest.fixture
def chat(daemon: Mpsafed) -> Client:
    """This process, attached for the tenant chat."""
    daemon.client.attach("chat").close()
    return daemon.client


@pytest.fixture
def start(daemon: Mpsafed) -> Iterator[Start]:
    with ExitStack() as stack:

        def started(tenant: str = "chat") -> VaultProcess:
            return stack.enter_context(VaultProcess(daemon.host, tenant, daemon.socket, environment=OUTSIDE))

        yield started


@pytest.fixture
def sealed() -> Iterator[Sealed]:
    """Makes memfds with a content and seals."""
    made: list[int] = []

    def make(data: bytes, seals: int = SEALS) -> int:
        fd = os.memfd_create("content", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        made.append(fd)
        assert os.write(fd, data) == len(data)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        return fd

    yield make
    for fd in made:
        os.close(fd)


def named(data: bytes) -> str:
    return sha256(data).hexdigest()


def test_what_is_published_is_opened_and_goes_with_its_last_user(daemon: Mpsafed, chat: Client, sealed: Sealed) -> None:
    chat.contents()
    before = daemon.descriptors()
    data = os.urandom(3 * MIB)
    with Client(daemon.socket) as other:
        with chat.publish("chat", named(data), sealed(data)) as kept, kept.map() as mapped:
            assert mapped[:] == data
            assert (kept.content.size_bytes, kept.content.tenant, kept.content.users) == (3 * MIB, "chat", 1)
            with pytest.raises(OSError, match="Operation not permitted"):
                os.pwrite(kept.fileno(), b"x", 0)
        with other.open_content(named(data)) as opened:
            assert opened.content.users == 2
        chat.close()
        while other.contents()[0].users > 1:
            assert daemon.process.poll() is None
        with other.open_content(named(data)):
            pass
    while chat.contents() or daemon.descriptors() > before:
        assert daemon.process.poll() is None
    with pytest.raises(UnknownContent, match=f"the store has no content {named(data)[:16]}"):
        chat.open_content(named(data))


@patient(LONG)
def test_what_is_refused(daemon: Mpsafed, chat: Client, sealed: Sealed, tmp_path: Path) -> None:
    def refused(kind: type[MpsafeError], text: str, call: Callable[[], object]) -> None:
        with pytest.raises(kind, match=text):
            call()

    data = b"x" * 4096
    good, name = sealed(data), named(data)
    chat.contents()
    before = daemon.descriptors()
    refused(BadRequest, "64 digits", lambda: chat.publish("chat", "../" + name, good))
    refused(BadRequest, "64 digits", lambda: chat.open_content(name.upper()))
    refused(UnknownTenant, "nobody", lambda: chat.publish("nobody", name, good))
    refused(NotPermitted, "process of tenant embed", lambda: chat.publish("embed", name, good))
    for missing in (fcntl.F_SEAL_WRITE, fcntl.F_SEAL_GROW, fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_SEAL, SEALS):
        unsealed = sealed(data, SEALS & ~missing)
        refused(BadContent, "got one that can change", partial(chat.publish, "chat", name, unsealed))
    reading, writing = os.pipe()
    refused(BadContent, "expected a memfd, got another kind", lambda: chat.publish("chat", name, reading))
    os.close(reading)
    os.close(writing)
    with (tmp_path / "file").open("w+b") as file:
        file.write(data)
        file.flush()
        refused(BadContent, "expected a memfd", lambda: chat.publish("chat", name, file.fileno()))
    parameters = {"tenant": "chat", "hash": name, "size_bytes": 4097, "data": 0}
    with Wire(daemon.socket, timeout_s=PATIENCE_S) as wire, pytest.raises(BadContent, match="4097 of them, got 4096"):
        wire.call("io.mpsafe.Store.Publish", parameters, Kept, [good])
    refused(BadContent, "got 0 bytes", lambda: chat.publish("chat", named(b""), sealed(b"")))
    refused(BadContent, f"got content of sha256 {name[:16]}", lambda: chat.publish("chat", named(b"y"), good))
    large = sealed(bytes(8 * MIB + 1))
    refused(StoreFull, "8388608 bytes in the store, and would keep 8388609", lambda: chat.publish("chat", name, large))
    assert chat.contents() == []
    while daemon.descriptors() > before:
        assert chat.contents() == []
    with chat.publish("chat", name, good):
        assert [one.hash for one in chat.contents()] == [name], "and the connection has lived through all of that"


def test_who_has_attached_for_nobody_gets_nothing(daemon: Mpsafed, sealed: Sealed) -> None:
    with pytest.raises(NotPermitted):
        daemon.client.publish("chat", named(b"x"), sealed(b"x"))
    with pytest.raises(NotPermitted):
        daemon.client.open_content(named(b"x"))


def test_of_two_publishers_the_second_gets_the_firsts(daemon: Mpsafed, chat: Client, sealed: Sealed) -> None:
    data = bytes(7 * MIB)
    fds = [sealed(data) for _ in range(8)]
    with ExitStack() as stack, ThreadPoolExecutor(len(fds)) as threads:
        clients = [stack.enter_context(Client(daemon.socket)) for _ in fds]

        def publish(client: Client, fd: int) -> int:
            with client.publish("chat", named(data), fd) as kept:
                return os.fstat(kept.fileno()).st_ino

        inodes = set(threads.map(publish, clients, fds))
        assert len(inodes) == 1, "one copy, and the quota of 8 MiB was no hindrance"
        assert inodes < {os.fstat(fd).st_ino for fd in fds}
        (content,) = chat.contents()
        assert content.users == len(fds)


def test_who_lies_about_a_hash_does_not_keep_it_from_who_does_not(chat: Client, sealed: Sealed) -> None:
    with pytest.raises(BadContent):
        chat.publish("chat", named(b"true"), sealed(b"lies"))
    with chat.publish("chat", named(b"true"), sealed(b"true")) as kept, kept.map() as mapped:
        assert mapped[:] == b"true"


@patient(LONG)
def test_a_content_that_nobody_uses_has_its_grace_time(daemon: Mpsafed, chat: Client, sealed: Sealed) -> None:
    with chat.publish("chat", named(b"x"), sealed(b"x")):
        assert chat.contents()[0].unused_ns == 0
    chat.close()
    while chat.contents()[0].users:
        assert daemon.process.poll() is None
    (content,) = chat.contents()
    assert content.unused_ns >= content.published_ns > 0
    with chat.open_content(named(b"x")):
        assert chat.contents()[0].unused_ns == 0


@pytest.mark.parametrize(
    ("daemon", "is_there"), [pytest.param(LONG, False, id="apart"), pytest.param(SHARED, True, id="shared")],
    indirect=["daemon"],
)  # fmt: skip
@requires("root")
def test_another_user(daemon: Mpsafed, chat: Client, sealed: Sealed, *, is_there: bool) -> None:
    with chat.publish("chat", named(b"x"), sealed(b"x")), Client(daemon.socket) as stranger:
        with as_user(65534):
            assert bool(stranger.contents()) == is_there
        if is_there:
            stranger.open_content(named(b"x")).close()
        else:
            with pytest.raises(UnknownContent):
                stranger.open_content(named(b"x"))
            with stranger.publish("chat", named(b"x"), sealed(b"x")) as own:
                assert own.content.uid == 65534, "a copy of its own"


def test_processes_that_map_a_content_have_one_copy(chat: Client, start: Start, sealed: Sealed) -> None:
    data = os.urandom(8 * MIB)
    with chat.publish("chat", named(data), sealed(data)):
        processes = [start() for _ in range(4)]
        for process in processes:
            process.do(f"content = client.open_content({named(data)!r}); mapped = content.map(); sum(mapped[::4096])")
        for process in processes:
            process.do(f"with_it = {ROLLUP}; mapped.close(); without = {ROLLUP}")
            rss, pss = (int(process.do(f"with_it[{name!r}] - without[{name!r}]")) for name in ("Rss:", "Pss:"))
            process.do("mapped = content.map(); sum(mapped[::4096])")
            assert rss >= 8 * 1024 - NOISE_KIB, "each sees all of it"
            assert pss <= 8 * 1024 / len(processes) + NOISE_KIB, "and has its part of one copy"


def test_who_is_killed_leaves_nothing(daemon: Mpsafed, chat: Client, start: Start) -> None:
    victim = start()
    chat.contents()
    before = daemon.descriptors()
    victim.do("import fcntl, hashlib; fd = os.memfd_create('x', os.MFD_ALLOW_SEALING); os.ftruncate(fd, 8 << 20)")
    victim.do("fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 15); name = hashlib.sha256(bytes(8 << 20)).hexdigest()")
    victim.begin("[client.publish('chat', name, fd) and client.close() for _ in iter(int, 1)]")
    while not chat.contents():
        assert daemon.process.poll() is None
    victim.kill()
    while chat.contents() or daemon.descriptors() >= before:
        assert daemon.process.poll() is None


def test_a_content_outlives_the_daemon_with_who_has_it(daemon: Mpsafed, chat: Client, sealed: Sealed) -> None:
    with chat.publish("chat", named(b"x"), sealed(b"x")) as kept:
        daemon.kill()
        daemon.start(ready_for="calls")
        assert chat.contents() == []
        with kept.map() as mapped:
            assert mapped[:] == b"x"
        with chat.publish("chat", named(b"x"), kept.fileno()) as again:
            assert os.fstat(again.fileno()).st_ino == os.fstat(kept.fileno()).st_ino


def test_the_client_that_awaits(daemon: Mpsafed, chat: Client, sealed: Sealed) -> None:
    async def check() -> None:
        async with AsyncClient(daemon.socket, timeout_s=PATIENCE_S) as client:
            with await client.publish("chat", named(b"x"), data) as kept:
                with await client.open_content(named(b"x")) as opened, opened.map() as mapped:
                    assert mapped[:] == b"x"
                    assert os.fstat(kept.fileno()).st_ino == os.fstat(opened.fileno()).st_ino
                assert await client.contents() == chat.contents()
            with pytest.raises(UnknownContent):
                await client.open_content(named(b"y"))

    data = sealed(b"x")
    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(asyncio.wait_for(check(), PATIENCE_S))
    assert len(os.listdir("/proc/self/fd")) == before
