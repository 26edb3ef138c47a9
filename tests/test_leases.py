# SPDX-License-Identifier: Apache-2.0
"""This test will hold leases of a real daemon from several processes, and take the room away from under them."""

import doctest
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import psutil
import pytest

import mpsafe.leases
from as_user import as_user
from daemon_process import PATIENCE_S, Mpsafed
from mpsafe.client import Client
from mpsafe.errors import (
    BadRequest,
    LeasePressed,
    MpsafeError,
    NoRoom,
    NotPermitted,
    UnknownDevice,
    UnknownLease,
    UnknownTenant,
)
from mpsafe.leases import HeldLease
from mpsafe.protocol.leases import Lease, LeaseWord, Span
from mpsafe.soft.host import SoftwareHost
from requires import requires
from vault_process import OUTSIDE, VaultProcess

pytestmark = requires("soft")

GIB = 1 << 30
PATIENT = "[store]\ngrace_ms = 0\n[leases]\nreserve_mib = 1024\nlook_ms = 20\nsettle_ms = 0\npressure_ms = 60000\n"
HASTY = PATIENT.replace("60000", "50")
TAKE = "memory = cuda.Memory.create(driver, driver.devices()[0], {} << 30)"
HOLD = "lease = client.acquire('chat', driver.devices()[0].uuid, memory=Span({}, {}, {}))"
FORK = "child = os.fork()\nif not child:\n    time.sleep(600)\n    os._exit(0)\n"

SEALED = """
import fcntl, hashlib
fd, device = os.memfd_create("x", os.MFD_ALLOW_SEALING), driver.devices()[0].uuid
os.ftruncate(fd, 1 << 20)
fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 15)
name = hashlib.sha256(bytes(1 << 20)).hexdigest()
"""
BUSY = """
while True:
    lease = client.acquire("chat", device, memory=Span(1 << 30, 2 << 30, 3 << 30))
    with client.link(device), client.publish("chat", name, fd):
        client.resize(lease.id, memory=Span(1 << 30, 1 << 30, 2 << 30))
    client.release(lease.id)
"""

Start = Callable[..., VaultProcess]


@pytest.fixture(params=[pytest.param(PATIENT, id="patient")])
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
def device(daemon: Mpsafed) -> str:
    return daemon.client.devices()[0].uuid


@pytest.fixture
def start(daemon: Mpsafed) -> Iterator[Start]:
    """Starts processes that have attached and a context, but no lease."""
    with ExitStack() as stack:

        def started(tenant: str = "chat") -> VaultProcess:
            process = stack.enter_context(VaultProcess(daemon.host, tenant, daemon.socket, environment=OUTSIDE))
            process.do("from mpsafe.leases import *; from mpsafe.protocol.leases import Span")
            return process

        yield started


def until(words: Iterator[LeaseWord], word: str) -> LeaseWord:
    return next(one for one in words if one.word == word)


def only(client: Client) -> Lease:
    (lease,) = client.leases()
    return lease


def told(process: psutil.Process) -> list[str]:
    """The command line of a child that may end at any time, as those do that ask the control program."""
    with suppress(psutil.Error):
        return process.cmdline()
    return []


def gone(daemon: Mpsafed, descriptors: int) -> None:
    """Waits until there is no lease, and no descriptor more than before."""
    while daemon.client.leases() or daemon.descriptors() > descriptors:
        assert daemon.process.poll() is None


def test_the_example_of_the_module(daemon: Mpsafed, device: str) -> None:
    globs = {"socket": daemon.socket, "device": device}
    (example,) = doctest.DocTestFinder(recurse=False).find(mpsafe.leases, "mpsafe.leases", globs=globs)
    result = doctest.DocTestRunner().run(example)
    assert (result.failed, result.attempted) == (0, 4)


def test_what_is_granted(chat: Client, device: str) -> None:
    alone = chat.acquire("chat", device, memory=Span(GIB, 2 * GIB, 64 * GIB), sm=Span(10, 30, 60))
    assert (alone.state, alone.sm_percent) == ("held", 60)
    assert alone.granted_bytes == alone.asked_bytes
    assert 14 * GIB < alone.granted_bytes <= 15 * GIB
    assert chat.resize(alone.id, memory=Span(GIB, 2 * GIB, 3 * GIB)).lease.granted_bytes == 3 * GIB
    other = chat.acquire("chat", device, memory=Span(GIB, 4 * GIB, 4 * GIB), sm=Span(40, 50, 60))
    assert (other.granted_bytes, other.sm_percent) == (4 * GIB, 40)
    assert [one.id for one in chat.leases()] == [alone.id, other.id]
    assert chat.resize(other.id, sm=Span(10, 10, 10)).replacement_required
    assert not chat.resize(other.id, sm=other.sm).replacement_required
    chat.release(alone.id)
    assert [one.id for one in chat.leases()] == [other.id]


