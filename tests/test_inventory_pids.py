# SPDX-License-Identifier: Apache-2.0
"""This test will read lines of a log that name a pid, after the process that they meant has gone."""

import asyncio
import subprocess
import time
from collections.abc import Iterator

import pytest

from mpsafe.model import Identity
from mpsafed.mps.controls import Controls
from mpsafed.mps.inventory import Inventory
from mpsafed.processes import identify, started_ns
from mpsafed.signals import ClientConnected

SERVER = 4242
SECOND_NS = 1_000_000_000


@pytest.fixture
def process() -> Iterator[Identity]:
    with subprocess.Popen(["sleep", "1000"]) as started:
        identity = identify(started.pid)
        assert identity is not None
        yield identity
        started.kill()


def named(process: Identity, time_ns: int) -> list[Identity]:
    """Who is a client after such a line; nobody is there to be asked for a list."""

    async def read() -> list[Identity]:
        found = Inventory(Controls(()), tenant_of=lambda _: None, came=lambda _: None, faulted=lambda server, uid: None)
        found.named(ClientConnected(time_ns=time_ns, server=SERVER, pid=process.pid))
        return list(found.clients)

    return asyncio.run(read())


def test_a_line_makes_a_client_of_the_process_that_it_names(process: Identity) -> None:
    assert named(process, time.time_ns()) == [process]


def test_an_old_line_does_not_make_a_client_of_who_has_the_pid_now(process: Identity) -> None:
    assert named(process, started_ns(process) - 5 * SECOND_NS) == []


def test_the_start_of_a_process_is_told_to_the_clock_of_logs(process: Identity) -> None:
    assert abs(time.time_ns() - started_ns(process)) < 30 * SECOND_NS
