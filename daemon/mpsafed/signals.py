# SPDX-License-Identifier: Apache-2.0
"""What sources say: one raw observation each, checked for form and not yet believed.

`time_ns` is CLOCK_REALTIME in nanoseconds, when the source read it.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

from mpsafe.model import Identity, ServerState
from mpsafe.xid import Xid

__all__ = [
    "ClientConnected",
    "ClientGone",
    "Cursor",
    "FaultAbsorbed",
    "FaultPassed",
    "ServerBlamed",
    "ServerChanged",
    "Signal",
    "SignalsLost",
    "XidSeen",
]


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a source has read to. `stream` names what it reads (a boot, an inode, a module load)."""

    source: str
    stream: str
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Observed:
    time_ns: int
    cursor: Cursor | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class XidSeen(_Observed):
    """The kernel's own log has an Xid line."""

    xid: Xid
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultAbsorbed(_Observed):
    """The driver put a sink under an address; the client is doomed."""

    client: Identity
    uid: int
    name: str
    device: str
    address: int
    access: str
    fault: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultPassed(_Observed):
    """The driver saw a memory fault and left it to the stock path."""

    client: Identity
    uid: int
    name: str
    device: str
    address: int
    access: str
    fault: str
    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerChanged(_Observed):
    """An MPS server has another state, or its process is gone. `uid` where the log says for whom it was started."""

    server: int
    state: ServerState
    text: str
    uid: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerBlamed(_Observed):
    """server.log names the process whose fatal fault it handles."""

    server: int
    pid: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConnected(_Observed):
    """A log line or a list names a process as a server's client."""

    server: int
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientGone(_Observed):
    """A client's process has ended."""

    client: Identity


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalsLost(_Observed):
    """A source knows that it missed this many observations."""

    source: str
    count: int


Signal: TypeAlias = (
    XidSeen | FaultAbsorbed | FaultPassed | ServerChanged | ServerBlamed | ClientConnected | ClientGone | SignalsLost
)
