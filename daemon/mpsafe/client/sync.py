# SPDX-License-Identifier: Apache-2.0
"""The client that blocks."""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final, Self, TypeVar

import msgspec

from mpsafe.client import calls
from mpsafe.client.attachment import Attachment
from mpsafe.client.kept import KeptContent
from mpsafe.client.opened import OpenedRegion
from mpsafe.client.wire import Wire
from mpsafe.errors import ConnectionEnded, DaemonUnreachable, PeerMisbehaved
from mpsafe.link import Link
from mpsafe.model import Client as MpsClient
from mpsafe.model import ControlDaemon, Device, Event, Figures, Limits, Region, RegionKind, Standby, Tenant
from mpsafe.protocol import DEFAULT_SOCKET
from mpsafe.protocol.events import Explanation, Watched
from mpsafe.protocol.host import Description
from mpsafe.protocol.leases import Lease, LeaseWord, Resized, Span
from mpsafe.protocol.standby import Awaited
from mpsafe.protocol.store import Content
from mpsafe.protocol.vault import Collected, VaultState

__all__ = ["Client"]

RETRY_SECONDS: Final = 0.05

T = TypeVar("T")


class Client:
    """Talks to mpsafed on a Unix socket. Not for use by several threads at once.

    `timeout_s` bounds the wait for each reply. Reading calls are tried once more on a new connection
    if the daemon was restarted in between; a call that changes something is not.
    """

    def __init__(self, socket: str = DEFAULT_SOCKET, *, timeout_s: float = 30.0) -> None:
        self._path = socket
        self._timeout_s = timeout_s
        self._wire: Wire | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def socket(self) -> str:
        """Where it connects to."""
        return self._path

    def close(self) -> None:
        """Closes the connection; the next call opens another."""
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def describe(self) -> Description:
        """The daemon, the MPS servers, and what each source sees."""
        return self._read("io.mpsafe.Host.Describe", {}, calls.Described).host

    def devices(self) -> list[Device]:
        """The devices as NVML describes them."""
        return self._read("io.mpsafe.Host.ListDevices", {}, calls.Devices).devices

    def clients(self) -> list[MpsClient]:
        """The clients of the MPS servers that this user may see."""
        return self._read("io.mpsafe.Host.ListClients", {}, calls.Clients).clients

    def tenants(self) -> list[Tenant]:
        """The tenants of the configuration and how they are."""
        return self._read("io.mpsafe.Host.ListTenants", {}, calls.Tenants).tenants

    def events(self, *, since: int = 0, limit: int = 1000) -> list[Event]:
        """The latest entry of each event with a `seq` greater than `since`."""
        return self._read("io.mpsafe.Events.List", {"since": since, "limit": limit}, calls.Events).events

    def explain(self, number: int) -> Explanation:
        """The event of that id, and why its client is blamed or nobody is."""
        return self._read("io.mpsafe.Events.Explain", {"id": number}, calls.Explained).explanation

    def fence(self, pid: int) -> int:
        """Fences a client; returns the id of the event that tells how it goes. Wants the role admin."""
        return self._call("io.mpsafe.Events.Fence", {"pid": pid}, calls.Fenced).event

    def inject(self, pid: int) -> None:
        """Has a client fault as if its device had reported it. Wants the role admin, and a driver that lets one."""
        self._call("io.mpsafe.Events.Inject", {"pid": pid}, calls.Nothing)

    def controls(self) -> list[ControlDaemon]:
        """The MPS control daemons that this user may see."""
        return self._read("io.mpsafe.Mps.Status", {}, calls.Controls).controls

    def start_mps(self, control: str) -> ControlDaemon:
        """Has a control daemon run from now on; returns once it answers. Wants the role admin, as all changes do."""
        return self._change("Start", {"control": control})

    def stop_mps(self, control: str, *, force: bool = False) -> ControlDaemon:
        """Has it not run. Without `force` this waits until its clients have left, however long they stay."""
        return self._change("Stop", {"control": control, "force": force})

    def set_limits(self, control: str, limits: Limits | None) -> ControlDaemon:
        """Declares limits for clients that connect from now on; None: those of the configuration count again."""
        declared = {} if limits is None else {"limits": msgspec.to_builtins(limits)}
        return self._change("SetLimits", {"control": control, **declared})

    def partition(self, control: str, device: str, chunks: list[int]) -> ControlDaemon:
        """Declares the SM partitions of one device, by UUID, sizes in chunks; an empty list takes them away."""
        return self._change("Partition", {"control": control, "device": device, "chunks": chunks})

    def report(self, figures: Figures | None = None, *, error: int | None = None, text: str = "") -> None:
        """Tells of this process, once it has attached for a tenant: figures for the status page, or its last error.

        `error` is the CUresult that its calls return since its context was lost, and `text` one line about
        it. Raises UnknownClient before it has attached, and TooManyReports over 20 a second of one user.
        """
        parameters = {**msgspec.to_builtins(figures or Figures()), "error": error, "text": text or None}
        self._call("io.mpsafe.Host.Report", parameters, calls.Nothing)

    def attach(self, tenant: str | None = None) -> Attachment:
        """The status page; with `tenant` this process is one of that tenant's from now on.

        The membership stays over restarts of the daemon and ends with the process.
        """
        parameters = {} if tenant is None else {"tenant": tenant}
        reply = self._call("io.mpsafe.Host.Attach", parameters, calls.Attached)
        fds = self._connected().take_fds(2)
        if {reply.page, reply.wake} != {0, 1}:
            raise PeerMisbehaved(self._path, "places 0 and 1 for two descriptors", f"{reply.page}, {reply.wake}")
        return Attachment(epoch=reply.epoch, generation=reply.generation, page=fds[reply.page], wake=fds[reply.wake])

    def create_region(
        self,
        tenant: str,
        name: str,
        kind: RegionKind,
        device: str,
        sizes: Sequence[int],
        handles: Sequence[int],
        layout: int | None = None,
    ) -> Region:
        """Gives memory to the vault: its exported handles and their bytes. The descriptors stay the caller's."""
        parameters, fds = calls.created(tenant, name, kind, device, sizes, handles, layout)
        return self._call("io.mpsafe.Vault.Create", parameters, calls.Regional, fds).region

    def commit_region(self, region: int, digest: str) -> Region:
        """Ends the writing of an immutable region, "algorithm:hexadecimal"."""
        return self._call("io.mpsafe.Vault.Commit", {"region": region, "digest": digest}, calls.Regional).region

    def open_region(
        self, region: int | None = None, *, tenant: str | None = None, name: str | None = None, write: bool = False
    ) -> OpenedRegion:
        """The handles of a region, by its id, or the newest of that tenant and name; close what is returned."""
        parameters = {"region": region, "tenant": tenant, "name": name, "write": write}
        reply = self._call("io.mpsafe.Vault.Open", parameters, calls.Opened)
        wire = self._connected()
        return OpenedRegion.of(self._path, reply, wire.take_fds(len(wire.fds)))

    def vault(self) -> VaultState:
        """The regions that this user may see, and what holds them."""
        return self._read("io.mpsafe.Vault.List", {}, calls.Vaulted).vault

    def release_region(self, region: int) -> None:
        """The vault lets go of a region; who has it mapped keeps that."""
        self._call("io.mpsafe.Vault.Release", {"region": region}, calls.Nothing)

    def claim(self, tenant: str) -> int:
        """Makes this process the holder of its tenant's epoch. EpochHeld while another one is."""
        return self._call("io.mpsafe.Vault.Claim", {"tenant": tenant}, calls.Claimed).epoch

    def collect(self, *, dry_run: bool = False) -> list[Collected]:
        """Regions that nobody can use any more: let go of, or only named. Wants the role admin."""
        return self._call("io.mpsafe.Vault.Collect", {"dry_run": dry_run}, calls.Collected).collected

    def drain(self) -> int:
        """The vault lets go of everything, and takes nothing in. Wants the role admin."""
        return self._call("io.mpsafe.Vault.Drain", {}, calls.Released).released

    def acquire(
        self,
        tenant: str,
        device: str,
        *,
        memory: Span | None = None,
        sm: Span | None = None,
        resident_bytes: int = 0,
        ttl_ms: int | None = None,
    ) -> Lease:
        """A lease for this process, which ends with this connection. NoRoom where a floor cannot be met.

        `memory` in bytes, `sm` in per cent of the SMs; `resident_bytes`: what of it is allocated already.
        """
        parameters = calls.acquired(tenant, device, memory, sm, resident_bytes=resident_bytes, ttl_ms=ttl_ms)
        return self._call("io.mpsafe.Leases.Acquire", parameters, calls.Leased).lease

    def resize(self, lease: int, *, memory: Span | None = None, sm: Span | None = None) -> Resized:
        """Other wishes for a lease; another SM share wants another process, and is answered so."""
        parameters = {"lease": lease, **calls.resized(memory, sm)}
        return self._call("io.mpsafe.Leases.Resize", parameters, calls.Resized).resized

    def renew(self, lease: int, granted_bytes: int | None = None) -> Lease:
        """Holds a lease on; with `granted_bytes` says that this process has gone down to that."""
        parameters = {"lease": lease, "granted_bytes": granted_bytes}
        return self._call("io.mpsafe.Leases.Renew", parameters, calls.Leased).lease

    def release(self, lease: int) -> None:
        """Gives a lease back."""
        self._call("io.mpsafe.Leases.Release", {"lease": lease}, calls.Nothing)

    def leases(self) -> list[Lease]:
        """The leases that this user may see."""
        return self._read("io.mpsafe.Leases.List", {}, calls.Leases).leases

    def watch_leases(self) -> Iterator[LeaseWord]:
        """What becomes of this process's leases, on a connection of its own, until that is lost: DaemonUnreachable."""
        with Wire(self._path, timeout_s=None) as wire:
            wire.send("io.mpsafe.Leases.Watch", {}, more=True)
            while True:
                yield wire.receive(calls.Told)[0].told

    def link(self, device: str, *, weight: int | None = None) -> Link:
        """A device's link page with a cell for this process, as long as this connection; close what is returned."""
        parameters = {"device": device, "weight": weight}
        reply = self._call("io.mpsafe.Leases.LinkQuota", parameters, calls.Linked)
        (page,) = self._connected().take_fds(1)
        return Link(page, reply.cell)

    def publish(self, tenant: str, sha256: str, data: int) -> KeptContent:
        """Has the store keep a sealed memfd, which stays the caller's; what is returned is the copy that is kept.

        That is another one where somebody has published the same before: then one's own is to be closed. The
        descriptor that is returned is another one in any case.
        """
        parameters = {"tenant": tenant, "hash": sha256, "size_bytes": os.fstat(data).st_size, "data": 0}
        reply = self._call("io.mpsafe.Store.Publish", parameters, calls.Kept, [data])
        return KeptContent(reply.content, *self._connected().take_fds(1))

    def open_content(self, sha256: str) -> KeptContent:
        """The content of that hash. UnknownContent where this user has published none."""
        reply = self._call("io.mpsafe.Store.Open", {"hash": sha256}, calls.Kept)
        return KeptContent(reply.content, *self._connected().take_fds(1))

    def contents(self) -> list[Content]:
        """The contents of the store that this user may see."""
        return self._read("io.mpsafe.Store.List", {}, calls.Contents).contents

    def stand_by(self, tenant: str, *, resident_bytes: int = 0, patience_s: float = 60.0) -> Iterator[Awaited]:
        """Waits to take over for a tenant that this process has attached for; ends with `granted` or `refused`.

        On a connection of its own, which is opened again where it is lost, as `watch` does.
        """
        away_since = None
        while True:
            try:
                with Wire(self._path, timeout_s=None) as wire:
                    wire.send(
                        "io.mpsafe.Standby.Await", {"tenant": tenant, "resident_bytes": resident_bytes}, more=True
                    )
                    more = True
                    while more:
                        reply, more = wire.receive(calls.Awaiting)
                        away_since = None
                        yield reply.awaited
                        if reply.awaited.phase in ("granted", "refused"):
                            return
            except DaemonUnreachable:
                away_since = away_since or time.monotonic()
                if time.monotonic() - away_since > patience_s:
                    raise
            time.sleep(RETRY_SECONDS)

    def progress(self, event: int, *, received_ns: int | None = None, serving_ns: int | None = None) -> None:
        """When this process, promoted in that event, knew of it, and gave its first answer (CLOCK_REALTIME).

        Said twice it is said once: like what only reads, it is tried again where the daemon was restarted meanwhile.
        """
        parameters = {"event": event, "received_ns": received_ns, "serving_ns": serving_ns}
        self._read("io.mpsafe.Standby.Progress", parameters, calls.Nothing)

    def standbys(self) -> list[Standby]:
        """The standbys that this user may see."""
        return self._read("io.mpsafe.Standby.List", {}, calls.Standbys).standbys

    def promote(self, tenant: str) -> int:
        """Takes over for a tenant whose process works; returns the event's id. Wants the role admin."""
        return self._call("io.mpsafe.Standby.Promote", {"tenant": tenant}, calls.Promoted).event

    def watch(self, *, since: int | None = None, patience_s: float = 60.0) -> Iterator[Watched]:
        """The stream of events behind `since`, without an end; without it, new ones only.

        On a connection of its own, which is opened again where it is lost, and goes on behind the last
        entry. Raises DaemonUnreachable if the daemon stays away for `patience_s` seconds.
        """
        seen, away_since = since, None
        while True:
            try:
                with Wire(self._path, timeout_s=None) as wire:
                    wire.send("io.mpsafe.Events.Watch", {} if seen is None else {"since": seen}, more=True)
                    more = True
                    while more:
                        reply, more = wire.receive(calls.Watching)
                        away_since = None
                        seen = reply.watched.seq
                        yield reply.watched
            except DaemonUnreachable:
                away_since = away_since or time.monotonic()
                if time.monotonic() - away_since > patience_s:
                    raise
                time.sleep(RETRY_SECONDS)

    def _change(self, method: str, parameters: dict[str, Any]) -> ControlDaemon:
        """On a connection of its own and without a limit: the daemon has its own, and a stop waits for clients."""
        with Wire(self._path, timeout_s=None) as wire:
            return wire.call(f"io.mpsafe.Mps.{method}", parameters, calls.Changed).control

    def _connected(self) -> Wire:
        if self._wire is None:
            self._wire = Wire(self._path, timeout_s=self._timeout_s)
        return self._wire

    def _call(self, method: str, parameters: dict[str, Any], kind: type[T], fds: Sequence[int] = ()) -> T:
        try:
            return self._connected().call(method, parameters, kind, fds)
        except ConnectionEnded:
            self.close()
            raise

    def _read(self, method: str, parameters: dict[str, Any], kind: type[T]) -> T:
        if self._wire is not None:
            with contextlib.suppress(DaemonUnreachable):
                return self._call(method, parameters, kind)
        return self._call(method, parameters, kind)
