# SPDX-License-Identifier: Apache-2.0
"""Signals become events, with blame. Pure: no clock, no files, the same answer for the same input.

One fault is seen by several sources, in any order. An absorbed fault is told by the kernel record
alone and belongs to its client. A fatal one is one event per server and device: the Xid line, the
server's log and the ends of processes add to it while it is open and its last signal is younger
than WINDOW_NS. Whom an event blames is blame.py's matter.

Somebody's word alone, a report about oneself or a log that others can write to, makes an event of class
other and names nobody. It takes part in a fault of its own server only, and where anything proves
that there was one, that is when it happened.
"""

from dataclasses import replace
from typing import Final, assert_never

from mpsafe import catalogue
from mpsafe.model import Blame, Client, Event, EventKind, Evidence, Fault
from mpsafed.blame import PROOFS, believed, is_news, is_proven, of_log, of_record, of_xid, suspect, weighed
from mpsafed.signals import (
    ClientConnected,
    ClientEvicted,
    ClientGone,
    ControlChanged,
    DeviceChanged,
    DeviceXid,
    FaultAbsorbed,
    FaultMet,
    FaultPassed,
    MemoryLost,
    SelfReported,
    ServerChanged,
    Signal,
    SignalsLost,
    XidSeen,
)
from mpsafed.snapshot import Snapshot

__all__ = ["WINDOW_NS", "by_hand", "fuse"]

WINDOW_NS: Final = 2_000_000_000

_STOPPED: Final = 43
_FOLLOW_UPS: Final = frozenset({_STOPPED, 45, 174})
_FATAL: Final = frozenset({"mmu", "sm"})
# Of a fault that another Xid may describe better.
_SAYS_LITTLE: Final = frozenset({None, _STOPPED})


def fuse(signal: Signal, events: list[Event], snapshot: Snapshot) -> Event | None:
    """The event that a signal opens or changes, or None if it changes nothing.

    `events` are the latest entries of recent events, oldest first. A new event has seq and id 0.
    """
    match signal:
        case XidSeen():
            return _xid(signal, events, snapshot)
        case DeviceXid():
            return _device_xid(signal, events, snapshot)
        case FaultAbsorbed():
            return _absorbed(signal, events, snapshot)
        case FaultPassed():
            evidence = of_record(signal, snapshot)
            fault = Fault("mmu", absorbed=False, address=hex(signal.address), access=signal.access, detail=signal.fault)
            client = snapshot.clients.get(signal.client)
            return _fatal(signal, events, snapshot, fault, evidence, signal.device, client.server if client else None)
        case FaultMet() if believed(signal, snapshot):
            fault = Fault("mmu", absorbed=False)
            return _fatal(signal, events, snapshot, fault, of_log(signal, snapshot), None, signal.server)
        case ServerChanged(state="fault") if believed(signal, snapshot):
            fault = Fault("other", absorbed=False)
            evidence = Evidence("server_log", signal.text, None)
            return _fatal(signal, events, snapshot, fault, evidence, None, signal.server)
        case FaultMet() | ServerChanged(state="fault"):
            if signal.server not in snapshot.servers:
                return None
            return _word(signal, events, snapshot, Evidence("self_report", signal.text, None), signal.server)
        case SelfReported():
            return _self_reported(signal, events, snapshot)
        case ServerChanged(state="gone"):
            return _news(signal, events, "server", f"MPS server {signal.server} is gone: {signal.text}", signal.server)
        case ClientGone():
            return _exit(signal, events, snapshot)
        case ClientEvicted():
            return _evicted(signal, events, snapshot)
        case ControlChanged():
            summary = (
                f"MPS control daemon {signal.control} {'runs' if signal.running else 'does not run'}: {signal.text}"
            )
            return replace(_new(signal, "server", summary), phase="closed", uid=signal.uid)
        case DeviceChanged():
            summary = f"device {signal.pci}: {signal.action}, driver {signal.driver or 'none'}"
            return replace(_new(signal, "device", summary, device=snapshot.devices.get(signal.pci)), phase="closed")
        case MemoryLost():
            summary = f"the vault has lost {', '.join(signal.regions)}: the device was reset or its driver unloaded"
            return replace(_new(signal, "device", summary, device=signal.device), phase="closed")
        case SignalsLost():
            summary = f"{signal.source} lost {signal.count} signals before they could be read"
            return replace(_new(signal, "device", summary), lost_signals=signal.count)
        case ServerChanged() | ClientConnected():
            return None
        case _:
            assert_never(signal)


