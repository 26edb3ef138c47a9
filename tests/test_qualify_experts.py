# SPDX-License-Identifier: Apache-2.0
"""This test will run the probes of offloaded experts, on the CPU with a small shape."""

from collections.abc import Iterator

import pytest

from requires import requires
from tools.qualify.machine import describe, software_target
from tools.qualify.probes import PROBES
from tools.qualify.stage import Target

pytestmark = requires("soft", "torch")

BY_NAME = {probe.name: probe for probe in PROBES}


@pytest.fixture
def target() -> Iterator[Target]:
    with software_target() as bare:
        yield describe(bare, uuid=None)[0]


def test_each_policy_has_its_times(target: Target) -> None:
    finding = BY_NAME["experts_olmoe"].run(target)
    assert finding.status == "ok", finding.reason
    assert len(finding.measured) == 9
    for name, seen in finding.measured.items():
        assert seen["ttft_ms"] > 0 and seen["tpot_p50_ms"] <= seen["tpot_p95_ms"], name
        assert "emulated" in seen["link"]
    assert finding.measured["resident"]["hit_rate"] == 1
    assert finding.measured["lru, 25 %"]["hit_rate"] > finding.measured["lru, 12.5 %"]["hit_rate"]
