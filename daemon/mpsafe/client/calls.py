# SPDX-License-Identifier: Apache-2.0
"""Replies as their parameters are named on the wire, for msgspec."""

from collections.abc import Sequence
from typing import Any

import msgspec

from mpsafe.model import Client, ControlDaemon, Device, Event, Region, RegionKind, Standby, Tenant
from mpsafe.protocol import events, host, leases, standby, store, vault

__all__ = [
    "Attached",
    "Awaiting",
    "Changed",
    "Claimed",
    "Clients",
    "Collected",
    "Contents",
    "Controls",
    "Described",
    "Devices",
    "Events",
    "Explained",
    "Fenced",
    "Kept",
    "Leased",
    "Leases",
    "Linked",
    "Nothing",
    "Opened",
    "Promoted",
    "Regional",
    "Released",
    "Resized",
    "Standbys",
    "Tenants",
    "Told",
    "Vaulted",
    "Watching",
    "acquired",
    "created",
    "resized",
]


def acquired(
    tenant: str,
    device: str,
    memory: leases.Span | None,
    sm: leases.Span | None,
    *,
    resident_bytes: int,
    ttl_ms: int | None,
) -> dict[str, Any]:
    """Parameters of Leases.Acquire."""
    parameters: dict[str, Any] = {"tenant": tenant, "device": device, "resident_bytes": resident_bytes}
    parameters |= resized(memory, sm)
    return parameters if ttl_ms is None else {**parameters, "ttl_ms": ttl_ms}


def resized(memory: leases.Span | None, sm: leases.Span | None) -> dict[str, Any]:
    """What is wanted, as parameters of Leases.Acquire and Resize."""
    wanted = {"memory": memory, "sm": sm}
    return {name: msgspec.to_builtins(span) for name, span in wanted.items() if span is not None}


def created(
    tenant: str,
    name: str,
    kind: RegionKind,
    device: str,
    sizes: Sequence[int],
    handles: Sequence[int],
    layout: int | None,
) -> tuple[dict[str, Any], list[int]]:
    """Parameters and descriptors of Vault.Create."""
    parameters: dict[str, Any] = {"tenant": tenant, "name": name, "kind": kind, "device": device, "sizes": [*sizes]}
    parameters["handles"] = list(range(len(handles)))
    if layout is None:
        return parameters, [*handles]
    parameters["layout"] = len(handles)
    return parameters, [*handles, layout]


class Described(msgspec.Struct):
    """Of Host.Describe."""

    host: host.Description


class Attached(msgspec.Struct):
    """Of Host.Attach; `page` and `wake` are places in the list of descriptors."""

    epoch: int
    generation: int
    page: int
    wake: int


class Devices(msgspec.Struct):
    """Of Host.ListDevices."""

    devices: list[Device]


class Clients(msgspec.Struct):
    """Of Host.ListClients."""

    clients: list[Client]


class Tenants(msgspec.Struct):
    """Of Host.ListTenants."""

    tenants: list[Tenant]


class Events(msgspec.Struct):
    """Of Events.List."""

    events: list[Event]


class Watching(msgspec.Struct):
    """Of Events.Watch."""

    watched: events.Watched


class Fenced(msgspec.Struct):
    """Of Events.Fence."""

    event: int


class Explained(msgspec.Struct):
    """Of Events.Explain."""

    explanation: events.Explanation


class Nothing(msgspec.Struct):
    """Of what answers nothing."""


class Controls(msgspec.Struct):
    """Of Mps.Status."""

    controls: list[ControlDaemon]


class Changed(msgspec.Struct):
    """Of Mps.Start, Stop, SetLimits and Partition: the control daemon as it is now."""

    control: ControlDaemon


class Regional(msgspec.Struct):
    """Of Vault.Create and Commit."""

    region: Region


class Opened(msgspec.Struct):
    """Of Vault.Open; `handles` and `layout` are places in the list of descriptors."""

    region: Region
    handles: list[int]
    layout: int | None = None


class Vaulted(msgspec.Struct):
    """Of Vault.List."""

    vault: vault.VaultState


class Claimed(msgspec.Struct):
    """Of Vault.Claim."""

    epoch: int


class Collected(msgspec.Struct):
    """Of Vault.Collect."""

    collected: list[vault.Collected]


class Released(msgspec.Struct):
    """Of Vault.Drain."""

    released: int


class Awaiting(msgspec.Struct):
    """Of Standby.Await."""

    awaited: standby.Awaited


class Standbys(msgspec.Struct):
    """Of Standby.List."""

    standbys: list[Standby]


class Promoted(msgspec.Struct):
    """Of Standby.Promote."""

    event: int


class Leased(msgspec.Struct):
    """Of Leases.Acquire and Renew."""

    lease: leases.Lease


class Leases(msgspec.Struct):
    """Of Leases.List."""

    leases: list[leases.Lease]


class Resized(msgspec.Struct):
    """Of Leases.Resize."""

    resized: leases.Resized


class Told(msgspec.Struct):
    """Of Leases.Watch."""

    told: leases.LeaseWord


class Linked(msgspec.Struct):
    """Of Leases.LinkQuota; `page` is a place in the list of descriptors."""

    page: int
    cell: int


class Kept(msgspec.Struct):
    """Of Store.Publish and Open; `data` is a place in the list of descriptors."""

    content: store.Content
    data: int


class Contents(msgspec.Struct):
    """Of Store.List."""

    contents: list[store.Content]