def by_hand(client: Client, time_ns: int, *, uid: int) -> Event:
    """The event of a client that an admin of this uid wants stopped."""
    text = f"asked for by uid {uid}"
    return Event(
        seq=0,
        id=0,
        time_ns=time_ns,
        kind="exit",
        phase="open",
        summary=f"{client.tenant or client.name} ({client.identity.pid}) is fenced by hand",
        server=client.server,
        blame=Blame(client.identity, client.name, client.tenant, [Evidence("self_report", text, client.identity.pid)]),
        uid=client.uid,
    )


def standby_came(before: Event, tenant: str, time_ns: int) -> Event:
    """The event of a tenant that nobody serves since `before`, where no standby was warm, and now one is."""
    summary = f"a standby of {tenant} has come, whom nobody had taken over"
    return Event(0, 0, time_ns, "exit", "open", summary, server=before.server, blame=before.blame, uid=before.uid)


def _new(
    signal: Signal, kind: EventKind, summary: str, *, device: str | None = None, server: int | None = None
) -> Event:
    return Event(0, 0, signal.time_ns, kind, "open", summary, device=device, server=server)


def _news(signal: Signal, events: list[Event], kind: EventKind, summary: str, server: int) -> Event | None:
    """An event that says something once, however often a log does."""
    if any(_young(signal, event) and event.kind == kind and event.summary == summary for event in events):
        return None
    return _new(signal, kind, summary, server=server)


def _absorbed(signal: FaultAbsorbed, events: list[Event], snapshot: Snapshot) -> Event | None:
    for event in events:
        if event.fault is not None and event.fault.absorbed and event.blame.client == signal.client:
            return None
    client = snapshot.clients.get(signal.client)
    evidence = replace(of_record(signal, snapshot), pid=signal.client.pid)
    blame = Blame(signal.client, signal.name, client.tenant if client else None, [evidence])
    fault = Fault("mmu", absorbed=True, address=hex(signal.address), access=signal.access, detail=signal.fault)
    event = _new(signal, "fault", "", device=signal.device, server=client.server if client else None)
    return _summarised(replace(event, fault=fault, blame=blame, uid=signal.uid))


def _xid(signal: XidSeen, events: list[Event], snapshot: Snapshot) -> Event | None:
    xid = signal.xid
    device = snapshot.devices.get(xid.pci or "")
    client = suspect(snapshot, xid.pid, signal.time_ns)
    server = client.server if client else xid.pid if xid.pid in snapshot.servers else None
    evidence = of_xid(signal, snapshot)
    if xid.xid in _FOLLOW_UPS and (ongoing := _ongoing(signal, events, device, server, xid.pid)) is not None:
        known = replace(ongoing, device=ongoing.device or device)
        return _with_evidence(_placed(known, server), evidence, snapshot) if _takes(ongoing, server) else None
    # All that 580.159.04 prints of a client's trap is that it has stopped a channel of the server.
    stopped = xid.xid == _STOPPED and xid.pid in snapshot.servers
    fault = Fault(
        "sm" if stopped else xid.fault_class,
        absorbed=False,
        xid=xid.xid,
        address=xid.address,
        access=xid.access,
        detail=xid.fault_type,
    )
    if fault.fault_class in _FATAL:
        return _fatal(signal, events, snapshot, fault, evidence, device, server)
    return _of_device(signal, events, snapshot, fault, evidence, device, server)


