# SPDX-License-Identifier: Apache-2.0
"""This test will send experts over the emulated link: what is waited for goes first, and the page tells no lies."""

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from contract.mps_rig import eventually
from mpsafe.link import Link as LinkPage
from mpsafe.model import Identity
from mpsafed.leases.links import Links
from requires import requires

pytestmark = requires("torch")

MIB = 1 << 20
SLOW = 20e6
FAST = 2e9


@pytest.fixture
def pages() -> Iterator[tuple[LinkPage, LinkPage]]:
    """Two processes' pages of one link, without a bound to speak of."""
    links = Links(1 << 40)
    fd, first = links.take("GPU-1", Identity(11, 1), 100)
    _, second = links.take("GPU-1", Identity(22, 2), 100)
    with LinkPage(os.dup(fd), first) as one, LinkPage(os.dup(fd), second) as other:
        yield one, other
    links.close()


def tensors(count: int) -> list[tuple[Any, Any]]:
    import torch

    device = torch.device("cpu")
    made = [torch.full((MIB,), number + 1, device=device).to(torch.uint8) for number in range(count)]
    return [(one, torch.zeros_like(one)) for one in made]


def in_flight(page: LinkPage) -> list[tuple[int, int]]:
    """Bytes on demand and ahead, of each cell."""
    return [(cell.on_demand_bytes, cell.prefetch_bytes) for _, cell in page.cells()]


def arrived(source: Any, target: Any) -> bool:
    import torch

    return torch.equal(source, target)


def test_what_is_waited_for_goes_before_what_is_not() -> None:
    from mpsafe.experts.links import EmulatedLink

    link = EmulatedLink(SLOW)
    pairs = tensors(3)
    first, second = (link.send(*pair, urgent=False) for pair in pairs[:2])
    urgent = link.send(*pairs[2], urgent=True)
    link.wait([urgent])
    assert arrived(*pairs[2]) and not first.arrived and not second.arrived
    link.wait([second])
    assert first.arrived and all(arrived(*pair) for pair in pairs)
    link.close()


def test_a_prefetch_that_is_hurried_leaves_nothing_in_flight(pages: tuple[LinkPage, LinkPage]) -> None:
    from mpsafe.experts.links import EmulatedLink

    page, other = pages
    link = EmulatedLink(SLOW, page=page)
    (pair,) = tensors(1)
    transfer = link.send(*pair, urgent=False)
    eventually(lambda: in_flight(other)[0][1] > 0, "a piece is on its way")
    link.hurry(transfer)
    assert in_flight(other)[0][0] == MIB
    link.wait([transfer])
    link.close()
    assert arrived(*pair) and in_flight(other) == [(0, 0), (0, 0)]


def test_nothing_moves_ahead_while_another_process_waits(pages: tuple[LinkPage, LinkPage]) -> None:
    from mpsafe.experts.links import EmulatedLink

    page, other = pages
    link = EmulatedLink(FAST, page=page)
    ahead, urgent = tensors(2)
    other.load(5)
    transfer = link.send(*ahead, urgent=False)
    link.wait([link.send(*urgent, urgent=True)])
    assert arrived(*urgent) and not transfer.arrived and not ahead[1].numpy().any()
    other.loaded(5)
    link.wait([transfer])
    link.close()
    assert arrived(*ahead) and in_flight(other) == [(0, 0), (0, 0)]


def test_of_what_was_abandoned_nothing_more_is_written(pages: tuple[LinkPage, LinkPage]) -> None:
    from mpsafe.experts.links import EmulatedLink

    page, other = pages
    link = EmulatedLink(SLOW, page=page)
    moving, queued = tensors(2)
    first, second = link.send(*moving, urgent=True), link.send(*queued, urgent=True)
    eventually(lambda: bool(moving[1][0]), "it moves")
    link.abandon(second)
    link.abandon(first)
    written = moving[1].numpy().copy()
    assert first.arrived and second.arrived and not queued[1].numpy().any()
    time.sleep(0.05)
    assert (moving[1].numpy() == written).all() and in_flight(other) == [(0, 0), (0, 0)]
    link.close()
