# SPDX-License-Identifier: Apache-2.0
"""Replies as their parameters are named on the wire, for msgspec."""

import msgspec

from mpsafe.model import Client, ControlDaemon, Device, Event, Tenant
from mpsafe.protocol import events, host

__all__ = [
    "Attached",
    "Changed",
    "Clients",
    "Controls",
    "Described",
    "Devices",
    "Events",
    "Explained",
    "Fenced",
    "Nothing",
    "Tenants",
    "Watching",
]


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
    """Of Host.Report."""


class Controls(msgspec.Struct):
    """Of Mps.Status."""

    controls: list[ControlDaemon]


class Changed(msgspec.Struct):
    """Of Mps.Start, Stop, SetLimits and Partition: the control daemon as it is now."""

    control: ControlDaemon