def _device_xid(signal: DeviceXid, events: list[Event], snapshot: Snapshot) -> Event | None:
    """NVML says neither whose it is nor where: it joins what it may be another view of, and places nothing."""
    entry = catalogue.load().get(signal.xid)
    fault = Fault(entry.fault_class if entry else "other", absorbed=False, xid=signal.xid)
    evidence = Evidence("nvml", f"NVML: Xid {signal.xid}", None)
    fatal = fault.fault_class in _FATAL
    for event in reversed(events):
        known = event.fault
        if known is None or known.absorbed or event.device not in (None, signal.device) or not _young(signal, event):
            continue
        may_be = (
            event.kind == "fault"
            and is_proven(event)
            and (signal.xid in _FOLLOW_UPS or (fatal and known.xid in _SAYS_LITTLE))
        )
        if known.xid == signal.xid or may_be:
            return None if event.phase == "closed" else _with_evidence(event, evidence, snapshot)
    if fatal:
        event = replace(_new(signal, "fault", "", device=signal.device), fault=fault)
        return _with_evidence(event, evidence, snapshot)
    return _of_device(signal, events, snapshot, fault, evidence, signal.device, None)


def _of_device(
    signal: Signal,
    events: list[Event],
    snapshot: Snapshot,
    fault: Fault,
    evidence: Evidence,
    device: str | None,
    server: int | None,
) -> Event | None:
    for event in reversed(events):
        same = event.fault is not None and event.fault.xid == fault.xid
        if same and event.kind == "device" and event.device == device and _young(signal, event):
            return _with_evidence(event, evidence, snapshot)
    event = replace(_new(signal, "device", "", device=device, server=server), fault=fault)
    return _with_evidence(event, evidence, snapshot)


def _self_reported(signal: SelfReported, events: list[Event], snapshot: Snapshot) -> Event | None:
    """Once for each process: a context that is lost stays lost."""
    evidence = Evidence("self_report", f"CUresult {signal.error}: {signal.text}", signal.client.pid)
    for event in events:
        told = any(known.source == "self_report" and known.pid == evidence.pid for known in event.blame.evidence)
        if told and event.kind == "fault" and snapshot.started_ns(signal.client) <= event.time_ns:
            return None
    client = snapshot.clients.get(signal.client)
    found = _word(signal, events, snapshot, evidence, client.server if client else None)
    return replace(found, uid=signal.uid) if found is not None and found.id == 0 else found


def _word(
    signal: Signal, events: list[Event], snapshot: Snapshot, evidence: Evidence, server: int | None
) -> Event | None:
    """What somebody says joins the fault of the server that it is about, or is an event that nothing proves."""
    for event in reversed(events):
        fatal = event.kind == "fault" and event.fault is not None and not event.fault.absorbed
        if fatal and server is not None and event.server == server and _young(signal, event):
            return None if event.phase == "closed" else _with_evidence(event, evidence, snapshot)
    event = _new(signal, "fault", "", server=server)
    return _with_evidence(replace(event, fault=Fault("other", absorbed=False)), evidence, snapshot)


def _evicted(signal: ClientEvicted, events: list[Event], snapshot: Snapshot) -> Event | None:
    """No fault, and nobody's: the server took back memory that was lent."""
    if not believed(signal, snapshot):
        return None
    client = suspect(snapshot, signal.pid, signal.time_ns)
    who = f"{client.tenant or client.name} ({signal.pid})" if client else f"process {signal.pid}"
    summary = f"{who} was evicted by MPS server {signal.server}: {signal.text}"
    event = _news(signal, events, "eviction", summary, signal.server)
    return replace(event, phase="closed", uid=client.uid if client else None) if event else None


