# SPDX-License-Identifier: Apache-2.0
"""This test will read events as people and as scripts do, with the evidence and what follows from it."""

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from command import mpsafe
from daemon_process import Mpsafed
from mpsafe.blame import because
from mpsafe.client import AsyncClient
from mpsafe.errors import BadRequest
from mpsafe.model import Event
from requires import requires
from tenant_process import Tenant

pytestmark = requires("soft")


class Printed(msgspec.Struct):
    shape: str
    lost: int
    event: Event
    because: list[str] | None = None


def test_a_fault_is_explained_alike_by_the_daemon_and_the_command(
    mpsafed: Mpsafed, tenant: Callable[..., Tenant]
) -> None:
    async def check() -> None:
        async with AsyncClient(mpsafed.socket) as client:
            assert await client.explain(event.id) == explained

    batch = tenant("batch", mpsafed.socket)
    batch.do("wild_write")
    event = mpsafed.fault_closed()
    explained = mpsafed.client.explain(event.id)
    assert explained.event.id == event.id
    assert explained.because == because(explained.event)
    assert f"batch ({batch.pid}) is blamed because the driver's own record" in explained.because[0]
    asyncio.run(asyncio.wait_for(check(), 60))
    for line in mpsafe("events", "--evidence", "--json", "--socket", mpsafed.socket).splitlines():
        printed = msgspec.json.decode(line, type=Printed)
        assert (printed.shape, printed.because) == ("mpsafe.event/1", because(printed.event))
    shown = mpsafe("events", "--evidence", "--socket", mpsafed.socket)
    assert f"    {explained.because[0]}\n" in shown
    assert f"memory fault of batch ({batch.pid}) absorbed" in shown
    assert "kernel_record" in shown
    plain = mpsafe("events", "--socket", mpsafed.socket)
    assert "kernel_record" not in plain
    assert "because" not in mpsafe("events", "--json", "--socket", mpsafed.socket)


def test_an_event_that_is_not_known(mpsafed: Mpsafed) -> None:
    for number in (0, -1, 12345):
        with pytest.raises(BadRequest, match="parameter id: expected the id of an event that is still known"):
            mpsafed.client.explain(number)


def test_what_a_process_calls_itself_steers_no_terminal(mpsafed: Mpsafed) -> None:
    """The name in a line of the kernel log is the process's own choice."""
    line = "NVRM: Xid (PCI:0000:01:00): 13, pid=31337, name=a\x1b[2J[b], Graphics SM Warp Exception on (GPC 0): x"
    with mpsafed.host.kernel_log.open("a") as log:
        log.write(f"3,99999,1,-;{line}\n")
    mpsafed.until(lambda event: event.fault is not None and event.fault.xid == 13)
    shown = mpsafe("events", "--evidence", "--socket", mpsafed.socket)
    assert "\x1b" not in shown
    assert "[b]" in shown, "nor is it taken for a style"
