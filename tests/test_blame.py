# SPDX-License-Identifier: Apache-2.0
"""This test will show that whatever is forged, reported, reused or reordered, nobody is blamed but whom proof names."""

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsafe.model import Client, Event, Identity, Server
from mpsafed.blame import EVIDENCE_MAX, SOURCE_MAX
from mpsafed.fuse import WINDOW_NS
from mpsafed.signals import (
    ClientEvicted,
    ControlChanged,
    DeviceChanged,
    DeviceXid,
    FaultPassed,
    SelfReported,
    Signal,
)
from mpsafed.snapshot import Snapshot
from test_fuse import (
    DEVICE,
    FOREIGN,
    GUILTY,
    HOST,
    INNOCENT,
    OTHER_SERVER,
    PCI,
    SERVER,
    T0,
    absorbed,
    changed,
    client,
    faults,
    follow_up,
    fused,
    gone,
    met,
    mmu_xid,
    passed,
    sm_xid,
    xid_seen,
)

OWNER = 1011
TICK_NS = 10_000_000
BOOTED = replace(HOST, boot_ns=T0 - 1_000_000 * TICK_NS, tick_ns=TICK_NS)
OWNED = replace(
    HOST,
    servers={SERVER: Server(SERVER, OWNER, "active", 2), OTHER_SERVER: Server(OTHER_SERVER, 1021, "active", 1)},
)


def report(who: Client = GUILTY, *, text: str = "an illegal memory access", at: int = 0) -> SelfReported:
    return SelfReported(time_ns=T0 + at, client=who.identity, uid=who.uid, tenant="embed", error=700, text=text)


def nvml(xid: int = 13, *, device: str = DEVICE, at: int = 0) -> DeviceXid:
    return DeviceXid(time_ns=T0 + at, device=device, xid=xid)


