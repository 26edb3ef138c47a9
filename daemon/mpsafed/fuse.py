# SPDX-License-Identifier: Apache-2.0
"""Signals become events, with blame. Pure: no clock, no files, the same answer for the same input.

One fault is seen by several sources, in any order. An absorbed fault is told by the kernel record
alone and belongs to its client. A fatal one is one event per server and device: the Xid line, the
server's log and the ends of processes add to it while it is open and its last signal is younger
than WINDOW_NS. Blame follows the strongest evidence that names a connected client: kernel record,
server log, Xid pid (design, section 4); two strongest that disagree name nobody.
"""

from dataclasses import replace
from typing import Final

from mpsafe.model import Blame, Event, EventKind, Evidence, EvidenceSource, Fault, Identity
from mpsafed.signals import (
    ClientConnected,
    ClientGone,
    FaultAbsorbed,
    FaultPassed,
    ServerBlamed,
    ServerChanged,
    Signal,
    SignalsLost,
    XidSeen,
)
from mpsafed.snapshot import Snapshot

__all__ = ["WINDOW_NS", "fuse"]

WINDOW_NS: Final = 2_000_000_000
EVIDENCE_MAX: Final = 16

_STRENGTH: Final[dict[EvidenceSource, int]] = {
    "kernel_record": 4,
    "server_log": 3,
    "xid_pid": 2,
    "self_report": 1,
    "exit": 0,
}
_FOLLOW_UPS: Final = frozenset({43, 45, 174})


def fuse(signal: Signal, events: list[Event], snapshot: Snapshot) -> Event | None:
    """The event that a signal opens or changes, or None if it changes nothing.

    `events` are the latest entries of recent events, oldest first. A new event has seq and id 0.
    """
    match signal:
        case FaultAbsorbed():
            return _absorbed(signal, events, snapshot)
        case FaultPassed():
            evidence = Evidence("kernel_record", _record_text(signal), signal.client.pid)
            fault = Fault("mmu", absorbed=False, address=hex(signal.address), access=signal.access, detail=signal.fault)
            client = snapshot.clients.get(signal.client)
            return _fatal(signal, events, snapshot, fault, evidence, signal.device, client.server if client else None)
        case XidSeen():
            return _xid(signal, events, snapshot)
        case ServerBlamed():
            evidence = Evidence("server_log", signal.text, signal.pid)
            fault = Fault("mmu", absorbed=False)
            return _fatal(signal, events, snapshot, fault, evidence, None, signal.server)
        case ServerChanged(state="fault"):
            fault = Fault("other", absorbed=False)
            evidence = Evidence("server_log", signal.text, None)
            return _fatal(signal, events, snapshot, fault, evidence, None, signal.server)
        case ServerChanged(state="gone"):
            summary = f"MPS server {signal.server} is gone: {signal.text}"
            return _new(signal, "server", summary, server=signal.server)
        case ClientGone():
            return _exit(signal, events, snapshot)
        case SignalsLost():
            summary = f"{signal.source} lost {signal.count} signals before they could be read"
            return replace(_new(signal, "device", summary), lost_signals=signal.count)
        case ServerChanged() | ClientConnected():
            return None


def _new(
    signal: Signal, kind: EventKind, summary: str, *, device: str | None = None, server: int | None = None
) -> Event:
    return Event(0, 0, signal.time_ns, kind, "open", summary, device=device, server=server)


def _absorbed(signal: FaultAbsorbed, events: list[Event], snapshot: Snapshot) -> Event | None:
    for event in events:
        if event.fault is not None and event.fault.absorbed and event.blame.client == signal.client:
            return None
    client = snapshot.clients.get(signal.client)
    evidence = Evidence("kernel_record", _record_text(signal), signal.client.pid)
    blame = Blame(signal.client, signal.name, client.tenant if client else None, [evidence])
    fault = Fault("mmu", absorbed=True, address=hex(signal.address), access=signal.access, detail=signal.fault)
    event = _new(signal, "fault", "", device=signal.device, server=client.server if client else None)
    return _summarised(replace(event, fault=fault, blame=blame, uid=signal.uid))


def _xid(signal: XidSeen, events: list[Event], snapshot: Snapshot) -> Event | None:
    xid = signal.xid
    device = snapshot.devices.get(xid.pci or "")
    client = snapshot.client_of(xid.pid) if xid.pid is not None else None
    server = client.server if client else None
    evidence = Evidence("xid_pid", signal.text, xid.pid)
    if xid.xid in _FOLLOW_UPS and (ongoing := _ongoing(signal, events, device, server, xid.pid)) is not None:
        known = replace(ongoing, device=ongoing.device or device)
        return None if ongoing.phase == "closed" else _with_evidence(known, evidence, snapshot)
    fault = Fault(
        xid.fault_class, absorbed=False, xid=xid.xid, address=xid.address, access=xid.access, detail=xid.fault_type
    )
    if xid.fault_class in ("mmu", "sm"):
        return _fatal(signal, events, snapshot, fault, evidence, device, server)
    for event in reversed(events):
        young = abs(signal.time_ns - event.time_ns) < WINDOW_NS
        if young and event.kind == "device" and event.device == device and event.fault == fault:
            return _with_evidence(event, evidence, snapshot)
    return _with_evidence(
        replace(_new(signal, "device", "", device=device, server=server), fault=fault), evidence, snapshot
    )


