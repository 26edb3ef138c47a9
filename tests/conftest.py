# SPDX-License-Identifier: Apache-2.0
"""Fixtures that more than one test file uses: a software host with MPS, the daemon on it, its tenants.

Hypothesis never fails a test for being slow, and tries the same examples each time in CI.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, settings

from daemon_process import Mpsafed
from mpsafe.soft.host import SoftwareHost
from tenant_process import Tenant

# Tests run beside one another: threads of one process that wait for each other in a loop take the others' time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile(
    "mpsafe",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("mpsafe")

# What takes longest: begun first, so that no worker is alone with it at the end.
FIRST: Final = ("vm", "end2end", "test_style.py", "test_install.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Orders the files; the workers take one after the other."""

    def place(item: pytest.Item) -> int:
        return next((number for number, name in enumerate(FIRST) if name in item.path.parts), len(FIRST))

    items.sort(key=place)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a path short enough for sockets in it, which every user may enter."""
    with tempfile.TemporaryDirectory(prefix="mpsafe-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def software_host(place: Path) -> Iterator[SoftwareHost]:
    """A software GPU host with MPS started."""
    with SoftwareHost(place) as host:
        host.start_mps()
        yield host


@pytest.fixture
def mpsafed(software_host: SoftwareHost) -> Iterator[Mpsafed]:
    """The daemon, serving."""
    with Mpsafed(software_host) as daemon:
        daemon.start()
        yield daemon


@pytest.fixture
def tenant(software_host: SoftwareHost) -> Iterator[Callable[..., Tenant]]:
    """Starts tenant processes on the software host; see `Tenant` for the arguments."""
    with ExitStack() as stack:
        yield lambda *args, **named: stack.enter_context(Tenant(software_host, *args, **named))