def started(who: Client, *, at: int) -> Client:
    """The same pid, in a process that started then."""
    return replace(who, identity=Identity(who.identity.pid, 1_000_000 + at // TICK_NS))


def with_clients(snapshot: Snapshot, *clients: Client) -> Snapshot:
    return replace(snapshot, clients={each.identity: each for each in clients})


# What each kind of signal becomes by itself.


def test_a_report_about_oneself_is_an_event_that_blames_nobody() -> None:
    (event,) = fused([report(), report(text="again"), report(at=10 * WINDOW_NS)])
    assert event.fault is not None
    assert (event.kind, event.fault.fault_class, event.server, event.uid) == ("fault", "other", SERVER, GUILTY.uid)
    assert event.blame.client is None
    assert [(each.source, each.pid) for each in event.blame.evidence] == [("self_report", GUILTY.identity.pid)]
    assert "not proven: CUresult 700: an illegal memory access" in event.summary


def test_another_process_of_the_same_pid_may_report_as_well() -> None:
    later = started(GUILTY, at=5 * WINDOW_NS)
    (first,) = fused([report()], with_clients(BOOTED, GUILTY))
    again = fused([report(later, at=6 * WINDOW_NS)], with_clients(BOOTED, later), before=[first])
    assert len(again) == 2


def test_nvml_alone_tells_of_a_fault_and_names_nobody() -> None:
    (event,) = fused([nvml(), nvml(at=1)])
    assert event.fault is not None
    assert (event.kind, event.device, event.server, event.fault.xid) == ("fault", DEVICE, None, 13)
    assert event.blame.client is None
    assert [each.source for each in event.blame.evidence] == ["nvml"]


def test_nvml_alone_tells_of_a_device() -> None:
    (event,) = fused([nvml(79), nvml(79, at=1)])
    assert (event.kind, event.device, event.summary) == ("device", DEVICE, "Xid 79 (device)")


def test_an_eviction_is_no_fault_and_nobodys() -> None:
    evicted = ClientEvicted(time_ns=T0, server=SERVER, pid=GUILTY.identity.pid, text="over its share")
    (event,) = fused([evicted, evicted])
    assert (event.kind, event.phase, event.server, event.uid) == ("eviction", "closed", SERVER, GUILTY.uid)
    assert (event.fault, event.blame.client) == (None, None)
    assert event.summary == "embed (11) was evicted by MPS server 500: over its share"
    assert fused([replace(evicted, writer=None)]) == []


def test_devices_and_control_daemons_that_change_are_told_and_closed() -> None:
    taken = DeviceChanged(time_ns=T0, pci=PCI, action="bind", driver="vfio-pci")
    ended = ControlChanged(time_ns=T0, control="uid-1000", running=False, text="it ended with status 1", uid=1000)
    device, control = fused([taken, ended])
    assert (device.kind, device.phase, device.device) == ("device", "closed", DEVICE)
    assert device.summary == f"device {PCI}: bind, driver vfio-pci"
    assert (control.kind, control.phase, control.uid) == ("server", "closed", 1000)
    assert control.summary == "MPS control daemon uid-1000 does not run: it ended with status 1"


def test_an_xid_of_the_server_itself_is_the_servers_fault_and_nobodys() -> None:
    (event,) = fused([sm_xid(SERVER)])
    assert (event.server, event.blame.client) == (SERVER, None)


# One fault, whoever else saw it.


@given(st.permutations([sm_xid(), nvml(), changed("fault"), report(), report(INNOCENT), follow_up(), nvml(43)]))
def test_whoever_corroborates_a_fault_is_part_of_it(signals: list[Signal]) -> None:
    (event, *others) = sorted(faults(fused(signals)), key=lambda event: None in (event.device, event.server))
    assert event.blame.client is None
    assert event.fault is not None
    assert (event.fault.fault_class, event.server, event.device) == ("sm", SERVER, DEVICE)
    assert all(other.blame.client is None for other in others)


@given(st.permutations([sm_xid(), nvml()]), st.permutations([xid_seen("79, pid=1, name=x, off the bus"), nvml(79)]))
def test_nvml_and_the_kernel_log_tell_one_xid_once(fatal: list[Signal], lost: list[Signal]) -> None:
    (event,) = fused(fatal)
    assert [each.source for each in event.blame.evidence].count("nvml") == 1
    (event,) = fused(lost)
    assert sorted(each.source for each in event.blame.evidence) == ["nvml", "xid_pid"]
    assert len(fused([sm_xid(), nvml(device="GPU-2")])) == 2
    assert len(fused([sm_xid(), nvml(at=WINDOW_NS)])) == 2


# Who may name whom.


def test_a_log_that_anybody_can_write_names_nobody_and_places_nothing() -> None:
    forged = replace(met(), writer=None)
    (event,) = fused([forged])
    assert event.fault is not None
    assert (event.fault.fault_class, event.blame.client) == ("other", None)
    orders: list[list[Signal]] = [[forged, sm_xid(77)], [sm_xid(77), forged], [forged, sm_xid("'<unknown>'")]]
    for signals in orders:
        assert all(
            event.server is None or event.fault.fault_class == "other"
            for event in faults(fused(signals))
            if event.fault
        )
    assert fused([replace(forged, server=9)]) == [], "what is no server has no fault"


def test_a_log_of_a_user_tells_of_clients_of_that_user_only() -> None:
    for who, told in ((GUILTY, GUILTY.identity.pid), (INNOCENT, None)):
        (event,) = fused([replace(met(who.identity.pid), writer=OWNER)], OWNED)
        assert (event.blame.client, event.server) == (None, SERVER)
        assert [evidence.pid for evidence in event.blame.evidence] == [told]


def test_a_log_of_a_user_speaks_of_servers_of_that_user_only() -> None:
    (event,) = fused([replace(met(), server=OTHER_SERVER, writer=OWNER)], OWNED)
    assert event.fault is not None
    assert (event.blame.client, event.fault.fault_class) == (None, "other")


def test_who_is_not_known_when_a_users_log_names_it_is_not_blamed_later() -> None:
    events = fused([replace(met(INNOCENT.identity.pid), writer=OWNER)], with_clients(OWNED, GUILTY))
    (event,) = fused([replace(changed("fault"), writer=OWNER)], OWNED, before=events)
    assert event.blame.client is None


@pytest.mark.parametrize("signal", [sm_xid(), met()], ids=["xid", "log"])
def test_a_pid_that_is_used_again_is_not_told(signal: Signal) -> None:
    pid = GUILTY.identity.pid
    for at, told in ((-10 * TICK_NS, pid), (10 * TICK_NS, None)):
        (event,) = fused([signal], with_clients(BOOTED, started(GUILTY, at=at)))
        assert [evidence.pid for evidence in event.blame.evidence] == [told]


def test_a_pid_that_is_used_again_while_a_fault_is_open_names_nobody() -> None:
    """Its new owner becomes known only after the line was read."""
    after = started(GUILTY, at=10 * TICK_NS)
    events = fused([sm_xid()], with_clients(BOOTED))
    events = fused([changed("fault"), follow_up()], with_clients(BOOTED, after), before=events)
    assert [event.blame.client for event in events] == [None, None]


def test_the_drivers_record_means_one_process_and_no_other_of_its_pid() -> None:
    again = started(GUILTY, at=-10 * TICK_NS)
    (event,) = fused([passed(GUILTY)], with_clients(HOST, again))
    assert event.blame.client is None


def test_words_before_a_fault_do_not_shift_it() -> None:
    """Or whoever starts after its own accomplice's report could not be blamed any more."""
    late = started(GUILTY, at=WINDOW_NS // 4)
    record = replace(passed(late), time_ns=T0 + WINDOW_NS // 2)
    (event,) = fused([report(INNOCENT), record], with_clients(BOOTED, late, INNOCENT))
    assert event.blame.client == late.identity
    assert event.time_ns == T0 + WINDOW_NS // 2


def test_words_that_are_closed_hide_no_fault() -> None:
    (said,) = fused([report(INNOCENT)])
    events = fused([sm_xid(at=1)], before=[replace(said, phase="closed")])
    assert [event.phase for event in events] == ["closed", "open"]


def test_a_crowd_of_words_leaves_room_for_proof_and_for_disagreement() -> None:
    words: list[Signal] = [changed("fault")]
    words += [gone(replace(INNOCENT, identity=Identity(1000 + n, 1))) for n in range(100)]
    words += [report(client(n)) for n in range(1000, 1100)]
    clients = [GUILTY, INNOCENT, *(client(n) for n in range(1000, 1100))]
    strangers: list[Signal] = [sm_xid(pid) for pid in range(2000, 2100)]
    host = with_clients(HOST, *clients)
    (event,) = [event for event in faults(fused([*words, *strangers, passed()], host)) if event.server == SERVER]
    assert event.blame.client == GUILTY.identity
    (event,) = [
        event
        for event in faults(fused([*words, *strangers, passed(), passed(INNOCENT)], host))
        if event.server == SERVER
    ]
    assert event.blame.client is None
    assert len(event.blame.evidence) <= EVIDENCE_MAX


# Everything at once.

KNOWN = [GUILTY, INNOCENT, FOREIGN]
PIDS = [*(each.identity.pid for each in KNOWN), 77, 78]
TIMES = st.integers(-WINDOW_NS, 2 * WINDOW_NS)
WRITERS = st.sampled_from([None, 0, OWNER, 1021, 4242])


def _logged(kind: str, server: int, pid: int, writer: int | None, at: int) -> Signal:
    if kind == "met":
        return replace(met(pid, at=at), server=server, writer=writer)
    if kind == "evicted":
        return ClientEvicted(time_ns=T0 + at, server=server, pid=pid, text="over its share", writer=writer)
    return replace(changed("fault", server=server, at=at), writer=writer)


def _report(who: Client, text: str, at: int) -> Signal:
    return report(who, text=text, at=at)


def _nvml(xid: int, at: int) -> Signal:
    return nvml(xid, at=at)


def _xid(pid: int | str, at: int) -> Signal:
    return sm_xid(pid, at=at)


def _gone(who: Client, at: int) -> Signal:
    return gone(who, at=at)


WORDS: st.SearchStrategy[Signal] = st.one_of(
    st.builds(_report, st.sampled_from(KNOWN), st.text(max_size=3), TIMES),
    st.builds(_nvml, st.sampled_from([13, 31, 43, 79]), TIMES),
)
SIGNALS: st.SearchStrategy[Signal] = st.one_of(
    WORDS,
    st.builds(
        _logged,
        st.sampled_from(["met", "evicted", "fault"]),
        st.sampled_from([SERVER, OTHER_SERVER, 9]),
        st.sampled_from(PIDS),
        WRITERS,
        TIMES,
    ),
    st.builds(_xid, st.sampled_from([*PIDS, "'<unknown>'", SERVER]), TIMES),
    st.builds(_gone, st.sampled_from(KNOWN), TIMES),
    st.sampled_from([follow_up(), mmu_xid(), passed(), absorbed(), changed("gone")]),
)


def _may_name(signals: Iterable[Signal], snapshot: Snapshot) -> set[Identity]:
    """Whom trusted evidence names, told in the plainest way."""
    named: set[Identity] = set()
    for signal in signals:
        match signal:
            case FaultPassed() if signal.client in snapshot.clients:
                named.add(signal.client)
            case _:
                pass
    return named


@given(st.lists(SIGNALS, max_size=40), st.lists(st.tuples(st.sampled_from(KNOWN), TIMES), max_size=3), st.booleans())
def test_nobody_is_blamed_but_whom_trusted_evidence_names(
    signals: list[Signal], starts: list[tuple[Client, int]], booted: bool
) -> None:
    clients = [*KNOWN, *(started(who, at=at) for who, at in starts)]
    snapshot = with_clients(replace(OWNED, boot_ns=BOOTED.boot_ns if booted else 0), *clients)
    named = _may_name(signals, snapshot)
    for event in fused(signals, snapshot):
        check_bounded(event)
        if event.fault is not None and not event.fault.absorbed and event.blame.client is not None:
            assert event.blame.client in named


@given(st.lists(WORDS, max_size=10), st.lists(WORDS, max_size=10), st.sampled_from([77, "'<unknown>'"]))
def test_words_and_nvml_never_lose_a_server(before: list[Signal], after: list[Signal], pid: int | str) -> None:
    """Only a fault with a class and a server has the server restarted: both must come from proof."""
    forged: list[Signal] = [replace(met(at=1), writer=None), replace(changed("fault", at=2), writer=None)]
    for event in fused([*forged, *before, sm_xid(pid), *after, *forged]):
        assert event.fault is None or event.server is None or event.fault.fault_class == "other"


def check_bounded(event: Event) -> None:
    assert len(event.blame.evidence) <= EVIDENCE_MAX
    said = [each.source for each in event.blame.evidence]
    assert all(said.count(source) <= SOURCE_MAX + 2 for source in said)
    assert event.summary


def test_a_pid_that_two_clients_had_names_nobody() -> None:
    again = replace(GUILTY, identity=Identity(GUILTY.identity.pid, 1))
    (event,) = fused([sm_xid()], replace(HOST, clients={**HOST.clients, again.identity: again}))
    assert event.blame.client is None


def test_an_exit_blames_nobody() -> None:
    (event,) = fused([changed("fault"), gone(INNOCENT)])
    assert event.blame.client is None
    assert [evidence.source for evidence in event.blame.evidence] == ["server_log", "exit"]
