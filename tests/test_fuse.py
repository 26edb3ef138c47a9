# SPDX-License-Identifier: Apache-2.0
"""This test will show that signals become the right events with the right blame, in whatever order they come."""

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsafe import xid
from mpsafe.model import Action, Client, Event, Evidence, EvidenceSource, Identity, Server, ServerState
from mpsafed.blame import EVIDENCE_MAX
from mpsafed.fuse import WINDOW_NS, fuse
from mpsafed.signals import (
    ClientConnected,
    ClientGone,
    FaultAbsorbed,
    FaultMet,
    FaultPassed,
    ServerChanged,
    Signal,
    SignalsLost,
    XidSeen,
)
from mpsafed.snapshot import Snapshot

T0 = 1_700_000_000_000_000_000
SERVER, OTHER_SERVER = 500, 600
DEVICE, PCI = "GPU-1", "0000:01:00"


def client(pid: int, *, server: int = SERVER, tenant: str | None = None) -> Client:
    return Client(Identity(pid, pid * 10), 1000 + pid, f"name{pid}", server, tenant, "connected")


GUILTY, INNOCENT, FOREIGN = client(11, tenant="embed"), client(12, tenant="chat"), client(21, server=OTHER_SERVER)
HOST = Snapshot(
    clients={c.identity: c for c in (GUILTY, INNOCENT, FOREIGN)},
    servers={SERVER: Server(SERVER, 0, "active", 2), OTHER_SERVER: Server(OTHER_SERVER, 0, "active", 1)},
    devices={PCI: DEVICE, "0000:02:00": "GPU-2"},
)


def xid_seen(text: str, *, at: int = 0, pci: str = PCI) -> XidSeen:
    line = f"NVRM: Xid (PCI:{pci}): {text}"
    found = xid.parse_message(line)
    assert found is not None
    return XidSeen(time_ns=T0 + at, xid=found, text=line)


def mmu_xid(pid: int = GUILTY.identity.pid) -> XidSeen:
    return xid_seen(
        f"31, pid={pid}, name=python, Ch 00000008, intr 00000000. MMU Fault: ENGINE GRAPHICS GPC0 GPCCLIENT_T1_0 "
        "faulted @ 0x5000_00000000. Fault is of type FAULT_PDE ACCESS_TYPE_VIRT_WRITE"
    )


def sm_xid(pid: int | str = GUILTY.identity.pid, *, sm: int = 0, at: int = 0) -> XidSeen:
    text = f"13, pid={pid}, name=python, Graphics SM Warp Exception on (GPC 0, TPC 0, SM {sm}): Misaligned Address"
    return xid_seen(text, at=at)


def follow_up(pid: int = GUILTY.identity.pid) -> XidSeen:
    return xid_seen(f"43, pid={pid}, name=python, Ch 00000008")


def absorbed(who: Client = GUILTY, *, at: int = 0, address: int = 0x500000000000) -> FaultAbsorbed:
    return FaultAbsorbed(
        time_ns=T0 + at, client=who.identity, uid=who.uid, name=who.name, device=DEVICE, address=address,
        access="write", fault="pde",
    )  # fmt: skip


def passed(who: Client = GUILTY) -> FaultPassed:
    return FaultPassed(
        time_ns=T0, client=who.identity, uid=who.uid, name=who.name, device=DEVICE, address=0x500000000000,
        access="write", fault="pde", status=0x56,
    )  # fmt: skip


def changed(state: ServerState, *, server: int = SERVER, at: int = 0) -> ServerChanged:
    return ServerChanged(time_ns=T0 + at, server=server, state=state, text=f"server status {state}")


def met(pid: int = GUILTY.identity.pid, *, at: int = 0) -> FaultMet:
    return FaultMet(
        time_ns=T0 + at, server=SERVER, pid=pid, text=f"Client {{PID: {pid}}} encountered a fatal GPU error"
    )


def gone(who: Client = GUILTY, *, at: int = 0) -> ClientGone:
    return ClientGone(time_ns=T0 + at, client=who.identity)