def test_what_is_refused(daemon: Mpsafed, chat: Client, device: str) -> None:
    def refused(kind: type[MpsafeError], text: str, call: Callable[[], object]) -> None:
        with pytest.raises(kind, match=text):
            call()

    some = Span(GIB, GIB, GIB)
    refused(UnknownTenant, "nobody", lambda: chat.acquire("nobody", device, memory=some))
    refused(NotPermitted, "process of tenant embed", lambda: chat.acquire("embed", device, memory=some))
    refused(UnknownDevice, "GPU-other: NVML lists no", lambda: chat.acquire("chat", "GPU-other", memory=some))
    refused(BadRequest, "neither", lambda: chat.acquire("chat", device))
    refused(BadRequest, "in this order", lambda: chat.acquire("chat", device, memory=Span(2, 1, 3)))
    refused(BadRequest, "in this order", lambda: chat.acquire("chat", device, memory=Span(-1, 1, 3)))
    refused(BadRequest, "from 0 to 100", lambda: chat.acquire("chat", device, sm=Span(0, 0, 101)))
    refused(BadRequest, "resident_bytes", lambda: chat.acquire("chat", device, memory=some, resident_bytes=-1))
    refused(BadRequest, "ttl_ms", lambda: chat.acquire("chat", device, memory=some, ttl_ms=1))
    refused(NoRoom, f"bytes to promise, and a floor of {15 * GIB + 1} was", lambda: chat.acquire(
        "chat", device, memory=Span(15 * GIB + 1, 15 * GIB + 1, 15 * GIB + 1)))  # fmt: skip
    first = chat.acquire("chat", device, memory=some, sm=Span(60, 60, 60))
    refused(NoRoom, "has 40 per cent to", lambda: chat.acquire("chat", device, sm=Span(41, 41, 41)))
    refused(NoRoom, "a floor of", lambda: chat.resize(first.id, memory=Span(16 * GIB, 16 * GIB, 16 * GIB)))
    refused(BadRequest, "in this order", lambda: chat.resize(first.id, memory=Span(3, 2, 1)))
    refused(BadRequest, "in this order", lambda: chat.resize(first.id, sm=Span(3, 2, 1)))
    refused(BadRequest, "granted_bytes", lambda: chat.renew(first.id, GIB - 1))
    refused(BadRequest, "granted_bytes", lambda: chat.renew(first.id, GIB + 1))
    refused(UnknownLease, "no lease 99", lambda: chat.renew(99))
    refused(UnknownLease, "no lease 99", lambda: chat.release(99))
    refused(BadRequest, "weight", lambda: chat.link(device, weight=0))
    refused(UnknownDevice, "GPU-other", lambda: chat.link("GPU-other"))
    for _ in range(15):
        chat.acquire("chat", device, memory=Span(0, 0, 1))
    refused(BadRequest, "at most 16 leases", lambda: chat.acquire("chat", device, memory=Span(0, 0, 1)))
    with ExitStack() as stack:
        for _ in range(4):
            words = daemon.client.watch_leases()
            stack.callback(words.close)  # type: ignore[attr-defined]
            next(words)
        refused(BadRequest, "at most 4 streams", lambda: next(daemon.client.watch_leases()))


def test_who_has_attached_for_nobody_gets_nothing(daemon: Mpsafed, device: str) -> None:
    for call in (
        lambda: daemon.client.acquire("chat", device, memory=Span(1, 1, 1)),
        lambda: next(daemon.client.watch_leases()),
        lambda: daemon.client.link(device),
    ):
        with pytest.raises(NotPermitted):
            call()


def test_another_processs_lease_is_its_own(daemon: Mpsafed, chat: Client, device: str, start: Start) -> None:
    other = start()
    other.do(HOLD.format(GIB, GIB, GIB))
    lease = only(chat)
    for call in (lambda: chat.renew(lease.id), lambda: chat.resize(lease.id, memory=Span(0, 0, 1))):
        with pytest.raises(UnknownLease):
            call()
    chat.release(lease.id)
    assert chat.leases() == [], "an admin may"


@requires("root")
def test_other_users_leases_are_not_shown(daemon: Mpsafed, chat: Client, device: str) -> None:
    lease = chat.acquire("chat", device, memory=Span(GIB, GIB, GIB))
    with Client(daemon.socket) as stranger:
        with as_user(65534):
            assert stranger.leases() == []
        assert chat.leases() == [lease]


