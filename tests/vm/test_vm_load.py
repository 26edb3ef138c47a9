# SPDX-License-Identifier: Apache-2.0
"""This test will put the stand-alone module under load for minutes: storms of faults, a million calls, unloading."""

import json
from collections.abc import Generator
from typing import Any

import pytest

from requires import requires
from tools.vm import Guest
from vm.rig import CLIENT, NEEDS, OWNER, guest, owned, programs

pytestmark = [requires(*NEEDS, "minutes"), pytest.mark.timeout(3600)]

RING = 16_384
STORM_S = 60
PER_SECOND = 10_000


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Generator[Guest, None, None]:
    with guest("agent", extra=programs(tmp_path_factory.mktemp("programs"))) as booted:
        yield booted


@pytest.fixture
def loaded(machine: Guest) -> Generator[Guest, None, None]:
    machine.run("modprobe", "mpsafe_standalone", "mpsafe_inject=1")
    yield machine
    machine.run("rmmod", "mpsafe_standalone")


def seen(machine: Guest, owner: int) -> Any:
    """What an owner that has ended saw."""
    machine.sh(f"while kill -0 {owner}; do sleep 0.2; done", limit_s=300)
    return json.loads(machine.run("tail", "-n1", f"/tmp/{owner}.out"))


def test_no_record_of_a_storm_is_lost_at_ten_thousand_a_second(loaded: Guest) -> None:
    owner = owned(loaded, STORM_S + 15, "absorb")
    made = int(loaded.run("python3", CLIENT, "storm", str(PER_SECOND), str(STORM_S), limit_s=600))
    saw = seen(loaded, owner)
    assert made == PER_SECOND * STORM_S
    assert saw["lost"] == saw["gaps"] == 0
    assert saw["records"] > made, "one each, and those of the policy and of the client's end"


def test_what_a_ring_cannot_hold_is_counted(loaded: Guest) -> None:
    owner = owned(loaded, 20, "absorb", "10")
    made = int(loaded.run("python3", CLIENT, "storm", "50000", "2", limit_s=600))
    saw = seen(loaded, owner)
    assert made > 2 * RING
    assert saw["lost"] > 0
    assert saw["lost"] == saw["before_first"] + saw["gaps"]
    assert saw["records"] + saw["lost"] == saw["made"]


def test_the_module_comes_and_goes_under_load(machine: Guest) -> None:
    """Storms and owners end at any moment; what refuses to go while it is used goes at once when it is not."""
    machine.sh(
        f"""
        for round in $(seq 40); do
            modprobe mpsafe_standalone mpsafe_inject=1
            timeout 3 python3 {OWNER} 60 absorb >/dev/null &
            for client in 1 2 3; do timeout 4 python3 {CLIENT} storm 5000 60 >/dev/null & done
            sleep 1.$((round % 10))
            until rmmod mpsafe_standalone 2>/dev/null; do :; done
            wait
        done
        """,
        limit_s=1200,
    )


def test_a_million_malformed_calls(loaded: Guest) -> None:
    loaded.run("./ioctl_fuzz", "1000000", limit_s=3000)
