# SPDX-License-Identifier: Apache-2.0
"""This test will let processes load over a link, and look who waits for whom."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsafe.errors import BadRequest, PeerMisbehaved
from mpsafe.link import CELLS, PAGE_BYTES, STALE_NS, Budget, Cell, Link
from mpsafe.model import Identity
from mpsafed.leases.links import Links

SECOND = 1_000_000_000
RATE = 1000 * 1000


def cells(*each: tuple[int, int, int]) -> list[tuple[int, Cell]]:
    """By bytes on demand, time and weight."""
    return [(n, Cell(n + 1, 0, on_demand, 0, at, weight)) for n, (on_demand, at, weight) in enumerate(each)]


def test_nobody_prefetches_while_somebody_waits_for_a_load() -> None:
    now = 10 * SECOND
    budget = Budget(RATE, 0)
    assert not budget.may_prefetch(1, 0, cells((0, now, 100), (5, now, 100)), now)
    assert not budget.may_prefetch(1, 0, cells((5, now, 100)), now), "not beside one's own load either"
    assert budget.may_prefetch(1, 0, cells((0, now, 100), (5, now - STALE_NS, 100)), now), "whoever it was has ended"
    assert not budget.may_prefetch(1, 3, cells((0, now, 100)), now), "one's own cell was taken back"


@given(st.lists(st.tuples(st.integers(1, 20_000), st.integers(0, 20_000_000)), min_size=1, max_size=100))
def test_a_share_of_the_link_is_never_exceeded(chunks: list[tuple[int, int]]) -> None:
    budget, now, sent, largest = Budget(RATE, 0), 0, 0, 0
    for nbytes, pause_ns in chunks:
        now += pause_ns
        if budget.may_prefetch(nbytes, 0, cells((0, 0, 100), (0, 0, 300)), now):
            sent, largest = sent + nbytes, max(largest, nbytes)
    assert sent <= RATE / 4 * now / SECOND + largest + 1


def test_a_chunk_that_is_larger_than_the_bucket_is_paid_for_afterwards() -> None:
    budget, alone = Budget(RATE, 0), cells((0, 0, 100))
    assert budget.may_prefetch(RATE, 0, alone, SECOND)
    assert not budget.may_prefetch(1, 0, alone, SECOND + SECOND // 2)
    assert budget.may_prefetch(1, 0, alone, 3 * SECOND)


def test_two_processes_see_each_other() -> None:
    links = Links(1 << 40)
    fd, first = links.take("GPU-1", Identity(11, 1), 100)
    _, second = links.take("GPU-1", Identity(22, 2), 300)
    with Link(os.dup(fd), first) as one, Link(os.dup(fd), second) as other:
        assert [(cell.pid, cell.start_ticks, cell.weight) for _, cell in one.cells()] == [(11, 1, 100), (22, 2, 300)]
        other.load(1 << 20)
        assert not one.prefetch(1)
        one.load(5)
        one.loaded(5)
        assert not one.prefetch(1)
        other.loaded(1 << 20)
        assert one.prefetch(1)
        assert other.cells()[0][1].prefetch_bytes == 1
        other.load(7)
        other.update()
        links.give_back("GPU-1", second)
        assert [cell.pid for _, cell in one.cells()] == [11], "who died with a load in flight keeps nobody"
        one.prefetched(1)
        assert one.cells()[0][1].prefetch_bytes == 0
    links.give_back("GPU-1", first)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    links.close()


def test_cells_run_out() -> None:
    links = Links(1)
    taken = [links.take("GPU-1", Identity(n + 1, 0), 1)[1] for n in range(CELLS)]
    assert sorted(taken) == list(range(CELLS))
    with pytest.raises(BadRequest, match="at most 255 cells"):
        links.take("GPU-1", Identity(1, 0), 1)
    links.close()


def test_what_is_no_link_page_is_refused() -> None:
    for size in (0, PAGE_BYTES):
        fd = os.memfd_create("other")
        os.ftruncate(fd, size)
        with pytest.raises(PeerMisbehaved):
            Link(fd, 0)
