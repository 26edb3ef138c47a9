# SPDX-License-Identifier: Apache-2.0
"""This test will hold the software driver to the contract suite that the real module passes, in tests/vm."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from contract.check_driver import CHECKS
from contract.driver_bench import Bench, refused, software_bench
from mpsafe.soft.host import SoftwareHost
from requires import requires

pytestmark = requires("soft")

HEARTBEAT_S = 1.0


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_software_driver(tmp_path: Path, check: Callable[[Bench], None]) -> None:
    heartbeat_ms = int(HEARTBEAT_S * 1000)
    with SoftwareHost(tmp_path / "host", heartbeat_ms=heartbeat_ms, records=256, inject=True) as host:
        bench = software_bench(host.directory, heartbeat_s=HEARTBEAT_S)
        try:
            check(bench)
        finally:
            bench.clear()


def test_injecting_is_refused_where_the_kernel_does_not_allow_it(tmp_path: Path) -> None:
    with SoftwareHost(tmp_path / "host") as host:
        bench = software_bench(host.directory, heartbeat_s=HEARTBEAT_S)
        try:
            driver, victim = bench.open(), bench.client()
            assert "inject" not in driver.describe().features
            refused(errno.EPERM, lambda: bench.fault(driver, victim, 1 << 40))
            assert bench.entry(driver, victim).faults == 0
        finally:
            bench.clear()