def test_a_new_floor_is_freed_by_who_holds_more_than_its_own(daemon: Mpsafed, device: str, start: Start) -> None:
    asked = threading.Event()

    def shrink(nbytes: int, deadline_ns: int) -> None:
        assert lease.granted_bytes == nbytes >= 2 * GIB
        assert deadline_ns > 0
        asked.set()

    wanted = Span(2 * GIB, 4 * GIB, 64 * GIB)
    with HeldLease(daemon.socket, "chat", device, memory=wanted, on_pressure=shrink) as lease:
        before = lease.granted_bytes
        assert before > 14 * GIB
        other = start("embed")
        granted = other.do(HOLD.replace("chat", "embed").format(8 * GIB, 8 * GIB, 8 * GIB) + "; lease.granted_bytes")
        assert granted == "None"
        assert asked.wait(PATIENCE_S)
        mine, theirs = daemon.client.leases()
        assert (theirs.granted_bytes, theirs.state, mine.state) == (8 * GIB, "held", "held")
        assert mine.granted_bytes == lease.granted_bytes <= before - 7 * GIB
        other.kill()
        while lease.granted_bytes < before:
            assert daemon.process.poll() is None
    assert daemon.client.leases() == []


@pytest.mark.parametrize("daemon", [pytest.param(HASTY, id="hasty")], indirect=True)
def test_a_floor_that_nobody_frees_is_refused(daemon: Mpsafed, chat: Client, device: str, start: Start) -> None:
    lease = chat.acquire("chat", device, memory=Span(GIB, GIB, 13 * GIB))
    words = chat.watch_leases()
    assert next(words).word == "granted"
    other = start("embed")
    told = other.fails(HOLD.replace("chat", "embed").format(8 * GIB, 8 * GIB, 8 * GIB))
    assert told.startswith("NoRoom: ")
    asked = until(words, "shrink")
    assert GIB <= asked.granted_bytes < lease.granted_bytes
    assert until(words, "late").granted_bytes == asked.granted_bytes
    assert until(words, "granted").granted_bytes == lease.granted_bytes
    assert only(chat).state == "held", "nobody waits for it any more"


@pytest.mark.parametrize("daemon", [pytest.param(HASTY, id="hasty")], indirect=True)
def test_the_growth_of_a_process_without_a_lease(daemon: Mpsafed, chat: Client, device: str, start: Start) -> None:
    foreign = start("batch")
    lease = chat.acquire("chat", device, memory=Span(2 * GIB, 2 * GIB, 64 * GIB))
    words = chat.watch_leases()
    foreign.do(TAKE.format(10))
    asked = until(words, "shrink")
    assert 2 * GIB <= asked.granted_bytes <= lease.granted_bytes - 9 * GIB
    assert until(words, "late").granted_bytes == asked.granted_bytes
    late = only(chat)
    assert (late.state, late.granted_bytes, late.asked_bytes) == ("late", lease.granted_bytes, asked.granted_bytes)
    with pytest.raises(LeasePressed, match=f"is to go down to {asked.granted_bytes} bytes before"):
        chat.resize(lease.id, memory=Span(3 * GIB, 3 * GIB, 64 * GIB))
    partly = chat.renew(lease.id, asked.granted_bytes + 1)
    assert partly.state == "late"
    assert chat.renew(lease.id, asked.granted_bytes).state == "held"
    foreign.do("memory.close()")
    assert until(words, "grow").granted_bytes > asked.granted_bytes
    foreign.kill()


def test_what_a_holder_uses_beside_its_lease_counts(daemon: Mpsafed, chat: Client, device: str, start: Start) -> None:
    holder = start()
    holder.do(TAKE.format(4))
    holder.do(HOLD.format(GIB, GIB, 64 * GIB))
    first = only(chat)
    assert first.granted_bytes <= 11 * GIB
    holder.do(f"more = cuda.Memory.create(driver, driver.devices()[0], {first.granted_bytes})")
    holder.do("client.renew(lease.id)")
    assert only(chat).state == "held", "it has filled what it was granted"
    holder.do("over = cuda.Memory.create(driver, driver.devices()[0], 512 << 20)")
    while only(chat).state != "pressed":
        assert daemon.process.poll() is None


def test_who_is_killed_leaves_nothing(daemon: Mpsafed, device: str, start: Start) -> None:
    victim = start()
    daemon.client.attach("chat").close()
    daemon.client.close()
    daemon.client.devices()
    before = daemon.descriptors()
    victim.do("lease = HeldLease(client.socket, 'chat', driver.devices()[0].uuid, memory=Span(1, 2, 3))")
    victim.do("link = client.link(driver.devices()[0].uuid); link.load(1)")
    assert daemon.descriptors() > before
    with daemon.client.link(device) as link:
        assert [cell.pid for _, cell in link.cells()] == [victim.process.pid, os.getpid()]
        assert not link.prefetch(1)
        victim.kill()
        while len(link.cells()) > 1:
            assert daemon.process.poll() is None
    daemon.client.close()
    gone(daemon, before)


