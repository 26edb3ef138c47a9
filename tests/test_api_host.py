# SPDX-License-Identifier: Apache-2.0
"""This test will report to the daemon as a tenant does: what reaches the engine, and what is refused."""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mpsafe.client import AsyncClient, Client
from mpsafe.errors import BadRequest, TooManyReports, UnknownClient
from mpsafe.model import Figures
from mpsafe.soft.host import SoftwareHost
from requires import requires
from served import Declared, Served

pytestmark = requires("soft")

STRANGER = """
import sys
from mpsafe.client import Client
from mpsafe.errors import UnknownClient
from mpsafe.model import Figures
with Client(sys.argv[1]) as client:
    try:
        client.report(Figures(queue=1))
    except UnknownClient as error:
        print(error.pid)
"""


@pytest.fixture
def served() -> Iterator[Served]:
    with (
        tempfile.TemporaryDirectory(prefix="mpsafe-") as name,
        SoftwareHost(Path(name)) as host,
        Served(host, Declared()) as served,
    ):
        yield served


def test_who_has_not_attached_is_unknown(served: Served) -> None:
    command = [sys.executable, "-c", STRANGER, served.socket]
    with subprocess.Popen(command, env=served.host.environment, stdout=subprocess.PIPE, text=True) as stranger:
        told, _ = stranger.communicate()
    assert int(told) == stranger.pid
    assert served.reports == []
    with served.client.attach(), pytest.raises(UnknownClient):  # the page alone makes nobody a tenant's process
        served.client.report(Figures(queue=1))


def test_what_a_tenant_reports_reaches_the_engine_with_its_pid(served: Served) -> None:
    async def check() -> None:
        async with AsyncClient(served.socket) as client:
            await client.report(Figures(queue=0, resident_bytes=1 << 40))

    with served.client.attach("chat"):
        served.client.report(Figures(3, 2, 1_500_000, 1 << 30))
        served.client.report(error=700, text="an illegal memory access")
        served.client.report()
        asyncio.run(asyncio.wait_for(check(), 60))
    assert served.reports == [
        (Figures(3, 2, 1_500_000, 1 << 30), None, "", os.getpid()),
        (None, 700, "an illegal memory access", os.getpid()),
        (None, None, "", os.getpid()),
        (Figures(queue=0, resident_bytes=1 << 40), None, "", os.getpid()),
    ]


@pytest.mark.parametrize(
    ("given", "parameter"),
    [
        ({"figures": Figures(queue=-1)}, "queue"),
        ({"figures": Figures(in_flight=2**32)}, "in_flight"),
        ({"figures": Figures(latency_ns=2**63)}, "latency_ns"),
        ({"figures": Figures(resident_bytes=-1)}, "resident_bytes"),
        ({"error": 0}, "error"),
        ({"error": 1000}, "error"),
        ({"text": "without an error"}, "error"),
        ({"error": 700, "text": "x" * 257}, "text"),
        ({"error": 700, "text": "two\nlines"}, "text"),
        ({"error": 700, "text": "\x1b[2J"}, "text"),
    ],
)
def test_figures_out_of_bounds(served: Served, given: dict[str, Any], parameter: str) -> None:
    with served.client.attach("chat"):
        with pytest.raises(BadRequest) as caught:
            served.client.report(**given)
        assert caught.value.parameter == parameter
        assert served.reports == []


def test_a_user_reports_so_often_and_not_more(served: Served) -> None:
    """However fast they come, more than 20 in one of the service's seconds are refused; the connection goes on."""
    with served.client.attach("chat"), Client(served.socket) as another:
        with pytest.raises(TooManyReports) as caught:
            for _ in range(100_000):
                served.client.report(Figures(queue=1))
        assert caught.value.per_second == 20
        assert len(served.reports) >= 20
        with pytest.raises(TooManyReports):  # it counts by user and not by connection
            for _ in range(100_000):
                another.report(Figures(queue=1))
        assert served.client.tenants()
