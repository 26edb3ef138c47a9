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
    "ClientEvicted",
    "ClientGone",
    "ControlChanged",
    "Cursor",
    "DeviceChanged",
    "DeviceXid",
    "FaultAbsorbed",
    "FaultMet",
    "FaultPassed",
    "MemoryLost",
    "SelfReported",
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
    """An MPS server has another state, or its process is gone. `uid` where the log says for whom it was started.

    `writer`, here and below: the only user but root who can have written the line; None: anybody can.
    """

    server: int
    state: ServerState
    text: str
    uid: int | None = None
    control: str = ""
    writer: int | None = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultMet(_Observed):
    """server.log names a client that met a fatal error: the first of the server's to see it, whoever caused it."""

    server: int
    pid: int
    text: str
    writer: int | None = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConnected(_Observed):
    """A log line or a list names a process as a server's client."""

    server: int
    pid: int
    control: str = ""
    writer: int | None = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientEvicted(_Observed):
    """An MPS server ended a client that held more device memory than its share: no fault."""

    server: int
    pid: int
    text: str
    writer: int | None = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientGone(_Observed):
    """A client's process has ended; `how`, where the kernel told: an exit status or a signal."""

    client: Identity
    how: str = "the process has ended"

    @property
    def orderly(self) -> bool:
        """Whether the kernel told that it ended by itself, and well."""
        return self.how == "exit status 0"


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlChanged(_Observed):
    """An MPS control daemon runs, has ended, or cannot be started; `text` is the sentence."""

    control: str
    running: bool
    text: str
    uid: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceXid(_Observed):
    """NVML tells of an Xid on a device, by UUID: neither whose it is nor any text."""

    device: str
    xid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceChanged(_Observed):
    """A device came, went, or changed hands: udev's action (add, remove, bind, unbind) at a PCI address."""

    pci: str
    action: str
    driver: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLost(_Observed):
    """Regions of the vault whose memory the driver does not know any more, of one device."""

    device: str
    regions: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfReported(_Observed):
    """A process says of itself, and only of itself, that its CUDA context is lost: a CUresult and a text."""

    client: Identity
    uid: int
    tenant: str
    error: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalsLost(_Observed):
    """A source knows that it missed this many observations."""

    source: str
    count: int


Signal: TypeAlias = (
    XidSeen
    | DeviceXid
    | DeviceChanged
    | FaultAbsorbed
    | FaultPassed
    | ControlChanged
    | ServerChanged
    | FaultMet
    | ClientConnected
    | ClientEvicted
    | ClientGone
    | MemoryLost
    | SelfReported
    | SignalsLost
)
