# SPDX-License-Identifier: Apache-2.0
"""What to do about an event. Pure: a dry run prints the answer, a recorded run replays it.

The law: nobody is fenced without evidence that names it; a fault that the driver absorbed costs
its own client only; one that it did not absorb has taken the whole server already, whose restart
is the way back.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, assert_never

from mpsafe.model import Event, Identity
from mpsafed.blame import is_proven
from mpsafed.snapshot import Snapshot

__all__ = [
    "Decision",
    "Fence",
    "Note",
    "Policy",
    "RestartServer",
    "Takeover",
    "TenantPolicy",
    "decide",
    "is_dealt_with",
]


@dataclass(frozen=True, slots=True)
class TenantPolicy:
    """How one tenant's faults are treated. `note`: written down, nothing done."""

    on_fault: Literal["fence", "note"] = "fence"


@dataclass(frozen=True, slots=True)
class Policy:
    """`act` false makes every decision a note: the dry run."""

    act: bool = True
    tenants: Mapping[str, TenantPolicy] = field(default_factory=lambda: dict[str, TenantPolicy]())


@dataclass(frozen=True, slots=True)
class Fence:
    """Stop this client, in the order that cannot hurt the others."""

    client: Identity
    server: int | None


@dataclass(frozen=True, slots=True)
class RestartServer:
    """The server is in FAULT: end it and its clients, start another for the same user."""

    server: int
    uid: int
    clients: tuple[Identity, ...]


@dataclass(frozen=True, slots=True)
class Takeover:
    """Promote a standby of this tenant: `victim` serves it no more."""

    tenant: str
    victim: Identity


@dataclass(frozen=True, slots=True)
class Note:
    """Nothing to do, and why."""

    reason: str


Decision: TypeAlias = Fence | RestartServer | Takeover | Note


def decide(snapshot: Snapshot, event: Event, policy: Policy) -> list[Decision]:
    """What is to be done about an event. One that carries an action already is not decided again."""
    if event.phase == "closed" or any(action.kind != "note" for action in event.actions):
        return []
    wanted = _wanted(snapshot, event, policy)
    if not policy.act:
        wanted = [
            Note(f"dry run: {_told(decision)}") if not isinstance(decision, Note) else decision for decision in wanted
        ]
    done = {(action.kind, action.target) for action in event.actions}
    return [decision for decision in wanted if _key(decision) not in done]


def is_dealt_with(server: int, events: Iterable[Event]) -> bool:
    """Whether a fault of this server is known already, and what is done about it is to be decided or under way."""
    return any(
        event.phase == "open"
        and event.server == server
        and event.fault is not None
        and not event.fault.absorbed
        and is_proven(event)
        and (not event.actions or any(action.kind == "restart_server" for action in event.actions))
        for event in events
    )


def _wanted(snapshot: Snapshot, event: Event, policy: Policy) -> list[Decision]:
    fault = event.fault
    lost = [event.blame.client] if event.kind == "exit" and event.blame.client is not None else []
    if takeovers := _takeovers(snapshot, lost, policy):
        return [*takeovers]
    if event.kind != "fault" or fault is None:
        return [Note(f"{event.kind} events are told, not acted upon")]
    if fault.absorbed:
        client = event.blame.client
        if client is None:
            return [Note("absorbed, and the evidence names nobody")]
        if not any(e.source == "kernel_record" and e.pid == client.pid for e in event.blame.evidence):
            return [Note("absorbed, and no record of the kernel names the client")]
        tenant = policy.tenants.get(event.blame.tenant or "", TenantPolicy())
        if tenant.on_fault == "note":
            return [Note(f"tenant {event.blame.tenant} is configured to be left alone")]
        return [*_takeovers(snapshot, [client], policy), Fence(client, event.server)]
    if not is_proven(event):
        return [Note("somebody says so, and nothing proves it")]
    server = snapshot.servers.get(event.server) if event.server is not None else None
    if server is None:
        return [Note("the fault is outside the MPS servers that mpsafed knows")]
    if fault.fault_class in ("mmu", "sm") or server.state == "fault":
        clients = tuple(c.identity for c in snapshot.clients_of(server.pid))
        return [*_takeovers(snapshot, clients, policy), RestartServer(server.pid, server.uid, clients)]
    return [Note(f"class {fault.fault_class} and server {server.pid} is {server.state}")]


def _takeovers(snapshot: Snapshot, lost: Iterable[Identity], policy: Policy) -> list[Takeover]:
    """One for each tenant with a standby whose process is lost: that which holds its epoch, else any."""
    found: dict[str, Takeover] = {}
    for client in lost:
        tenant = snapshot.tenant_of(client)
        if tenant is None or tenant not in snapshot.standbys or snapshot.standbys[tenant] not in (None, client):
            continue
        if policy.tenants.get(tenant, TenantPolicy()).on_fault == "fence":
            found.setdefault(tenant, Takeover(tenant, client))
    return list(found.values())


def _key(decision: Decision) -> tuple[str, Identity | None]:
    match decision:
        case Fence():
            return "fence", decision.client
        case RestartServer():
            return "restart_server", None
        case Takeover():
            return "takeover", decision.victim
        case Note():
            return "note", None
        case _:
            assert_never(decision)


def _told(decision: Decision) -> str:
    match decision:
        case Fence():
            return f"would fence process {decision.client.pid}"
        case RestartServer():
            return f"would restart MPS server {decision.server}"
        case Takeover():
            return f"would promote a standby of tenant {decision.tenant}"
        case Note():
            return decision.reason
        case _:
            assert_never(decision)
