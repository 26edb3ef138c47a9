# SPDX-License-Identifier: Apache-2.0
"""This test will put the questions about the vault and the takeover to the software GPU."""

from collections.abc import Iterator

import pytest

from requires import requires
from tools.qualify.machine import describe, software_target
from tools.qualify.probe import Probe
from tools.qualify.probes.takeover import TAKEOVER
from tools.qualify.stage import Target

BY_NAME = {probe.name: probe for probe in TAKEOVER}

pytestmark = requires("soft")


@pytest.fixture
def target() -> Iterator[Target]:
    with software_target() as bare:
        yield describe(bare, uuid=None)[0]


def good(probe: Probe, target: Target) -> dict[str, object]:
    """What was measured; the outcome is all that the software GPU claims to give, and true."""
    finding = probe.run(target)
    assert finding.status == "ok", finding.reason
    assert finding.outcome == dict.fromkeys(probe.reproduced, True)
    return finding.measured


def test_memory_outlives_the_daemon(target: Target) -> None:
    good(BY_NAME["vault_outlives_daemon"], target)


def test_a_takeover_has_a_timeline(target: Target) -> None:
    measured = good(BY_NAME["takeover_sm_fault"], target)
    assert {"restart_silence_ms", "standby_silence_ms", "promoted_ms", "serving_ms"} <= measured.keys()


def test_throughput_is_told_with_the_vault_and_without(target: Target) -> None:
    measured = good(BY_NAME["vault_throughput"], target)
    assert measured.keys() == {"published_tokens_per_s", "unpublished_tokens_per_s", "create_ms", "commit_us"}