def _exit(signal: ClientGone, events: list[Event], snapshot: Snapshot) -> Event | None:
    client = snapshot.clients.get(signal.client)
    evidence = Evidence("exit", signal.how, signal.client.pid)
    for event in reversed(events):
        concerns = event.blame.client == signal.client or any(a.target == signal.client for a in event.actions)
        if event.kind == "fault" and concerns:
            known = any(e.source == "exit" and e.pid == signal.client.pid for e in event.blame.evidence)
            return None if known or event.phase == "closed" else _with_evidence(event, evidence, snapshot)
    holds = next((name for name, holder in snapshot.standbys.items() if holder == signal.client), None)
    if holds is not None and not signal.orderly:
        blame = Blame(signal.client, client.name if client is not None else None, holds, [evidence])
        event = _new(signal, "exit", f"{holds} ({signal.client.pid}) has ended, and a standby waits")
        uid = client.uid if client is not None else None
        return replace(event, server=client.server if client is not None else None, blame=blame, uid=uid)
    if client is None or client.state == "gone":
        return None
    ongoing = _ongoing(signal, events, None, client.server)
    if ongoing is not None:
        return None if ongoing.phase == "closed" else _with_evidence(ongoing, evidence, snapshot)
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
    elif not _takes(ongoing, server) or not is_news(ongoing, evidence, snapshot):
        return None
    assert ongoing.fault is not None
    event = replace(
        _placed(ongoing, server),
        time_ns=ongoing.time_ns if is_proven(ongoing) else signal.time_ns,
        device=ongoing.device or device,
        fault=_more_telling(ongoing.fault, fault),
    )
    return _summarised(weighed(event, evidence, snapshot))


def _ongoing(
    signal: Signal, events: list[Event], device: str | None, server: int | None, pid: int | None = None
) -> Event | None:
    """The fatal fault that this signal may be another view of: one of its server rather than one of its device.

    One that is closed and that nothing has proven hides nothing, and one of a process that is no client is not of
    any server.
    """
    found: Event | None = None
    for event in reversed(events):
        if event.kind != "fault" or event.fault is None or event.fault.absorbed or not _young(signal, event):
            continue
        if event.phase == "closed" and not is_proven(event):
            continue
        if server is not None and event.server is None and _told_pids(event) - {None, pid}:
            continue
        if (device is not None and event.device not in (None, device)) or (
            server is not None and event.server not in (None, server)
        ):
            continue
        if server is not None and event.server == server:
            return event
        if found is None and ((device is not None and event.device == device) or _is_view_of(event, pid)):
            found = event
    return found


def _takes(event: Event, server: int | None) -> bool:
    """Whether it can learn more: it is open, or was closed before anybody knew of which server it is."""
    return event.phase == "open" or (event.server is None and server is not None)


def _placed(event: Event, server: int | None) -> Event:
    """The event, of this server if it was of none; then it is open again, for now there is something to do."""
    return event if event.server is not None or server is None else replace(event, server=server, phase="open")


def _told_pids(event: Event) -> set[int | None]:
    return {evidence.pid for evidence in event.blame.evidence if evidence.source in PROOFS}


def _is_view_of(event: Event, pid: int | None) -> bool:
    """Whether an event of neither this device nor this server is about this process, or nobody knows about whom."""
    pids = _told_pids(event)
    return pids == {None} or (pid is not None and pid in pids)


def _young(signal: Signal, event: Event) -> bool:
    return abs(signal.time_ns - event.time_ns) < WINDOW_NS


def _more_telling(old: Fault, new: Fault) -> Fault:
    if old.fault_class == "other" or (old.xid is None and new.xid is not None):
        return new if new.fault_class != "other" else old
    return old


def _with_evidence(event: Event, evidence: Evidence, snapshot: Snapshot) -> Event | None:
    if not is_news(event, evidence, snapshot):
        return None
    return _summarised(weighed(event, evidence, snapshot))


def _summarised(event: Event) -> Event:
    fault, who = event.fault, _who(event.blame)
    if fault is None or event.kind not in ("fault", "device"):
        return event
    if fault.absorbed:
        text = f"memory fault of {who} absorbed: {fault.access} at {fault.address}"
    elif event.kind == "device":
        text = f"Xid {fault.xid} ({fault.fault_class})"
    elif not is_proven(event):
        text = f"a fault is said and not proven: {event.blame.evidence[0].text}"
    else:
        what = {"mmu": "memory fault", "sm": "SM exception"}.get(fault.fault_class, "fatal fault")
        known = "outside MPS" if _told_pids(event) - {None} else "nobody knows where"
        where = f"MPS server {event.server} is lost" if event.server else known
        text = f"{what} of {who}: {where}"
    return replace(event, summary=text)


def _who(blame: Blame) -> str:
    if blame.client is None:
        return "an unknown process"
    return f"{blame.tenant or blame.name} ({blame.client.pid})"
