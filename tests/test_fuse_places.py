# SPDX-License-Identifier: Apache-2.0
"""This test will show where faults are placed by what driver 580.159.04 prints of them: tools/qualify/results."""

from dataclasses import replace

from mpsafed.signals import XidSeen
from test_blame import nvml
from test_fuse import SERVER, changed, follow_up, fused, sm_xid, xid_seen


def nobodys() -> XidSeen:
    return xid_seen("13, Graphics SM Warp Exception on (GPC 1, TPC 4, SM 0): Misaligned Address")


def test_a_channel_of_a_server_that_was_stopped_is_the_servers_fault() -> None:
    """All that 580.159.04 prints of a trap."""
    (event,) = fused([follow_up(SERVER)])
    assert event.fault is not None
    assert (event.kind, event.server, event.fault.fault_class, event.fault.xid) == ("fault", SERVER, "sm", 43)
    assert fused([follow_up(77)])[0].kind == "device", "of another process it says nothing by itself"


def test_lines_without_a_pid_are_of_the_server_whose_channel_is_stopped_after_them() -> None:
    """580.159.04 on any other SM exception; what was written down before the second line stays the same event."""
    (event,) = fused([nobodys()])
    assert (event.server, event.summary) == (None, "SM exception of an unknown process: nobody knows where")
    for before in (event, replace(event, phase="closed")):
        (told,) = fused([follow_up(SERVER)], before=[before])
        assert (told.id, told.phase, told.server, told.fault) == (event.id, "open", SERVER, event.fault)
        assert told.summary == "SM exception of an unknown process: MPS server 500 is lost"


def test_a_fault_outside_mps_is_not_that_of_a_server_which_fails_after_it() -> None:
    (outside,) = fused([nobodys(), sm_xid(77)])
    for before in (outside, replace(outside, phase="closed")):
        events = fused([follow_up(SERVER), changed("fault")], before=[before])
        assert [event.server for event in events] == [None, SERVER]


def test_what_nvml_tells_of_a_stopped_channel_is_the_same_fault() -> None:
    """The lines before it may have been taken for another fault's."""
    (event,) = fused([follow_up(SERVER), nvml(13), nvml(43)])
    assert (event.server, [one.source for one in event.blame.evidence]) == (SERVER, ["xid_pid", "nvml", "nvml"])