def _exit(signal: ClientGone, events: list[Event], snapshot: Snapshot) -> Event | None:
    client = snapshot.clients.get(signal.client)
    evidence = Evidence("exit", "the process has ended", signal.client.pid)
    for event in reversed(events):
        concerns = event.blame.client == signal.client or any(a.target == signal.client for a in event.actions)
        if event.kind == "fault" and concerns:
            known = any(e.source == "exit" and e.pid == signal.client.pid for e in event.blame.evidence)
            return None if known or event.phase == "closed" else _with_evidence(event, evidence, snapshot)
    if client is None or client.state == "gone":
        return None
    ongoing = _ongoing(signal, events, None, client.server)
    if ongoing is not None:
        return _with_evidence(ongoing, evidence, snapshot)
    blame = Blame(None, None, client.tenant, [evidence])
    summary = f"{client.tenant or client.name} ({signal.client.pid}) has left MPS server {client.server}"
    event = _new(signal, "exit", summary, server=client.server)
    return replace(event, phase="closed", blame=blame, uid=client.uid)


def _fatal(
    signal: Signal,
    events: list[Event],
    snapshot: Snapshot,
    fault: Fault,
    evidence: Evidence,
    device: str | None,
    server: int | None,
) -> Event | None:
    ongoing = _ongoing(signal, events, device, server, evidence.pid)
    if ongoing is None:
        ongoing = replace(_new(signal, "fault", "", device=device, server=server), fault=fault)
    elif ongoing.phase == "closed":
        return None
    assert ongoing.fault is not None
    event = replace(
        ongoing,
        device=ongoing.device or device,
        server=ongoing.server or server,
        fault=_more_telling(ongoing.fault, fault),
    )
    return _with_evidence(event, evidence, snapshot)


def _ongoing(
    signal: Signal, events: list[Event], device: str | None, server: int | None, pid: int | None = None
) -> Event | None:
    """The fatal fault that this signal may be another view of: one of its server rather than one of its device."""
    found: list[Event] = []
    for event in reversed(events):
        young = abs(signal.time_ns - event.time_ns) < WINDOW_NS
        if not young or event.kind != "fault" or event.fault is None or event.fault.absorbed:
            continue
        same_device = None in (device, event.device) or device == event.device
        same_server = None in (server, event.server) or server == event.server
        pids = {evidence.pid for evidence in event.blame.evidence if evidence.source != "exit"}
        shared = (device is not None and device == event.device) or (server is not None and server == event.server)
        placed = shared or pids <= {None} or pid in pids
        if same_device and same_server and placed:
            found.append(event)
    of_server = [event for event in found if server is not None and event.server == server]
    return next(iter(of_server or found), None)


def _more_telling(old: Fault, new: Fault) -> Fault:
    if old.fault_class == "other" or (old.xid is None and new.xid is not None):
        return new if new.fault_class != "other" else old
    return old


def _with_evidence(event: Event, evidence: Evidence, snapshot: Snapshot) -> Event | None:
    """The event with one more piece of evidence and the blame that follows; None if nothing is new."""
    known = event.blame.evidence
    weak = _STRENGTH[evidence.source] <= max((_STRENGTH[e.source] for e in known), default=-1)
    if evidence in known or (weak and len(known) >= EVIDENCE_MAX):
        return None
    gathered = [*known, evidence]
    blame = replace(event.blame, evidence=gathered)
    if not any(action.kind == "fence" for action in event.actions):
        named = _named(gathered, snapshot, event.blame.client)
        if len(named) > 1:
            blame = Blame(evidence=gathered)
        elif named and (guilty := snapshot.clients.get(named.pop())) is not None:
            blame = Blame(guilty.identity, guilty.name, guilty.tenant, gathered)
            event = replace(event, server=event.server or guilty.server, uid=guilty.uid)
    return _summarised(replace(event, blame=blame))


def _named(gathered: list[Evidence], snapshot: Snapshot, blamed: Identity | None) -> set[Identity]:
    """Whom the strongest evidence that names anybody names. Who was blamed may have left the snapshot since."""
    named: dict[int, set[Identity]] = {}
    for evidence in gathered:
        if evidence.pid is None or evidence.source == "exit":
            continue
        who = named.setdefault(_STRENGTH[evidence.source], set())
        if blamed is not None and blamed.pid == evidence.pid:
            who.add(blamed)
        elif (client := snapshot.client_of(evidence.pid)) is not None:
            who.add(client.identity)
    strongest = max((strength for strength, who in named.items() if who), default=None)
    return named[strongest] if strongest is not None else set()


def _summarised(event: Event) -> Event:
    fault, who = event.fault, _who(event.blame)
    if fault is None or event.kind not in ("fault", "device"):
        return event
    if fault.absorbed:
        text = f"memory fault of {who} absorbed: {fault.access} at {fault.address}"
    elif event.kind == "device":
        text = f"Xid {fault.xid} ({fault.fault_class})"
    else:
        what = {"mmu": "memory fault", "sm": "SM exception"}.get(fault.fault_class, "fatal fault")
        where = f"MPS server {event.server} is lost" if event.server else "outside MPS"
        text = f"{what} of {who}: {where}"
    return replace(event, summary=text)


def _who(blame: Blame) -> str:
    if blame.client is None:
        return "an unknown process"
    return f"{blame.tenant or blame.name} ({blame.client.pid})"


def _record_text(signal: FaultAbsorbed | FaultPassed) -> str:
    return f"{signal.fault} fault, {signal.access} at {hex(signal.address)}, {signal.name} ({signal.client.pid})"
