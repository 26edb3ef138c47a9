# SPDX-License-Identifier: Apache-2.0
"""A process that does nothing but hold file descriptors, where there is no systemd to do it.

    python -m mpsafed.vault.keeper PATH

It listens on PATH (SOCK_SEQPACKET), for processes of its own user and root, and returns once it does: the process
that stays is its child, in a session of its own. It ends when it holds nothing and nobody is connected.

    hold NAME...    with a descriptor for each name     ok
    drop NAME...                                        ok
    list                                                held NAME... with their descriptors, as often as it takes; end
"""

import errno
import os
import selectors
import socket
import struct
import sys
from typing import Final

__all__ = ["FDS_MAX", "MESSAGE_MAX", "main"]

FDS_MAX: Final = 64
MESSAGE_MAX: Final = 16 << 10
CREDENTIALS: Final = struct.Struct("iII")


def main() -> int:
    """Listens, leaves its child behind, and says so by its exit status."""
    path = sys.argv[1]
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    mask = os.umask(0o177)
    listener.bind(path)
    os.umask(mask)
    listener.listen()
    if os.fork():
        return 0
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    try:
        _Keeper(listener).run()
    finally:
        os.unlink(path)
    return 0


class _Keeper:
    def __init__(self, listener: socket.socket) -> None:
        self._held: dict[str, int] = {}
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._peers: set[socket.socket] = set()

    def run(self) -> None:
        used = False
        while self._held or self._peers or not used:
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    self._accept()
                    used = True
                elif isinstance(key.fileobj, socket.socket) and not self._answer(key.fileobj):
                    self._selector.unregister(key.fileobj)
                    self._peers.discard(key.fileobj)
                    key.fileobj.close()

    def _accept(self) -> None:
        peer, _ = self._listener.accept()
        raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
        if CREDENTIALS.unpack(raw)[1] not in (0, os.geteuid()):
            peer.close()
            return
        self._peers.add(peer)
        self._selector.register(peer, selectors.EVENT_READ)

    def _answer(self, peer: socket.socket) -> bool:
        """Deals with one message; False: the peer is to be let go of."""
        try:
            data, fds, flags, _ = socket.recv_fds(peer, MESSAGE_MAX, FDS_MAX, socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            return error.errno in (errno.EAGAIN, errno.EINTR)
        command, *names = data.decode("ascii", "replace").split()[: FDS_MAX + 1] or [""]
        try:
            if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
                peer.send(b"error some descriptors did not arrive")
            elif command == "hold" and len(names) == len(fds) == len(set(names)):
                for name, fd in zip(names, fds, strict=True):
                    self._drop(name)
                    self._held[name] = fd
                fds = []
                peer.send(b"ok")
            elif command == "drop":
                for name in names:
                    self._drop(name)
                peer.send(b"ok")
            elif command == "list":
                self._list(peer)
            else:
                return False
        except OSError:
            return False
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _drop(self, name: str) -> None:
        if (fd := self._held.pop(name, None)) is not None:
            os.close(fd)

    def _list(self, peer: socket.socket) -> None:
        names = list(self._held)
        for first in range(0, len(names), FDS_MAX):
            part = names[first : first + FDS_MAX]
            socket.send_fds(peer, [f"held {' '.join(part)}".encode()], [self._held[name] for name in part])
        peer.send(b"end")


if __name__ == "__main__":
    sys.exit(main())