def test_who_is_killed_at_any_time_leaves_nothing(daemon: Mpsafed, chat: Client, start: Start) -> None:
    chat.leases()
    before = daemon.descriptors()
    for calls in range(0, 60, 9):
        with start() as victim:
            victim.do(SEALED)
            victim.begin(BUSY)
            while not chat.leases():
                assert daemon.process.poll() is None
            for _ in range(calls):
                chat.leases()
            victim.kill()
        while chat.contents():
            assert daemon.process.poll() is None
        gone(daemon, before)


def test_who_is_killed_while_others_are_asked_for_it(daemon: Mpsafed, chat: Client, device: str, start: Start) -> None:
    lease = chat.acquire("chat", device, memory=Span(GIB, GIB, 13 * GIB))
    words = chat.watch_leases()
    waiting = start("embed")
    waiting.begin(HOLD.replace("chat", "embed").format(8 * GIB, 8 * GIB, 8 * GIB))
    until(words, "shrink")
    assert [(one.state, one.tenant) for one in chat.leases()] == [("pressed", "chat"), ("waiting", "embed")]
    waiting.kill()
    assert until(words, "granted").lease == lease.id
    assert only(chat).id == lease.id


def test_a_lease_ends_with_its_process_also_where_a_child_has_its_connection(
    chat: Client, start: Start, daemon: Mpsafed
) -> None:
    parent = start()
    parent.do(HOLD.format(1, 2, 3) + "; link = client.link(driver.devices()[0].uuid)")
    parent.do(FORK)
    child = int(parent.do("child"))
    try:
        parent.kill()
        while chat.leases():
            assert daemon.process.poll() is None
    finally:
        os.kill(child, 9)


def test_a_lease_that_is_not_renewed_ends(chat: Client, device: str) -> None:
    lease = chat.acquire("chat", device, memory=Span(1, 2, 3), ttl_ms=500)
    assert lease.expires_ns - lease.created_ns > 400_000_000
    told = until(chat.watch_leases(), "ended")
    assert (told.lease, told.detail) == (lease.id, "it was not renewed in time")
    with pytest.raises(UnknownLease):
        chat.renew(lease.id)


def test_a_lease_is_acquired_again_after_the_daemon_was_killed(daemon: Mpsafed, device: str) -> None:
    wanted = Span(GIB, 2 * GIB, 64 * GIB)
    with HeldLease(daemon.socket, "chat", device, memory=wanted, sm=Span(20, 20, 20), ttl_ms=1000) as lease:
        before = lease.granted_bytes
        for _ in range(2):
            pid = daemon.pid
            daemon.kill()
            assert lease.granted_bytes == before
            daemon.start(ready_for="calls")
            assert daemon.pid != pid
            while not daemon.client.leases():
                assert daemon.process.poll() is None
            again = only(daemon.client)
            assert (again.granted_bytes, again.sm_percent, again.identity.pid) == (before, 20, os.getpid())
        lease.resize(memory=Span(GIB, GIB, GIB))
        assert lease.granted_bytes == GIB
        lease.freed()
        daemon.kill()
        daemon.start(ready_for="calls")
        while not daemon.client.leases():
            assert daemon.process.poll() is None
        assert only(daemon.client).memory == Span(GIB, GIB, GIB)
        assert (lease.late, lease.sm_percent) == (False, 20)
    assert daemon.client.leases() == []


def test_without_nvml_nothing_is_granted_and_nothing_is_taken(daemon: Mpsafed, chat: Client, device: str) -> None:
    lease = chat.acquire("chat", device, memory=Span(GIB, GIB, 2 * GIB))
    children = psutil.Process(daemon.pid).children()
    (helper,) = [one for one in children if "mpsafed.nvml_helper" in told(one)[-1:]]
    helper.suspend()
    with pytest.raises(UnknownDevice, match="NVML does not answer, and without it nothing is granted"):
        chat.acquire("chat", device, memory=Span(GIB, GIB, GIB))
    assert chat.renew(lease.id).granted_bytes == lease.granted_bytes
    helper.wait(PATIENCE_S)
    while len(chat.leases()) < 2:
        with suppress(UnknownDevice):
            chat.acquire("chat", device, memory=Span(GIB, GIB, GIB))
