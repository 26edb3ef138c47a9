# SPDX-License-Identifier: Apache-2.0
"""Who caused a fault: which evidence names anybody, and whom. Pure, as fuse.py is.

Only a record of the patched driver names a client: it has the address space that faulted. Two records that
disagree name nobody. All else corroborates. The pid of an Xid line is that of the channel's process, which
under MPS is the client that came last, or the server; the client in the server's log is the one that met the
error first. Neither need be the one that caused it, and either has named an innocent (H100, driver 580.159.04:
`mps_whose_*` in tools/qualify/results).

Evidence whose `pid` is None names nobody either: whoever could have written it, or the process that has
that pid, speaks against it. A pid that several known clients had is nobody's, and a client that was
not there yet when it happened has the pid of the one that was.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from mpsafe.model import Blame, Client, Event, Evidence, EvidenceSource, Identity
from mpsafed.signals import ClientEvicted, FaultAbsorbed, FaultMet, FaultPassed, ServerChanged, XidSeen
from mpsafed.snapshot import Snapshot

__all__ = [
    "EVIDENCE_MAX",
    "PROOFS",
    "SOURCE_MAX",
    "believed",
    "is_news",
    "is_proven",
    "of_log",
    "of_record",
    "of_xid",
    "suspect",
    "weighed",
]

SOURCE_MAX: Final = 4
# Of six sources; the one that names may have two more, which name another client than those before.
EVIDENCE_MAX: Final = 6 * SOURCE_MAX + 2

_NAMES: Final[EvidenceSource] = "kernel_record"
PROOFS: Final = frozenset[EvidenceSource](("kernel_record", "server_log", "xid_pid", "nvml"))


def believed(signal: FaultMet | ServerChanged | ClientEvicted, snapshot: Snapshot) -> bool:
    """Whether nobody but root and the server's own user can have written this line of a log."""
    if signal.writer == 0:
        return True
    server = snapshot.servers.get(signal.server)
    return server is not None and server.uid == signal.writer


def is_proven(event: Event) -> bool:
    """Whether more than somebody's word says that it happened."""
    return any(evidence.source in PROOFS for evidence in event.blame.evidence)


def suspect(snapshot: Snapshot, pid: int | None, time_ns: int) -> Client | None:
    """The client that had this pid at that time, if it is clear which."""
    client = snapshot.client_of(pid) if pid is not None else None
    return client if client is not None and _was_there(snapshot, client, time_ns) else None


def of_record(signal: FaultAbsorbed | FaultPassed, snapshot: Snapshot) -> Evidence:
    """What a record of the driver says. It names the process itself, so another one of its pid is not meant."""
    client = snapshot.client_of(signal.client.pid)
    meant = client is None or client.identity == signal.client
    text = f"{signal.fault} fault, {signal.access} at {hex(signal.address)}, {signal.name} ({signal.client.pid})"
    return Evidence("kernel_record", text, signal.client.pid if meant else None)


def of_log(signal: FaultMet, snapshot: Snapshot) -> Evidence:
    """What the log of a server says. One that a user can write to tells of clients of that user only."""
    client = snapshot.client_of(signal.pid)
    own = signal.writer == 0 or (client is not None and client.uid == signal.writer)
    return Evidence("server_log", signal.text, _unless_late(snapshot, signal.pid, signal.time_ns) if own else None)


def of_xid(signal: XidSeen, snapshot: Snapshot) -> Evidence:
    """What the kernel log says."""
    return Evidence("xid_pid", signal.text, _unless_late(snapshot, signal.xid.pid, signal.time_ns))


def _unless_late(snapshot: Snapshot, pid: int | None, time_ns: int) -> int | None:
    """The pid, unless the client that has it came after that time."""
    client = snapshot.client_of(pid) if pid is not None else None
    return pid if client is None or _was_there(snapshot, client, time_ns) else None


def _was_there(snapshot: Snapshot, client: Client, time_ns: int) -> bool:
    return not snapshot.boot_ns or snapshot.started_ns(client.identity) <= time_ns


def is_news(event: Event, evidence: Evidence, snapshot: Snapshot) -> bool:
    """Whether the event has not got it yet, and has room: for every source, and for a second client that one names."""
    same = [each for each in event.blame.evidence if each.source == evidence.source]
    if len(same) < SOURCE_MAX:
        return evidence not in same
    if evidence.source != _NAMES or any(each.pid == evidence.pid for each in same):
        return False
    before = _named(event, same, snapshot)
    return len(before) < 2 and not _named(event, [evidence], snapshot) <= before


def weighed(event: Event, evidence: Evidence, snapshot: Snapshot) -> Event:
    """The event with one more piece of evidence and the blame that follows."""
    gathered = [*event.blame.evidence, evidence]
    blame = replace(event.blame, evidence=gathered)
    if not any(action.kind == "fence" for action in event.actions):
        named = _named(event, [each for each in gathered if each.source == _NAMES], snapshot)
        if len(named) > 1:
            blame = Blame(evidence=gathered)
        elif named and (guilty := snapshot.clients.get(named.pop())) is not None:
            blame = Blame(guilty.identity, guilty.name, guilty.tenant, gathered)
            event = replace(event, server=event.server or guilty.server, uid=guilty.uid)
    return replace(event, blame=blame)


def _named(event: Event, said: Iterable[Evidence], snapshot: Snapshot) -> set[Identity]:
    """Whom pieces of evidence name. Who is blamed already may have left the snapshot since."""
    blamed = event.blame.client
    named: set[Identity] = set()
    for evidence in said:
        if blamed is not None and blamed.pid == evidence.pid:
            named.add(blamed)
        elif (client := suspect(snapshot, evidence.pid, event.time_ns)) is not None:
            named.add(client.identity)
    return named
