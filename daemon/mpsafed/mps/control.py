# SPDX-License-Identifier: Apache-2.0
"""One MPS control daemon: asked in the language that it speaks, believed as far as its user may be.

A user's own control daemon is the user's program: it can name any process as its server or client.
We signal processes that it names, so of those only the user's own are taken in.
"""

import asyncio
import contextlib
import os
import socket
import stat
import struct
from collections.abc import Mapping
from typing import Final

from mpsafe.errors import ControlFailed
from mpsafe.model import Identity, MpsInterface, ServerState
from mpsafed.declared import Declared
from mpsafed.mps.dialect import Dialect
from mpsafed.mps.front_end import FrontEnd
from mpsafed.mps.probe import probe
from mpsafed.processes import identify, name_and_uid

__all__ = ["Control", "uid_of"]

_CREDENTIALS: Final = struct.Struct("iII")


class Control:
    """The control daemon that `declared` names; `environment` is the programs', without MPS's directories.

    Everything that asks raises ControlFailed where no answer comes that can be understood.
    """

    def __init__(self, declared: Declared, environment: Mapping[str, str], *, deadline_s: float = 5.0) -> None:
        self.declared = declared
        self.environment: Mapping[str, str] = {
            **environment,
            "CUDA_MPS_PIPE_DIRECTORY": os.fspath(declared.pipe_directory),
            "CUDA_MPS_LOG_DIRECTORY": os.fspath(declared.log_directory),
        }
        self.front_end = FrontEnd(declared.program, self.environment, uid=declared.uid, deadline_s=deadline_s)
        self._dialect: Dialect | None = None
        self._probing = asyncio.Lock()
        self._troubles: dict[str, str] = {}

    @property
    def name(self) -> str:
        """Its name in the configuration."""
        return self.declared.name

    @property
    def interface(self) -> MpsInterface:
        """What it speaks, as far as that is known yet."""
        return "unknown" if self._dialect is None else self._dialect.interface

    @property
    def trouble(self) -> str:
        """Empty, or what of its last answers is not believed, and why."""
        return "; ".join(self._troubles.values())

    async def dialect(self) -> Dialect:
        """How to speak to it. Found out once, and again after `forget`."""
        async with self._probing:
            if self._dialect is None:
                self._dialect = await probe(self.front_end)
            if self._dialect is None:
                raise ControlFailed("get_server_list", "it answers in a language that is neither MPS v2 nor v3")
            return self._dialect

    def forget(self) -> None:
        """The daemon is another one now: what it speaks is to be found out again."""
        self._dialect = None

    def identity(self) -> Identity | None:
        """The process that listens in the pipe directory, if it is root's or the user's whose it is to be.

        A socket file proves nothing, as a killed daemon leaves it: the kernel's word on a connection does
        (SO_PEERCRED, unix(7)). A link in the place of the socket is not followed.
        """
        path = self.declared.pipe_directory / "control"
        self._troubles.pop("listener", None)
        try:
            found = _listener(path)
        except OSError as error:
            self._troubles["listener"] = f"{path} cannot be tried: {error.strerror}"
            return None
        if found is None:
            return None
        pid, uid = found
        owner = os.geteuid() if self.declared.uid is None else self.declared.uid
        if uid not in (0, owner):
            self._troubles["listener"] = f"process {pid} of uid {uid} listens on {path}, which is to be uid {owner}'s"
            return None
        return identify(pid)

    async def servers(self) -> list[int]:
        """The servers' pids."""
        return self._believed("server", await (await self.dialect()).servers())

    async def server_state(self, server: int) -> ServerState:
        """A server's state; `unknown` where the daemon cannot say."""
        return await (await self.dialect()).server_state(server)

    async def clients(self, server: int) -> list[int]:
        """The pids of a server's clients; none if the server is gone."""
        return self._believed("client", await (await self.dialect()).clients(server))

    async def server_of(self, client: int) -> int | None:
        """The server that has a client of this pid."""
        for server in await self.servers():
            if client in await self.clients(server):
                return server
        return None

    async def server(self, server: int) -> tuple[ServerState, list[int]]:
        """A server's state and the pids of its clients, asked for at once; nothing runs on if one fails."""
        try:
            async with asyncio.TaskGroup() as asked:
                state = asked.create_task(self.server_state(server))
                clients = asked.create_task(self.clients(server))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return state.result(), clients.result()

    async def terminate_client(self, server: int, client: int, *, deadline_s: float) -> bool:
        """Ends a client's GPU work. True only with proof that it has stopped."""
        return await (await self.dialect()).terminate_client(server, client, deadline_s=deadline_s)

    async def shutdown_server(self, server: int) -> None:
        """Ends a server and whatever runs in it."""
        await (await self.dialect()).shutdown_server(server)

    async def start_server(self, uid: int) -> None:
        """Asks for a server; the daemon says nothing even if the server dies at once."""
        await (await self.dialect()).start_server(uid)

    def _believed(self, what: str, listed: list[int]) -> list[int]:
        """Those that it may name; of a daemon that serves everybody, all."""
        uid = self.declared.uid
        if uid is None:
            return listed
        owners = {pid: uid_of(pid) for pid in listed}
        self._troubles.pop(what, None)
        for pid, owner in owners.items():
            if owner not in (None, uid):
                self._troubles[what] = (
                    f"it names process {pid} of uid {owner} as a {what}, and may name those of uid {uid}"
                )
        return [pid for pid, owner in owners.items() if owner == uid]


def uid_of(pid: int) -> int | None:
    """Whose the process is that has this pid now; None if none has."""
    identity = identify(pid)
    about = name_and_uid(identity) if identity else None
    return about[1] if about else None


def _listener(path: os.PathLike[str]) -> tuple[int, int] | None:
    """Pid and uid of whoever listens on a socket; None if nobody does, or is too busy to be connected to."""
    try:
        file = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        if not stat.S_ISSOCK(os.fstat(file).st_mode):
            return None
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)) as sock:
            # Through the descriptor: the same socket that was looked at, however long its path is.
            sock.connect(f"/proc/self/fd/{file}")
            pid, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
            return int(pid), int(uid)
    except (ConnectionRefusedError, BlockingIOError):
        return None
    finally:
        os.close(file)
