# SPDX-License-Identifier: Apache-2.0
"""The client that awaits, over asyncvarlink; the same calls, values and errors as the blocking one."""

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final, Self, TypeVar

import msgspec
from asyncvarlink import (
    FileDescriptorArray,
    VarlinkClientProtocol,
    VarlinkMethodCall,
    VarlinkMethodReply,
    VarlinkTransport,
    connect_unix_varlink,
)

from mpsafe.client import calls
from mpsafe.client.attachment import Attachment
from mpsafe.client.kept import KeptContent
from mpsafe.client.opened import OpenedRegion
from mpsafe.client.wire import sent_error
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

__all__ = ["AsyncClient"]

RETRY_SECONDS: Final = 0.05

T = TypeVar("T")


class AsyncClient:
    """Talks to mpsafed on a Unix socket, for tasks of one event loop. See `Client` for the calls."""

    def __init__(self, socket: str = DEFAULT_SOCKET, *, timeout_s: float = 30.0) -> None:
        self._path = socket
        self._timeout_s = timeout_s
        self._connection: tuple[VarlinkTransport, VarlinkClientProtocol] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection; the next call opens another."""
        if self._connection is not None:
            transport, _ = self._connection
            self._connection = None
            transport.close()
            await asyncio.wait([transport.closed_future])

    async def describe(self) -> Description:
        """The daemon, the MPS servers, and what each source sees."""
        return (await self._read("io.mpsafe.Host.Describe", {}, calls.Described)).host

    async def devices(self) -> list[Device]:
        """The devices as NVML describes them."""
        return (await self._read("io.mpsafe.Host.ListDevices", {}, calls.Devices)).devices

    async def clients(self) -> list[MpsClient]:
        """The clients of the MPS servers that this user may see."""
        return (await self._read("io.mpsafe.Host.ListClients", {}, calls.Clients)).clients

    async def tenants(self) -> list[Tenant]:
        """The tenants of the configuration and how they are."""
        return (await self._read("io.mpsafe.Host.ListTenants", {}, calls.Tenants)).tenants

    async def events(self, *, since: int = 0, limit: int = 1000) -> list[Event]:
        """The latest entry of each event with a `seq` greater than `since`."""
        return (await self._read("io.mpsafe.Events.List", {"since": since, "limit": limit}, calls.Events)).events

    async def explain(self, number: int) -> Explanation:
        """The event of that id, and why its client is blamed or nobody is."""
        return (await self._read("io.mpsafe.Events.Explain", {"id": number}, calls.Explained)).explanation

    async def fence(self, pid: int) -> int:
        """Fences a client; returns the id of the event that tells how it goes. Wants the role admin."""
        return (await self._call("io.mpsafe.Events.Fence", {"pid": pid}, calls.Fenced)).event

    async def inject(self, pid: int) -> None:
        """Has a client fault as if its device had reported it. Wants the role admin, and a driver that lets one."""
        await self._call("io.mpsafe.Events.Inject", {"pid": pid}, calls.Nothing)

    async def controls(self) -> list[ControlDaemon]:
        """The MPS control daemons that this user may see."""
        return (await self._read("io.mpsafe.Mps.Status", {}, calls.Controls)).controls

    async def start_mps(self, control: str) -> ControlDaemon:
        """Has a control daemon run from now on; returns once it answers. Wants the role admin, as all changes do."""
        return await self._change("Start", {"control": control})

    async def stop_mps(self, control: str, *, force: bool = False) -> ControlDaemon:
        """Has it not run. Without `force` this waits until its clients have left, however long they stay."""
        return await self._change("Stop", {"control": control, "force": force})

    async def set_limits(self, control: str, limits: Limits | None) -> ControlDaemon:
        """Declares limits for clients that connect from now on; None: those of the configuration count again."""
        declared = {} if limits is None else {"limits": msgspec.to_builtins(limits)}
        return await self._change("SetLimits", {"control": control, **declared})

    async def partition(self, control: str, device: str, chunks: list[int]) -> ControlDaemon:
        """Declares the SM partitions of one device, by UUID, sizes in chunks; an empty list takes them away."""
        return await self._change("Partition", {"control": control, "device": device, "chunks": chunks})

    async def report(self, figures: Figures | None = None, *, error: int | None = None, text: str = "") -> None:
        """Tells of this process, once it has attached for a tenant; see `Client.report`."""
        parameters = {**msgspec.to_builtins(figures or Figures()), "error": error, "text": text or None}
        await self._call("io.mpsafe.Host.Report", parameters, calls.Nothing)

    async def attach(self, tenant: str | None = None) -> Attachment:
        """The status page; with `tenant` this process is one of that tenant's from now on."""
        parameters = {} if tenant is None else {"tenant": tenant}
        done = asyncio.get_running_loop().create_future()
        try:
            reply, fds = await self._ask("io.mpsafe.Host.Attach", parameters, done)
            attached = self._converted(reply, calls.Attached)
            places = [attached.page, attached.wake]
            if fds is None or sorted(places) != [0, 1] or len(fds) != 2:
                raise PeerMisbehaved(self._path, "two file descriptors", str(0 if fds is None else len(fds)))
            page, wake = (os.dup(fds[place].fileno()) for place in places)
        finally:
            if not done.done():
                done.set_result(None)
        return Attachment(epoch=attached.epoch, generation=attached.generation, page=page, wake=wake)

    async def create_region(
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
        return (await self._call("io.mpsafe.Vault.Create", parameters, calls.Regional, fds)).region

    async def commit_region(self, region: int, digest: str) -> Region:
        """Ends the writing of an immutable region, "algorithm:hexadecimal"."""
        return (await self._call("io.mpsafe.Vault.Commit", {"region": region, "digest": digest}, calls.Regional)).region

    async def open_region(
        self, region: int | None = None, *, tenant: str | None = None, name: str | None = None, write: bool = False
    ) -> OpenedRegion:
        """The handles of a region, by its id, or the newest of that tenant and name; close what is returned."""
        parameters = {"region": region, "tenant": tenant, "name": name, "write": write}
        done = asyncio.get_running_loop().create_future()
        try:
            reply, fds = await self._ask("io.mpsafe.Vault.Open", parameters, done)
            opened = self._converted(reply, calls.Opened)
            return OpenedRegion.of(self._path, opened, [os.dup(fd.fileno()) for fd in fds or ()])
        finally:
            if not done.done():
                done.set_result(None)

    async def vault(self) -> VaultState:
        """The regions that this user may see, and what holds them."""
        return (await self._read("io.mpsafe.Vault.List", {}, calls.Vaulted)).vault

    async def release_region(self, region: int) -> None:
        """The vault lets go of a region; who has it mapped keeps that."""
        await self._call("io.mpsafe.Vault.Release", {"region": region}, calls.Nothing)

    async def claim(self, tenant: str) -> int:
        """Makes this process the holder of its tenant's epoch. EpochHeld while another one is."""
        return (await self._call("io.mpsafe.Vault.Claim", {"tenant": tenant}, calls.Claimed)).epoch

    async def collect(self, *, dry_run: bool = False) -> list[Collected]:
        """Regions that nobody can use any more: let go of, or only named. Wants the role admin."""
        return (await self._call("io.mpsafe.Vault.Collect", {"dry_run": dry_run}, calls.Collected)).collected

    async def drain(self) -> int:
        """The vault lets go of everything, and takes nothing in. Wants the role admin."""
        return (await self._call("io.mpsafe.Vault.Drain", {}, calls.Released)).released

    async def acquire(
        self,
        tenant: str,
        device: str,
        *,
        memory: Span | None = None,
        sm: Span | None = None,
        resident_bytes: int = 0,
        ttl_ms: int | None = None,
    ) -> Lease:
        """A lease for this process, which ends with this connection; see `Client.acquire`."""
        parameters = calls.acquired(tenant, device, memory, sm, resident_bytes=resident_bytes, ttl_ms=ttl_ms)
        return (await self._call("io.mpsafe.Leases.Acquire", parameters, calls.Leased)).lease

    async def resize(self, lease: int, *, memory: Span | None = None, sm: Span | None = None) -> Resized:
        """Other wishes for a lease; another SM share wants another process, and is answered so."""
        parameters = {"lease": lease, **calls.resized(memory, sm)}
        return (await self._call("io.mpsafe.Leases.Resize", parameters, calls.Resized)).resized

    async def renew(self, lease: int, granted_bytes: int | None = None) -> Lease:
        """Holds a lease on; with `granted_bytes` says that this process has gone down to that."""
        parameters = {"lease": lease, "granted_bytes": granted_bytes}
        return (await self._call("io.mpsafe.Leases.Renew", parameters, calls.Leased)).lease

    async def release(self, lease: int) -> None:
        """Gives a lease back."""
        await self._call("io.mpsafe.Leases.Release", {"lease": lease}, calls.Nothing)

    async def leases(self) -> list[Lease]:
        """The leases that this user may see."""
        return (await self._read("io.mpsafe.Leases.List", {}, calls.Leases)).leases

    async def watch_leases(self) -> AsyncGenerator[LeaseWord]:
        """What becomes of this process's leases; see `Client.watch_leases`."""
        async for reply in self._stream("io.mpsafe.Leases.Watch", {}, calls.Told):
            yield reply.told

    async def link(self, device: str, *, weight: int | None = None) -> Link:
        """A device's link page with a cell for this process, as long as this connection; close what is returned."""
        parameters = {"device": device, "weight": weight}
        reply, page = await self._ask_fd("io.mpsafe.Leases.LinkQuota", parameters, calls.Linked)
        return Link(page, reply.cell)

    async def publish(self, tenant: str, sha256: str, data: int) -> KeptContent:
        """Has the store keep a sealed memfd, which stays the caller's; see `Client.publish`."""
        parameters = {"tenant": tenant, "hash": sha256, "size_bytes": os.fstat(data).st_size, "data": 0}
        reply, kept = await self._ask_fd("io.mpsafe.Store.Publish", parameters, calls.Kept, [data])
        return KeptContent(reply.content, kept)

    async def open_content(self, sha256: str) -> KeptContent:
        """The content of that hash. UnknownContent where this user has published none."""
        reply, kept = await self._ask_fd("io.mpsafe.Store.Open", {"hash": sha256}, calls.Kept)
        return KeptContent(reply.content, kept)

    async def contents(self) -> list[Content]:
        """The contents of the store that this user may see."""
        return (await self._read("io.mpsafe.Store.List", {}, calls.Contents)).contents

    async def stand_by(
        self, tenant: str, *, resident_bytes: int = 0, patience_s: float = 60.0
    ) -> AsyncGenerator[Awaited]:
        """Waits to take over for a tenant that this process has attached for; see `Client.stand_by`."""
        loop = asyncio.get_running_loop()
        away_since = None
        parameters = {"tenant": tenant, "resident_bytes": resident_bytes}
        while True:
            try:
                async for reply in self._stream("io.mpsafe.Standby.Await", parameters, calls.Awaiting):
                    away_since = None
                    yield reply.awaited
                    if reply.awaited.phase in ("granted", "refused"):
                        return
            except DaemonUnreachable:
                away_since = away_since or loop.time()
                if loop.time() - away_since > patience_s:
                    raise
            await asyncio.sleep(RETRY_SECONDS)

    async def progress(self, event: int, *, received_ns: int | None = None, serving_ns: int | None = None) -> None:
        """When this process, promoted in that event, knew of it, and answered first; see `Client.progress`."""
        parameters = {"event": event, "received_ns": received_ns, "serving_ns": serving_ns}
        await self._read("io.mpsafe.Standby.Progress", parameters, calls.Nothing)

    async def standbys(self) -> list[Standby]:
        """The standbys that this user may see."""
        return (await self._read("io.mpsafe.Standby.List", {}, calls.Standbys)).standbys

    async def promote(self, tenant: str) -> int:
        """Takes over for a tenant whose process works; returns the event's id. Wants the role admin."""
        return (await self._call("io.mpsafe.Standby.Promote", {"tenant": tenant}, calls.Promoted)).event

    async def watch(self, *, since: int | None = None, patience_s: float = 60.0) -> AsyncGenerator[Watched]:
        """The stream of events behind `since`, without an end; see `Client.watch`."""
        loop = asyncio.get_running_loop()
        seen, away_since = since, None
        while True:
            try:
                parameters = {} if seen is None else {"since": seen}
                async for reply in self._stream("io.mpsafe.Events.Watch", parameters, calls.Watching):
                    seen, away_since = reply.watched.seq, None
                    yield reply.watched
            except DaemonUnreachable:
                away_since = away_since or loop.time()
                if loop.time() - away_since > patience_s:
                    raise
            await asyncio.sleep(RETRY_SECONDS)

    async def _change(self, method: str, parameters: dict[str, Any]) -> ControlDaemon:
        """On a connection of its own and without a limit: the daemon has its own, and a stop waits for clients."""
        transport, protocol = await self._open()
        try:
            answer = await protocol.call(VarlinkMethodCall(f"io.mpsafe.Mps.{method}", parameters))
        except ConnectionError as error:
            raise DaemonUnreachable(self._path, str(error)) from error
        except (TypeError, ValueError) as error:
            raise PeerMisbehaved(self._path, "a Varlink reply", str(error)) from error
        finally:
            transport.close()
        assert answer is not None
        return self._converted(answer[0], calls.Changed).control

    async def _stream(self, method: str, parameters: dict[str, Any], kind: type[T]) -> AsyncGenerator[T]:
        transport, protocol = await self._open()
        try:
            async for reply, _ in protocol.call_more(VarlinkMethodCall(method, parameters, more=True)):
                yield self._converted(reply, kind)
        except ConnectionError as error:
            raise DaemonUnreachable(self._path, str(error)) from error
        finally:
            transport.close()

    async def _open(self) -> tuple[VarlinkTransport, VarlinkClientProtocol]:
        try:
            return await connect_unix_varlink(VarlinkClientProtocol, self._path)
        except OSError as error:
            raise DaemonUnreachable(self._path, error.strerror or str(error)) from error

    async def _ask(
        self,
        method: str,
        parameters: dict[str, Any],
        done: asyncio.Future[None] | None = None,
        fds: Sequence[int] = (),
    ) -> tuple[VarlinkMethodReply, FileDescriptorArray | None]:
        if self._connection is None:
            self._connection = await self._open()
        try:
            async with asyncio.timeout(self._timeout_s):
                call = VarlinkMethodCall(method, parameters)
                answer = await self._connection[1].call(call, list(fds) or None, replyfdsdone=done)
        except TimeoutError as error:
            await self.close()
            raise DaemonUnreachable(self._path, "no answer in time") from error
        except ConnectionError as error:
            await self.close()
            raise DaemonUnreachable(self._path, str(error)) from error
        except (TypeError, ValueError) as error:
            await self.close()
            raise PeerMisbehaved(self._path, "a Varlink reply", str(error)) from error
        assert answer is not None
        return answer

    async def _call(self, method: str, parameters: dict[str, Any], kind: type[T], fds: Sequence[int] = ()) -> T:
        reply, _ = await self._ask(method, parameters, fds=fds)
        return self._converted(reply, kind)

    async def _ask_fd(
        self, method: str, parameters: dict[str, Any], kind: type[T], fds: Sequence[int] = ()
    ) -> tuple[T, int]:
        """A call that is answered with one descriptor, which is the caller's then."""
        done = asyncio.get_running_loop().create_future()
        try:
            reply, came = await self._ask(method, parameters, done, fds)
            converted = self._converted(reply, kind)
            if came is None or len(came) != 1:
                raise PeerMisbehaved(self._path, "one file descriptor", str(0 if came is None else len(came)))
            return converted, os.dup(came[0].fileno())
        finally:
            if not done.done():
                done.set_result(None)

    async def _read(self, method: str, parameters: dict[str, Any], kind: type[T]) -> T:
        if self._connection is not None:
            try:
                return await self._call(method, parameters, kind)
            except ConnectionEnded:
                await self.close()
        return await self._call(method, parameters, kind)

    def _converted(self, reply: VarlinkMethodReply, kind: type[T]) -> T:
        if reply.error is not None:
            raise sent_error(reply.error, reply.parameters, self._path)
        try:
            return msgspec.convert(reply.parameters, kind)
        except msgspec.ValidationError as error:
            raise PeerMisbehaved(self._path, "a Varlink reply of this interface", str(error)) from error
