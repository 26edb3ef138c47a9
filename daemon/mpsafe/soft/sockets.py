# SPDX-License-Identifier: Apache-2.0
"""SEQPACKET sockets between the programs of the software GPU, and the loop that serves them.

Each program has one thread and waits for nobody: who does not read what it is sent loses its
connection, and what a peer sends can only end that peer's connection.
"""

import contextlib
import os
import resource
import selectors
import socket
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["PACKET_MAX", "Credentials", "Loop", "allow_many", "connect", "credentials", "listen", "post"]

PACKET_MAX: Final = 65536
BACKLOG: Final = 128

_CREDENTIALS: Final = struct.Struct("iII")


class Credentials(NamedTuple):
    """Who connected, by SO_PEERCRED (unix(7))."""

    pid: int
    uid: int
    gid: int


def credentials(sock: socket.socket) -> Credentials:
    """Who is at the other end."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return Credentials(*_CREDENTIALS.unpack(raw))


def allow_many() -> None:
    """Lets this process have as many descriptors as it may: one connection or two for each client."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def listen(path: Path, mode: int) -> socket.socket:
    """A listening socket at `path`, in the place of whatever an earlier run left there."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    listener.bind(os.fspath(path))
    path.chmod(mode)
    listener.listen(BACKLOG)
    return listener


def connect(path: Path) -> socket.socket:
    """A blocking connection. OSError if nobody listens there."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        sock.connect(os.fspath(path))
    except OSError:
        sock.close()
        raise
    return sock


def post(sock: socket.socket, packet: bytes, fds: Sequence[int] = ()) -> bool:
    """Sends without waiting; False if there is no room or nobody."""
    try:
        socket.send_fds(sock, [packet], list(fds), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except OSError:
        return False
    return True


class _Handlers(NamedTuple):
    readable: Callable[[], None]
    writable: Callable[[], None] | None


class Loop:
    """Calls what was registered for a socket when something has come there. It owns what is registered."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def accept(self, listener: socket.socket, handle: Callable[[socket.socket], None]) -> None:
        """Hands each new connection to `handle`."""

        def ready() -> None:
            try:
                sock, _ = listener.accept()
            except OSError:  # the caller has gone again, or there is no descriptor left
                return
            sock.setblocking(False)
            handle(sock)

        self._selector.register(listener, selectors.EVENT_READ, _Handlers(ready, None))

    def hear(
        self, sock: socket.socket, handle: Callable[[bytes], None], *, room: Callable[[], None] | None = None
    ) -> None:
        """Hands each packet to `handle`, an empty one when the other end is closed; `room`: see `await_room`."""

        def ready() -> None:
            try:
                packet = sock.recv(PACKET_MAX)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            handle(packet)

        self._selector.register(sock, selectors.EVENT_READ, _Handlers(ready, room))

    def watch(self, fd: int, handle: Callable[[], None]) -> None:
        """Calls `handle` while a descriptor that is no socket is readable."""
        self._selector.register(fd, selectors.EVENT_READ, _Handlers(handle, None))

    def await_room(self, sock: socket.socket) -> None:
        """Calls the socket's `room` once, when packets can be sent to it again."""
        handlers = self._selector.get_key(sock).data
        self._selector.modify(sock, selectors.EVENT_READ | selectors.EVENT_WRITE, handlers)

    def forget(self, source: socket.socket | int) -> None:
        """Unregisters and closes. A socket that is closed already is left alone."""
        if isinstance(source, int):
            self._selector.unregister(source)
            os.close(source)
        elif source.fileno() >= 0:
            with contextlib.suppress(KeyError):
                self._selector.unregister(source)
            source.close()

    def turn(self, timeout_s: float | None) -> None:
        """Waits for something to come and handles it; returns after `timeout_s` at the latest."""
        for key, events in self._selector.select(timeout_s):
            handlers: _Handlers = key.data
            if events & selectors.EVENT_WRITE and handlers.writable is not None and self._registered(key):
                self._selector.modify(key.fileobj, selectors.EVENT_READ, handlers)
                handlers.writable()
            if events & selectors.EVENT_READ and self._registered(key):
                handlers.readable()

    def _registered(self, key: selectors.SelectorKey) -> bool:
        """Whether a handler called before this one has not forgotten it."""
        now = self._selector.get_map().get(key.fd)
        return now is not None and now.data is key.data

    def abandon(self) -> None:
        """Closes everything in a forked child, for the child alone: unregistering would act on the parent's."""
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
            else:
                os.close(key.fd)
        self._selector.close()
