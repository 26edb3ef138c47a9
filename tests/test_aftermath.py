# SPDX-License-Identifier: Apache-2.0
"""This test will ask what follows a takeover: which unit is started, and who is asked to make room, when."""

from dataclasses import replace

import pytest

from mpsafe.model import Identity
from mpsafed.aftermath import ReturnToMps, Situation, StartStandby, TenantAfter, unit_of, wanted

HOLDER = Identity(10, 1)
FIRST, SECOND = "mpsafe-standby@chat.service", "mpsafe-standby-b@chat.service"
NOW = Situation(HOLDER, holder_in_mps=False, unit=None, warm=0, warm_in_mps=0, quiet=False, settled=True)
KEEP, BACK, BOTH = TenantAfter(keep=True), TenantAfter(come_back=True), TenantAfter(keep=True, come_back=True)


@pytest.mark.parametrize(("unit", "started"), [(None, FIRST), (FIRST, SECOND), (SECOND, FIRST)])
def test_the_unit_that_the_holder_does_not_run_in_is_started(unit: str | None, started: str) -> None:
    assert wanted("chat", KEEP, replace(NOW, unit=unit)) == StartStandby(started)
    assert wanted("chat", KEEP, replace(NOW, unit=unit, holder_in_mps=True)) == StartStandby(started)


def test_a_tenant_that_has_a_standby_or_wants_none_gets_none() -> None:
    assert wanted("chat", KEEP, replace(NOW, warm=1)) is None
    assert wanted("chat", KEEP, replace(NOW, settled=False)) is None, "somebody is being promoted"
    assert wanted("chat", TenantAfter(), NOW) is None
    assert wanted("chat", BACK, NOW) is None


def test_a_quiet_holder_makes_room_for_one_that_waits_in_mps() -> None:
    ready = replace(NOW, warm=1, warm_in_mps=1, quiet=True)
    assert wanted("chat", BACK, ready) == ReturnToMps(HOLDER)
    assert wanted("chat", BOTH, ready) == ReturnToMps(HOLDER)
    for not_yet in (
        replace(ready, quiet=False),
        replace(ready, warm_in_mps=0),
        replace(ready, settled=False),
        replace(ready, holder_in_mps=True),
    ):
        assert wanted("chat", BACK, not_yet) is None
    assert wanted("chat", KEEP, ready) is None, "it stays where it is unless that is wanted"


def test_a_unit_is_found_in_the_cgroups_of_a_process() -> None:
    assert unit_of("chat", f"0::/system.slice/system-mpsafe\\x2dstandby.slice/{FIRST}\n") == FIRST
    assert unit_of("chat", f"1:name=systemd:/system.slice/{SECOND}/inner\n0::/\n") == SECOND
    assert unit_of("chat", "0::/system.slice/mpsafe-standby@chat2.service\n") is None
    assert unit_of("chat", "") is None
