# SPDX-License-Identifier: Apache-2.0
"""The listening side of the Varlink service: who is let in, and which method a call means.

asyncvarlink defines and describes the interfaces. Its own server is not used: in version 0.3.3 it
closes the listening socket for good when descriptors run out, bounds no message, has no way to a
peer's credentials, and does not see a watcher hang up.
"""

import asyncio
import errno
import logging
import socket
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from asyncvarlink import (
    GenericVarlinkErrorReply,
    VarlinkInterface,
    VarlinkInterfaceRegistry,
    VarlinkMethodCall,
    VarlinkMethodSignature,
    varlinksignature,
)
from asyncvarlink.serviceerrors import ExpectedMore
from asyncvarlink.serviceinterface import VarlinkServiceInterface

from mpsafe.protocol import PRODUCT, URL, VENDOR
from mpsafed.api.connection import Connection
from mpsafed.peer import peer_of

__all__ = ["Service"]

CONNECTIONS_MAX: Final = 1024
CONNECTIONS_PER_UID: Final = 128
RETRY_SECONDS: Final = 0.1

Method: TypeAlias = tuple[Callable[..., Any], VarlinkMethodSignature]

_log = logging.getLogger(__name__)


class Service:
    """Serves interfaces on a listening socket, which it takes over."""

    def __init__(self, listener: socket.socket, admin_group: str, version: str) -> None:
        self._listener = listener
        self._admin_group = admin_group
        self._registry = VarlinkInterfaceRegistry()
        self._methods: dict[str, Method] = {}
        self._open: set[Connection] = set()
        self._by_uid: Counter[int] = Counter()
        self.add(VarlinkServiceInterface(VENDOR, PRODUCT, version, URL, self._registry))

    def add(self, interface: VarlinkInterface) -> None:
        """Serves one more interface."""
        self._registry.register_interface(interface)
        for name in dir(interface):
            method = getattr(interface, name)
            if callable(method) and (signature := varlinksignature(method)) is not None:
                self._methods[f"{interface.name}.{name}"] = (method, signature)

    def method(self, name: str, *, more: bool) -> Method:
        """The method of that full name. Raises what Varlink has for names that are none."""
        found = self._methods.get(name)
        if found is None:
            try:
                return self._registry.lookup_method(VarlinkMethodCall(name, {}, more=more))
            except ValueError:
                raise GenericVarlinkErrorReply("org.varlink.service.MethodNotFound", {"method": name}) from None
        if found[1].more and not more:
            raise ExpectedMore()
        return found

    def start(self) -> None:
        """Accepts from now on."""
        self._listener.setblocking(False)
        self._listener.listen(CONNECTIONS_PER_UID)
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def close(self) -> None:
        """Accepts nobody any more and closes all connections."""
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        for connection in list(self._open):
            connection.close()

    def drop(self, pid: int) -> None:
        """Closes the connections of one process."""
        for connection in [c for c in self._open if c.peer.pid == pid]:
            connection.close()

    def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno not in (errno.ECONNABORTED, errno.EINTR):
                _log.warning("cannot accept: %s; tried again in %g s", error.strerror, RETRY_SECONDS)
                loop.remove_reader(self._listener)
                loop.call_later(RETRY_SECONDS, self._accept_again)
            return
        peer = peer_of(sock, self._admin_group)
        full = len(self._open) >= CONNECTIONS_MAX or self._by_uid[peer.uid] >= CONNECTIONS_PER_UID
        if full and not peer.admin:
            sock.close()
            return
        self._by_uid[peer.uid] += 1
        self._open.add(Connection(sock, peer, self.method, self._left))

    def _accept_again(self) -> None:
        if self._listener.fileno() >= 0:
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _left(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._by_uid[connection.peer.uid] -= 1
        if not self._by_uid[connection.peer.uid]:
            del self._by_uid[connection.peer.uid]
