# SPDX-License-Identifier: Apache-2.0
"""The MPS servers of a control daemon: started by fork, asked over a socket, reaped.

A server runs as the user whose clients it serves. It is a fork that does not exec, so that another
user needs no right to read this installation; what it needs of the pipe and log directories it
inherits as descriptors, as that user may not enter them.
"""

import contextlib
import os
import pwd
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from mpsafe.soft import server
from mpsafe.soft.mps_log import MpsLog
from mpsafe.soft.settings import Settings
from mpsafe.soft.sockets import Loop, listen, post

__all__ = ["Answer", "Server", "ServerEvents", "Servers"]

NUMBER_MAX: Final = 20

Answer = Callable[[list[str]], None]


class ServerEvents(Protocol):
    """What becomes of servers."""

    def ready(self, server: "Server") -> None:
        """It takes clients from now on."""
        ...

    def idle(self, server: "Server") -> None:
        """It has no client, and none is on the way."""
        ...

    def gone(self, server: "Server", status: int) -> None:
        """Its process has ended; negative: by that signal."""
        ...


class Server:
    """One server as the control daemon sees it.

    `leaving`: to be stopped when it is idle; `ending`: told to stop. `coming`: clients on their way, by
    pid, with a pidfd each.
    """

    def __init__(self, pid: int, uid: int, sock: socket.socket, path: Path, settings: Settings) -> None:
        self.pid = pid
        self.uid = uid
        self.sock = sock
        self.path = path
        self.settings = settings
        self.ready = False
        self.leaving = False
        self.ending = False
        self.empty = True
        self.coming: dict[int, int] = {}
        self.asked: dict[int, Answer] = {}

    @property
    def busy(self) -> bool:
        """Whether it has a client, or one is on the way."""
        return not self.empty or bool(self.coming)


class Servers:
    """All servers by pid, oldest first. `on_fork` closes in a child what is the daemon's alone."""

    def __init__(
        self,
        loop: Loop,
        directory: Path,
        *,
        control_log: MpsLog,
        server_log: MpsLog,
        events: ServerEvents,
        on_fork: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._directory = directory
        self._control_log = control_log
        self._server_log = server_log
        self._events = events
        self._on_fork = on_fork
        self._servers: dict[int, Server] = {}
        self._started = 0
        self._requests = 0

    def all(self) -> list[Server]:
        """Those whose process lives."""
        return list(self._servers.values())

    def get(self, pid: int) -> Server | None:
        """The server of that pid."""
        return self._servers.get(pid)

    def start(self, uid: int, settings: Settings) -> bool:
        """Starts one for a user; False, with a line in the log, where we may not become that user."""
        if uid != os.geteuid() and os.geteuid() != 0:
            self._control_log.write("Control", f"Failed to start server using uid {uid}. Operation not permitted")
            return False
        self._started += 1
        path = self._directory / f"server-{self._started}"
        listener = listen(path, 0o666)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            self._become_server(uid, theirs, listener, settings)
        theirs.close()
        listener.close()
        ours.setblocking(False)
        started = self._servers[pid] = Server(pid, uid, ours, path, settings)
        self._loop.hear(ours, lambda packet: self._hear(started, packet))
        ended = os.pidfd_open(pid)
        self._loop.watch(ended, lambda: self._reap(started, ended))
        return True

    def _become_server(self, uid: int, control: socket.socket, listener: socket.socket, settings: Settings) -> None:
        """In the child; does not return."""
        status = 1
        try:
            self._on_fork()
            with contextlib.suppress(OSError):  # a name is for show
                Path("/proc/self/comm").write_text("nvidia-cuda-mps-server")
            if uid != os.geteuid():
                os.setgroups([])
                os.setgid(_group_of(uid))
                os.setuid(uid)
            self._control_log.write("Control", f"Starting new server {os.getpid()} for user {uid}")
            status = server.run(control, listener, self._server_log, settings)
        finally:
            os._exit(status)

    def stop(self, one: Server) -> None:
        """Asks it to end. It takes no more clients from us."""
        if not one.ending:
            one.ending = True
            post(one.sock, b"shutdown")

    def kill(self, one: Server) -> None:
        """Ends it and what runs in it, even if it is stopped."""
        one.ending = True
        self._control_log.write("Control", f"Force shutting down server {one.pid}")
        os.kill(one.pid, signal.SIGKILL)

    def bring(self, one: Server, pid: int) -> str:
        """Notes that a client is on its way, until it arrives or dies; the reply that tells it the way."""
        try:
            fd = os.pidfd_open(pid)
        except OSError:
            return f"server {one.path}"
        if pid in one.coming:
            os.close(fd)
        else:
            one.coming[pid] = fd
            self._loop.watch(fd, lambda: self._arrived(one, pid))
        return f"server {one.path}"

    def ask(self, one: Server, request: str, answer: Answer) -> None:
        """Sends a request; `answer` gets the lines of the reply."""
        self._requests += 1
        one.asked[self._requests] = answer
        if not post(one.sock, f"{self._requests} {request}".encode()):
            one.asked.pop(self._requests)([f"Server {one.pid} is <busy>"])

    def _hear(self, one: Server, packet: bytes) -> None:
        word, _, text = packet.decode("utf-8", "replace").partition(" ")
        match word:
            case "":
                self._loop.forget(one.sock)
            case "ready":
                one.ready = True
                self._events.ready(one)
            case "arrived" if text.isdecimal() and len(text) < NUMBER_MAX:
                one.empty = False
                self._arrived(one, int(text))
            case "idle":
                one.empty = True
                self.settle(one)
            case _ if word.isdecimal() and len(word) < NUMBER_MAX:
                if (answer := one.asked.pop(int(word), None)) is not None:
                    answer(text.split("\n") if text else [])
            case _:
                pass

    def _arrived(self, one: Server, pid: int) -> None:
        """A client that was on its way has connected to the server, or has died."""
        if (fd := one.coming.pop(pid, None)) is not None:
            self._loop.forget(fd)
            self.settle(one)

    def settle(self, one: Server) -> None:
        """Tells once more that it is idle, if it is."""
        if not one.busy and one.pid in self._servers:
            self._events.idle(one)

    def _reap(self, one: Server, ended: int) -> None:
        self._loop.forget(ended)
        self._loop.forget(one.sock)
        status = os.waitstatus_to_exitcode(os.waitpid(one.pid, 0)[1])
        del self._servers[one.pid]
        one.path.unlink(missing_ok=True)
        for fd in one.coming.values():
            self._loop.forget(fd)
        for answer in one.asked.values():
            answer([f"Server {one.pid} not found"])
        if not one.ready:
            self._control_log.write("Control", "Server encountered a fatal exception. Shutting down")
        self._control_log.write("Control", f"Server {one.pid} exited with status {status}")
        self._events.gone(one, status)


def _group_of(uid: int) -> int:
    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:
        return uid
