# SPDX-License-Identifier: Apache-2.0
"""The stand-in's control daemon: takes connections, brings clients to servers, starts and ends those.

As the manual page of the real one says: one user has the server at a time; clients of another wait
until it is idle, then get a server that runs as theirs. A user whose servers do not come up is given
up after as many starts as were measured, and its waiting clients find 805.
"""

import os
import socket
import sys
import time
from collections import deque
from pathlib import Path
from typing import Final

from mpsafe.soft import lifeline
from mpsafe.soft.commands import Commands
from mpsafe.soft.control_wire import (
    GREETING,
    KIND_CLIENT,
    KIND_FRONT_END,
    Incoming,
    reply_end,
    reply_line,
)
from mpsafe.soft.mps_log import MpsLog, log_directory, open_log
from mpsafe.soft.pipe_directory import files, lock, pipe_directory
from mpsafe.soft.servers import Server, Servers
from mpsafe.soft.settings import Settings
from mpsafe.soft.sockets import Loop, allow_many, credentials, listen, post

__all__ = ["run"]

STARTS: Final = 6
COMMANDS_MAX: Final = 1024
GRACE_S: Final = 1.0


class Caller:
    """One connection: a front end with its commands, or a client that waits for its server."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.pid, self.uid, _ = credentials(sock)
        self.incoming = Incoming()
        self.commands: deque[str] = deque()
        self.waiting = False
        self.at_once = False


class ControlDaemon:
    """Serves one pipe directory."""

    def __init__(self, directory: Path, *, log: MpsLog, server_log: MpsLog, lock: int) -> None:
        self._log = log
        self._lock = lock
        self._loop = Loop()
        self._settings = Settings.of(os.environ)
        self._servers = Servers(
            self._loop, directory, control_log=log, server_log=server_log, events=self, on_fork=self._on_fork
        )
        self._commands = Commands(self._settings, self._servers, log=self._say, start=self._start, end=self._end)
        self._pending: list[Caller] = []
        self._failures: dict[int, int] = {}
        self._callers: dict[socket.socket, Caller] = {}
        self._ending = False
        self._force_at: float | None = None
        self._forced = False
        self._running = True
        self._status = 0
        for name, mode in (("control", 0o666), ("control_privileged", 0o755)):
            self._loop.accept(listen(directory / name, mode), self._accept)
        if host := os.environ.get("MPSAFE_SOFT_DIR"):
            lifeline.follow(self._loop, host, self._drop_all)
        self._say(f"Starting control daemon using socket {directory / 'control'}")
        self._say(f"To connect CUDA applications to this daemon, set env CUDA_MPS_PIPE_DIRECTORY={directory}")
        for complaint in self._settings.complaints:
            self._say(complaint)

    def serve(self) -> int:
        """Serves until quit; returns the exit status."""
        while self._running:
            self._loop.turn(None if self._force_at is None else max(0.0, self._force_at - time.monotonic()))
            if self._force_at is not None and time.monotonic() >= self._force_at:
                self._force()
        self._say(f"Exit with status {self._status}")
        for caller in self._callers.values():
            if caller.waiting:
                post(caller.sock, reply_end(self._status))
        return self._status

    def _force(self) -> None:
        """Kills the servers that are in use; those that have been told to end get a moment more."""
        for server in self._servers.all():
            if server.busy or self._forced:
                self._servers.kill(server)
        self._forced = True
        self._force_at = time.monotonic() + GRACE_S

    def _drop_all(self) -> None:
        """The host is gone: nobody waits for anything, and a server that is stopped cannot end by itself."""
        for server in self._servers.all():
            self._servers.kill(server)
        self._running = False

    def _on_fork(self) -> None:
        self._loop.abandon()
        os.close(self._lock)

    def _say(self, text: str) -> None:
        self._log.write("Control", text)

    def _accept(self, sock: socket.socket) -> None:
        self._say("Accepting connection...")
        caller = self._callers[sock] = Caller(sock)
        self._loop.hear(sock, lambda packet: self._hear(caller, packet))
        post(sock, GREETING)

    def _forget(self, caller: Caller) -> None:
        self._callers.pop(caller.sock, None)
        self._loop.forget(caller.sock)
        caller.commands.clear()
        if caller in self._pending:
            self._pending.remove(caller)

    def _hear(self, caller: Caller, packet: bytes) -> None:
        known = caller.incoming.kind
        try:
            caller.commands += caller.incoming.feed(packet)
            if not packet and known is None:
                raise ValueError("User did not send valid credentials")
        except ValueError as error:
            self._say(str(error))
            packet = b""
        if not packet or len(caller.commands) > COMMANDS_MAX:
            self._forget(caller)
        elif caller.incoming.kind == KIND_CLIENT and known is None:
            self._new_client(caller)
        elif caller.incoming.kind == KIND_FRONT_END:
            if known is None:
                self._say("NEW UI")
            if not caller.waiting:
                self._next_command(caller)

    def _next_command(self, caller: Caller) -> None:
        while caller.commands and not caller.waiting:
            text = caller.commands.popleft()
            self._say(f"Cmd:{text}")
            caller.waiting = caller.at_once = True
            self._commands.run(text, caller.uid, lambda lines: self._answer(caller, lines))
            caller.at_once = False
        if caller.incoming.ended and not caller.waiting and caller.sock in self._callers:
            post(caller.sock, reply_end(0))
            self._say("UI closed")
            self._forget(caller)

    def _answer(self, caller: Caller, lines: list[str]) -> None:
        caller.waiting = False
        for line in lines:
            self._say(line.rstrip("\n"))
            if not post(caller.sock, reply_line(line)):
                self._forget(caller)
        if not caller.at_once:
            self._next_command(caller)

    def _new_client(self, caller: Caller) -> None:
        who = f"NEW CLIENT {caller.pid} from user {caller.uid}"
        server = self._active()
        if self._ending:
            self._forget(caller)
        elif server is not None and server.uid == caller.uid and server.ready and not server.ending:
            self._say(f"{who}: Server already exists")
            self._bring(caller, server)
        else:
            self._say(f"{who}: Server is not ready, push client to pending list")
            self._pending.append(caller)
            self._serve_pending()

    def _active(self) -> Server | None:
        return next(iter(self._servers.all()), None)

    def _bring(self, caller: Caller, server: Server) -> None:
        post(caller.sock, self._servers.bring(server, caller.pid).encode())
        self._forget(caller)

    def _start(self, uid: int) -> None:
        if self._active() is None and not self._ending:
            self._servers.start(uid, self._settings.copy())

    def _serve_pending(self) -> None:
        """Lets the user of the oldest waiting client have the server, now or when the other's is idle."""
        while self._pending:
            if (server := self._active()) is not None:
                self._servers.settle(server)
                return
            uid = self._pending[0].uid
            if self._failures.get(uid, 0) >= STARTS or not self._servers.start(uid, self._settings.copy()):
                self._failures.pop(uid, None)
                for caller in [caller for caller in self._pending if caller.uid == uid]:
                    self._forget(caller)

    def ready(self, server: Server) -> None:
        """A server takes clients: those that wait for it get the way."""
        self._say(f"NEW SERVER {server.pid}: Ready")
        self._failures.pop(server.uid, None)
        for caller in [caller for caller in self._pending if caller.uid == server.uid]:
            self._bring(caller, server)
        self._servers.settle(server)

    def idle(self, server: Server) -> None:
        """A server has nothing to do: it may have to make room."""
        others_wait = any(caller.uid != server.uid for caller in self._pending)
        if server.ready and (server.leaving or self._ending or others_wait):
            self._servers.stop(server)

    def gone(self, server: Server, status: int) -> None:
        """A server has ended, or could not start."""
        self._status = self._status or int(status != 0)
        if not server.ready and any(caller.uid == server.uid for caller in self._pending):
            self._failures[server.uid] = self._failures.get(server.uid, 0) + 1
        if self._ending and self._active() is None:
            self._running = False
        self._serve_pending()

    def _end(self, limit_s: float | None) -> None:
        """Ends when all servers have, each when it is idle; by force after `limit_s` if it is given."""
        self._ending = True
        self._force_at = None if limit_s is None else time.monotonic() + limit_s
        for caller in list(self._pending):
            self._forget(caller)
        for server in self._servers.all():
            self._servers.settle(server)
        if self._active() is None:
            self._running = False


def run(*, background: bool) -> int:
    """Starts the control daemon in the pipe directory; status 1 if one runs there already or it cannot be used."""
    os.umask(0)
    directory, logs = pipe_directory(), log_directory()
    log, server_log = (open_log(logs / name, echo=not background) for name in ("control.log", "server.log"))
    try:
        held = lock(directory)
    except BlockingIOError:
        sys.stdout.write("An instance of this daemon is already running\n")
        return 1
    except OSError:
        sys.stdout.write(f"Cannot access CUDA_MPS_PIPE_DIRECTORY={directory}\n")
        return 1
    served, serving = os.pipe()
    if background and os.fork():
        os.close(serving)
        return 0 if os.read(served, 1) else 1
    if background:
        _detach()
    allow_many()
    daemon = ControlDaemon(directory, log=log, server_log=server_log, lock=held)
    with files(directory):
        os.write(serving, b"1")
        os.close(serving)
        os.close(served)
        return daemon.serve()


def _detach() -> None:
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.close(null)