def fused(
    signals: Iterable[Signal],
    snapshot: Snapshot = HOST,
    *,
    before: Iterable[Event] = (),
    entries: list[Event] | None = None,
) -> list[Event]:
    """The latest entry of each event after these signals; `entries` gets every entry of the stream."""
    latest = {event.id: event for event in before}
    seq = max(latest, default=0)
    for signal in signals:
        event = fuse(signal, list(latest.values()), snapshot)
        if event is None:
            continue
        seq += 1
        event = replace(event, seq=seq, id=event.id or seq)
        latest[event.id] = event
        if entries is not None:
            entries.append(event)
    return list(latest.values())


def faults(events: Iterable[Event]) -> list[Event]:
    return [event for event in events if event.kind == "fault"]


# What each kind of signal becomes by itself.


def test_an_absorbed_fault_is_its_clients_own() -> None:
    (event,) = fused([absorbed()])
    assert (event.kind, event.phase, event.device, event.server, event.uid) == ("fault", "open", DEVICE, SERVER, 1011)
    assert event.fault is not None
    assert (event.fault.fault_class, event.fault.absorbed) == ("mmu", True)
    assert (event.fault.address, event.fault.access, event.fault.detail) == ("0x500000000000", "write", "pde")
    assert (event.blame.client, event.blame.name, event.blame.tenant) == (GUILTY.identity, "name11", "embed")
    assert [evidence.source for evidence in event.blame.evidence] == ["kernel_record"]
    assert event.summary == "memory fault of embed (11) absorbed: write at 0x500000000000"
    assert event.time_ns == T0


def test_an_absorbed_fault_of_a_process_outside_mps_names_it_all_the_same() -> None:
    stranger = client(99)
    (event,) = fused([absorbed(stranger)])
    assert event.blame.client == stranger.identity
    assert event.server is None
    assert event.uid == stranger.uid


def test_absorbed_faults_of_one_client_are_one_event_and_of_two_clients_two() -> None:
    entries: list[Event] = []
    signals = [absorbed(address=address, at=address) for address in range(1000)]
    events = fused([*signals, absorbed(INNOCENT), absorbed(FOREIGN)], entries=entries)
    assert [event.blame.client for event in events] == [c.identity for c in (GUILTY, INNOCENT, FOREIGN)]
    assert len(entries) == 3


def test_an_absorbed_fault_and_a_fatal_one_are_two_events() -> None:
    orders: list[list[Signal]] = [[absorbed(INNOCENT), sm_xid()], [sm_xid(), absorbed(INNOCENT)]]
    for signals in orders:
        events = fused(signals)
        assert {event.blame.client for event in events} == {None, INNOCENT.identity}
        assert len(events) == 2


def test_a_fault_that_the_driver_passed_on_is_fatal_and_blamed_by_the_kernels_record() -> None:
    (event,) = fused([passed()])
    assert event.fault is not None
    assert not event.fault.absorbed
    assert event.blame.client == GUILTY.identity
    assert event.summary == "memory fault of embed (11): MPS server 500 is lost"


def test_a_xid_of_a_client_tells_of_its_server_and_blames_nobody() -> None:
    """Under MPS it has the pid of the client that came last."""
    (event,) = fused([sm_xid()])
    assert event.fault is not None
    assert (event.kind, event.device, event.server, event.fault.xid) == ("fault", DEVICE, SERVER, 13)
    assert event.blame.client is None
    assert event.summary == "SM exception of an unknown process: MPS server 500 is lost"


def test_a_fault_outside_mps_blames_nobody_and_says_so() -> None:
    (event,) = fused([sm_xid(77)])
    assert event.blame.client is None
    assert event.server is None
    assert event.summary == "SM exception of an unknown process: outside MPS"


def test_a_server_in_fault_is_a_fault_of_nobody_yet() -> None:
    (event,) = fused([changed("fault")])
    assert (event.kind, event.server, event.blame.client) == ("fault", SERVER, None)


def test_a_server_that_is_gone_is_told() -> None:
    (event,) = fused([changed("gone")])
    assert (event.kind, event.server, event.fault) == ("server", SERVER, None)


def test_a_client_that_ends_is_told_once_and_closed() -> None:
    (event,) = fused([gone(INNOCENT)])
    assert (event.kind, event.phase, event.server, event.uid) == ("exit", "closed", SERVER, INNOCENT.uid)
    assert event.blame.client is None, "an end is no fault"
    assert fused([gone(client(99))]) == []


