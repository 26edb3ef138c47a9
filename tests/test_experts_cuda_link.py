# SPDX-License-Identifier: Apache-2.0
"""This test will send experts to the software GPU, by the very calls that a real one gets."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mpsafe.soft.host import LIBRARIES, SoftwareHost
from requires import requires

TESTS = Path(__file__).parent
CHECKS = (
    "experts_arrive_byte_for_byte",
    "a_copy_waits_for_what_is_computed_with_its_slot",
    "what_is_computed_next_waits_for_the_copy",
    "what_has_arrived_costs_nothing_any_more",
)
pytestmark = requires("torch", "soft")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """By check."""
    with SoftwareHost(tmp_path_factory.mktemp("host"), memory_bytes=1 << 30) as host:
        path = os.pathsep.join([host.environment["PYTHONPATH"], os.fspath(TESTS)])
        done = subprocess.run(
            [sys.executable, "-m", "contract.check_link", os.fspath(LIBRARIES / "libcuda.so.1")],
            env={**host.environment, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
    return dict(line.split("\t", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize("name", CHECKS)
def test_the_link_keeps_its_word(outcomes: dict[str, str], name: str) -> None:
    assert outcomes.get(name) == "ok"
