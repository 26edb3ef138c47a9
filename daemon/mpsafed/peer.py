# SPDX-License-Identifier: Apache-2.0
"""Who is at the other end of a connection, and what that gives the right to do.

root and members of the admin group may do anything; the uid of a tenant what concerns that tenant;
everybody else may read what is not another user's. Credentials are the kernel's (SO_PEERCRED,
SO_PEERGROUPS, unix(7)), taken when the peer connected. Inside one uid nothing keeps two processes
apart: which tenant a process attaches for is cooperative there.
"""

import grp
import socket
import struct
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from mpsafe.errors import NotPermitted
from mpsafe.model import Identity
from mpsafed.processes import identify

__all__ = ["METHOD_ROLES", "Peer", "Role", "peer_of"]

Role: TypeAlias = Literal["admin", "anyone"]

SO_PEERGROUPS: Final = 59
# Python's getsockopt takes 1024 bytes at most: a peer in more than 256 groups counts by its first one only.
GROUPS_BYTES: Final = 1024
_CREDENTIALS: Final = struct.Struct("iII")

METHOD_ROLES: Final[dict[str, Role]] = {
    "io.mpsafe.Events.Explain": "anyone",
    "io.mpsafe.Events.Fence": "admin",
    "io.mpsafe.Events.Inject": "admin",
    "io.mpsafe.Events.List": "anyone",
    "io.mpsafe.Events.Watch": "anyone",
    "io.mpsafe.Host.Attach": "anyone",
    "io.mpsafe.Host.Describe": "anyone",
    "io.mpsafe.Host.ListClients": "anyone",
    "io.mpsafe.Host.ListDevices": "anyone",
    "io.mpsafe.Host.ListTenants": "anyone",
    "io.mpsafe.Host.Report": "anyone",
    "io.mpsafe.Leases.Acquire": "anyone",
    "io.mpsafe.Leases.LinkQuota": "anyone",
    "io.mpsafe.Leases.List": "anyone",
    "io.mpsafe.Leases.Release": "anyone",
    "io.mpsafe.Leases.Renew": "anyone",
    "io.mpsafe.Leases.Resize": "anyone",
    "io.mpsafe.Leases.Watch": "anyone",
    "io.mpsafe.Mps.Partition": "admin",
    "io.mpsafe.Mps.SetLimits": "admin",
    "io.mpsafe.Mps.Start": "admin",
    "io.mpsafe.Mps.Status": "anyone",
    "io.mpsafe.Mps.Stop": "admin",
    "io.mpsafe.Standby.Await": "anyone",
    "io.mpsafe.Standby.List": "anyone",
    "io.mpsafe.Standby.Progress": "anyone",
    "io.mpsafe.Standby.Promote": "admin",
    "io.mpsafe.Store.List": "anyone",
    "io.mpsafe.Store.Open": "anyone",
    "io.mpsafe.Store.Publish": "anyone",
    "io.mpsafe.Vault.Claim": "anyone",
    "io.mpsafe.Vault.Collect": "admin",
    "io.mpsafe.Vault.Commit": "anyone",
    "io.mpsafe.Vault.Create": "anyone",
    "io.mpsafe.Vault.Drain": "admin",
    "io.mpsafe.Vault.List": "anyone",
    "io.mpsafe.Vault.Open": "anyone",
    "io.mpsafe.Vault.Release": "anyone",
    "org.varlink.service.GetInfo": "anyone",
    "org.varlink.service.GetInterfaceDescription": "anyone",
}


@dataclass(frozen=True, slots=True)
class Peer:
    """One connected process. `identity` is None if it had ended before we looked."""

    pid: int
    uid: int
    admin: bool
    identity: Identity | None

    def demand(self, method: str) -> None:
        """Raises NotPermitted unless this peer has the role that the method wants."""
        if METHOD_ROLES.get(method, "admin") == "admin" and not self.admin:
            raise NotPermitted(method, "admin", self.uid)

    def may_see(self, uid: int | None) -> bool:
        """Whether what belongs to this uid may be shown to this peer."""
        return self.admin or uid is None or uid == self.uid


def peer_of(sock: socket.socket, admin_group: str) -> Peer:
    """The peer of a connected Unix socket."""
    pid, uid, gid = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, GROUPS_BYTES)
    except OSError:
        raw = b""
    groups = {gid, *struct.unpack(f"{len(raw) // 4}I", raw)}
    return Peer(pid, uid, uid == 0 or _gid(admin_group) in groups, identify(pid))


def _gid(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None