def test_lost_signals_are_counted() -> None:
    (event,) = fused([SignalsLost(time_ns=T0, source="kernel-log", count=7)])
    assert (event.lost_signals, event.kind) == (7, "device")
    assert "kernel-log lost 7 signals" in event.summary


@pytest.mark.parametrize("state", ["active", "initializing"])
def test_what_is_no_event(state: ServerState) -> None:
    assert fused([changed(state), ClientConnected(time_ns=T0, server=SERVER, pid=99)]) == []


def test_a_xid_of_a_device_is_an_event_of_that_device() -> None:
    (event,) = fused([xid_seen("79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.")])
    assert (event.kind, event.device) == ("device", DEVICE)
    assert event.fault is not None
    assert event.fault.fault_class == "device"


# Orders.

MMU = [mmu_xid(), follow_up(), changed("fault"), met(), gone(GUILTY), gone(INNOCENT)]
SM = [sm_xid(), sm_xid(sm=1), follow_up(), changed("fault"), gone(GUILTY), gone(INNOCENT)]


@given(st.permutations(MMU), st.booleans())
def test_a_memory_fault_is_one_event_in_any_order(signals: list[Signal], driver_too: bool) -> None:
    check_one_fault([*signals, passed()] if driver_too else signals, "mmu", guilty=GUILTY if driver_too else None)


@given(st.permutations(SM))
def test_an_sm_fault_is_one_event_in_any_order(signals: list[Signal]) -> None:
    check_one_fault(signals, "sm", guilty=None)


def check_one_fault(signals: list[Signal], fault_class: str, *, guilty: Client | None) -> None:
    events = fused(signals)
    (event,) = faults(events)
    assert event.blame.client == (guilty.identity if guilty else None)
    assert event.blame.tenant == (guilty.tenant if guilty else None)
    assert event.fault is not None
    assert event.fault.fault_class == fault_class
    assert (event.server, event.device) == (SERVER, DEVICE)
    assert event.uid == (guilty.uid if guilty else None)
    assert {other.kind for other in events} <= {"fault", "exit", "device"}
    said = [(evidence.source, evidence.text, evidence.pid) for evidence in event.blame.evidence]
    assert len(said) == len(set(said)), "the same evidence counts once"


@given(st.permutations([sm_xid("'<unknown>'"), sm_xid("'<unknown>'", sm=1), changed("fault"), gone(INNOCENT)]))
def test_a_fault_whose_lines_name_nobody_is_one_event_in_any_order(signals: list[Signal]) -> None:
    (event,) = faults(fused(signals))
    assert event.blame.client is None
    assert event.server == SERVER


@given(st.permutations([sm_xid(77, sm=sm) for sm in range(4)]))
def test_lines_of_a_process_outside_mps_are_one_event(signals: list[Signal]) -> None:
    unknown_device = replace(HOST, devices={})
    assert len(faults(fused(signals))) == 1
    assert len(faults(fused(signals, unknown_device))) == 1


@given(st.permutations([*SM[:4], sm_xid(FOREIGN.identity.pid), changed("fault", server=OTHER_SERVER)]))
def test_faults_of_two_servers_are_two_events(signals: list[Signal]) -> None:
    found = faults(fused(signals))
    assert {event.server for event in found} == {SERVER, OTHER_SERVER}
    assert len(found) == 2


# Blame.

WHO: list[tuple[EvidenceSource, Signal]] = [
    ("xid_pid", mmu_xid(INNOCENT.identity.pid)),
    ("server_log", met(INNOCENT.identity.pid)),
    ("kernel_record", passed()),
]


@given(st.permutations(WHO), st.booleans())
def test_only_the_drivers_record_names_in_any_order(named: list[tuple[EvidenceSource, Signal]], acted: bool) -> None:
    """Also where a restart, which concerns nobody by name, was decided in between."""
    first, *others = (signal for _, signal in named)
    (event,) = fused([first])
    if acted:
        event = replace(event, actions=[Action("restart_server", None, "requested", "")])
    (told,) = fused(others, before=[event])
    assert told.blame.client == GUILTY.identity
    assert {evidence.source for evidence in told.blame.evidence} == {source for source, _ in named}


@given(st.permutations([passed(GUILTY), passed(INNOCENT), changed("fault")]))
def test_two_records_that_disagree_name_nobody(signals: list[Signal]) -> None:
    (event,) = faults(fused(signals))
    assert event.blame.client is None
    assert event.blame.name is None
    assert event.blame.tenant is None


