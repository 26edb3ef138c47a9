# SPDX-License-Identifier: Apache-2.0
"""The client that blocks."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any, Final, Self, TypeVar

from mpsafe.client import calls
from mpsafe.client.attachment import Attachment
from mpsafe.client.wire import Wire
from mpsafe.errors import ConnectionEnded, DaemonUnreachable, PeerMisbehaved
from mpsafe.model import Client as MpsClient
from mpsafe.model import Device, Event, Tenant
from mpsafe.protocol import DEFAULT_SOCKET
from mpsafe.protocol.events import Watched
from mpsafe.protocol.host import Description

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

    def fence(self, pid: int) -> int:
        """Fences a client; returns the id of the event that tells how it goes. Wants the role admin."""
        return self._call("io.mpsafe.Events.Fence", {"pid": pid}, calls.Fenced).event

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

    def _connected(self) -> Wire:
        if self._wire is None:
            self._wire = Wire(self._path, timeout_s=self._timeout_s)
        return self._wire

    def _call(self, method: str, parameters: dict[str, Any], kind: type[T]) -> T:
        try:
            return self._connected().call(method, parameters, kind)
        except ConnectionEnded:
            self.close()
            raise

    def _read(self, method: str, parameters: dict[str, Any], kind: type[T]) -> T:
        if self._wire is not None:
            with contextlib.suppress(DaemonUnreachable):
                return self._call(method, parameters, kind)
        return self._call(method, parameters, kind)
