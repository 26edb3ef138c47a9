# SPDX-License-Identifier: Apache-2.0
"""This test will read the status page as a tenant does, and try to write it."""

import fcntl
import mmap
import os
import threading
from collections.abc import Iterator

import pytest

from mpsafe.errors import PeerMisbehaved
from mpsafe.model import Figures, Identity, Tenant
from mpsafe.status import PAGE_BYTES, TENANTS, StatusPage
from mpsafed.page import Page

CHAT = Tenant("chat", 1000, "healthy", 3, [Identity(11, 110), Identity(12, 120)], Figures(4, 5, 6, 7))
EMBED = Tenant("embed", None, "fenced", 1, [])


@pytest.fixture
def page() -> Iterator[Page]:
    written = Page()
    yield written
    written.close()


def reader(page: Page) -> StatusPage:
    return StatusPage(os.dup(page.fd))


def test_what_is_written_is_read(page: Page) -> None:
    page.write([CHAT, EMBED], 42)
    with reader(page) as status:
        header = status.header()
        assert (header.epoch, header.last_event, header.tenants) == (page.epoch, 42, 2)
        assert header.heartbeat_ns > 0
        chat, embed = status.tenants()
    assert (chat.name, chat.uid, chat.health, chat.generation, chat.clients) == ("chat", 1000, "healthy", 3, 2)
    assert (chat.queue, chat.in_flight, chat.latency_ns, chat.resident_bytes) == (4, 5, 6, 7)
    assert (embed.name, embed.uid, embed.health, embed.clients) == ("embed", 0xFFFFFFFF, "fenced", 0)


def test_figures_beyond_the_page_are_as_large_as_it_holds(page: Page) -> None:
    page.write([Tenant("huge", 0, "healthy", 1, [], Figures(1 << 70, 1 << 70, 1 << 70, 1 << 70))], 1)
    with reader(page) as status:
        (huge,) = status.tenants()
    assert (huge.queue, huge.in_flight) == ((1 << 32) - 1,) * 2
    assert (huge.latency_ns, huge.resident_bytes) == ((1 << 64) - 1,) * 2


def test_a_new_page_has_no_tenants_and_fewer_replace_more(page: Page) -> None:
    with reader(page) as status:
        assert status.tenants() == []
        page.write([CHAT, EMBED], 1)
        page.write([EMBED], 2)
        assert [tenant.name for tenant in status.tenants()] == ["embed"]


def test_each_page_has_another_epoch(page: Page) -> None:
    other = Page()
    assert other.epoch != page.epoch
    other.close()


def test_more_tenants_than_room_are_cut(page: Page) -> None:
    page.write([CHAT] * (TENANTS + 5), 1)
    with reader(page) as status:
        assert len(status.tenants()) == TENANTS


def test_a_reader_sees_one_state_at_a_time(page: Page) -> None:
    """Two states are written in turn: a mixture of both would be seen as such."""
    states = [
        [Tenant(f"t{number}", 0, "healthy", generation, []) for number in range(50)] for generation in (1, 1_000_000)
    ]
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for generation, tenants in enumerate(states):
                page.write(tenants, generation)

    writer = threading.Thread(target=write)
    page.write(states[0], 0)
    writer.start()
    try:
        with reader(page) as status:
            for _ in range(2000):
                assert len({tenant.generation for tenant in status.tenants()}) == 1
    finally:
        stop.set()
        writer.join()


def test_nobody_else_can_write_it(page: Page) -> None:
    """The descriptor that a client gets: mapping it for writing fails, and so does changing its size."""
    fd = os.open(f"/proc/self/fd/{page.fd}", os.O_RDWR)
    try:
        with pytest.raises(PermissionError):
            mmap.mmap(fd, PAGE_BYTES, mmap.MAP_SHARED, mmap.PROT_WRITE)
        for size in (0, 2 * PAGE_BYTES):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, size)
        with pytest.raises(PermissionError):
            os.pwrite(fd, b"x", 0)
        with pytest.raises(PermissionError):
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 0)
    finally:
        os.close(fd)


def test_a_reader_keeps_its_page_after_the_daemon_let_it_go() -> None:
    page = Page()
    page.write([CHAT], 7)
    with reader(page) as status:
        page.close()
        assert status.header().last_event == 7


@pytest.mark.parametrize("content", [b"", b"x" * PAGE_BYTES, bytes(PAGE_BYTES), b"MPSAFEPG" + bytes(PAGE_BYTES - 8)])
def test_what_is_no_page_is_refused(content: bytes) -> None:
    fd = os.memfd_create("no page")
    os.write(fd, content)
    with pytest.raises(PeerMisbehaved, match="expected a status page"):
        StatusPage(fd)
    with pytest.raises(OSError):
        os.fstat(fd)