@given(st.permutations([passed(), sm_xid(77), changed("fault"), follow_up(99)]))
def test_unknown_and_forged_pids_change_no_blame(signals: list[Signal]) -> None:
    (event,) = [event for event in faults(fused(signals)) if event.server == SERVER]
    assert event.blame.client == GUILTY.identity


def test_blame_of_a_client_outlives_it() -> None:
    """The guilty one is no client any more when the follow-up is read."""
    (event,) = fused([passed()])
    without = replace(HOST, clients={INNOCENT.identity: INNOCENT})
    later = fuse(follow_up(), [event], without)
    assert later is not None
    assert later.blame.client == GUILTY.identity
    assert later.blame.tenant == "embed"


def test_a_fence_that_has_begun_keeps_its_blame() -> None:
    (event,) = fused([passed()])
    event = replace(event, actions=[Action("fence", GUILTY.identity, "frozen", "")])
    later = fuse(passed(INNOCENT), [event], HOST)
    assert later is not None
    assert later.blame.client == GUILTY.identity


def test_weak_evidence_leaves_room_for_strong() -> None:
    """A real SM exception prints a line for each SM."""
    flood = [sm_xid(INNOCENT.identity.pid, sm=sm) for sm in range(3 * EVIDENCE_MAX)]
    (event,) = faults(fused([*flood, passed()]))
    assert event.blame.client == GUILTY.identity


# Floods and time.


def test_a_flood_about_a_device_is_not_an_event_a_line() -> None:
    entries: list[Event] = []
    flood = [xid_seen(f"63, pid=1, name=x, Row Remapper: new row {row}", at=row) for row in range(1000)]
    assert len(fused(flood, entries=entries)) == 1
    assert len(entries) <= EVIDENCE_MAX


def test_a_flood_of_sm_lines_is_one_event_of_few_entries() -> None:
    entries: list[Event] = []
    assert len(fused([sm_xid(sm=sm) for sm in range(1000)], entries=entries)) == 1
    assert len(entries) <= EVIDENCE_MAX


def test_what_comes_after_the_window_is_another_fault() -> None:
    assert len(fused([sm_xid(), sm_xid(sm=1, at=WINDOW_NS - 1)])) == 1
    assert len(fused([sm_xid(), sm_xid(sm=1, at=WINDOW_NS)])) == 2
    assert len(fused([sm_xid(at=WINDOW_NS), sm_xid(sm=1)])) == 2, "whichever is read first"


def test_what_is_closed_does_not_change_and_is_not_told_again() -> None:
    (event,) = fused([sm_xid(), changed("fault")])
    closed = replace(event, phase="closed")
    assert all(fuse(signal, [closed], HOST) is None for signal in (sm_xid(sm=1), follow_up(), changed("fault"), gone()))


def test_another_fault_of_a_server_that_is_new_is_told_while_the_last_is_closed() -> None:
    (event,) = fused([sm_xid(), changed("fault")])
    closed = replace(event, phase="closed")
    back = client(13, server=700)
    host = replace(HOST, clients={back.identity: back})
    for signal in (sm_xid(13, at=1), changed("fault", server=700, at=1)):
        again = fuse(signal, [closed], host)
        assert again is not None
        assert again.id == 0


@given(st.lists(st.sampled_from([*MMU, *SM, absorbed(), absorbed(INNOCENT), changed("gone"), sm_xid(77)]), max_size=30))
def test_nothing_is_blamed_without_evidence_that_names_it(signals: list[Signal]) -> None:
    for event in fused(signals):
        if event.blame.client is not None:
            pid = event.blame.client.pid
            named = [evidence for evidence in event.blame.evidence if evidence.pid == pid]
            assert [evidence for evidence in named if evidence.source != "exit"], event
        assert len(event.blame.evidence) <= EVIDENCE_MAX
        assert event.summary


def test_fusion_gives_the_same_answer_twice_and_changes_nothing() -> None:
    (event,) = fused([changed("fault")])
    kept = replace(event, blame=replace(event.blame, evidence=[*event.blame.evidence]))
    assert fuse(sm_xid(), [event], HOST) == fuse(sm_xid(), [event], HOST)
    assert event == kept
    assert Evidence("server_log", "server status fault", None) in event.blame.evidence
