# SPDX-License-Identifier: Apache-2.0
"""`nvidia-cuda-mps-control`, one command a process, every answer distrusted.

The program exits 0 whatever became of a command, and 1 where no daemon answers: of a command only
its text counts, and only a form that we know (measured on 535.309.01 and 550.163.01). It may also
hang: each command has a deadline.
"""

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import AsyncGenerator, Mapping
from typing import Final

from mpsafe.errors import ControlFailed
from mpsafe.model import ServerState

__all__ = ["Control"]

OUTPUT_MAX: Final = 1 << 20
NO_DAEMON: Final = 1

_STATES: Final[dict[str, ServerState]] = {"INITIALIZING": "initializing", "ACTIVE": "active", "FAULT": "fault"}
_NUMBER: Final = re.compile(r"\d{1,10}")


class Control:
    """The front end of one control daemon; `environment` says which."""

    def __init__(self, program: str, environment: Mapping[str, str], *, deadline_s: float = 5.0) -> None:
        self._program = program
        self._environment = {**environment, "LC_ALL": "C"}
        self._deadline_s = deadline_s

    async def servers(self) -> list[int]:
        """The servers' pids."""
        return _numbers("get_server_list", await self.ask("get_server_list"))

    async def server_state(self, server: int) -> ServerState:
        """A server's state; `unknown` where the program has no such command (535)."""
        text = (await self.ask(f"get_server_status {server}")).strip()
        if "not found" in text:
            return "gone"
        return _STATES.get(text, "unknown")

    async def clients(self, server: int) -> list[int]:
        """The pids of a server's clients; none if the server is gone."""
        text = await self.ask(f"get_client_list {server}")
        return [] if "not found" in text else _numbers("get_client_list", text)

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
        """Ends a client's GPU work. True only for the answer `0`: nothing else proves it stopped."""
        return (await self.ask(f"terminate_client {server} {client}", deadline_s=deadline_s)).strip() == "0"

    async def shutdown_server(self, server: int) -> None:
        """Ends a server and whatever runs in it."""
        await self.ask(f"shutdown_server {server} -f")

    async def start_server(self, uid: int) -> None:
        """Asks for a server; the program says nothing even if the server dies at once."""
        text = (await self.ask(f"start_server -uid {uid}")).strip()
        if text:
            raise ControlFailed("start_server", text)

    async def ask(self, command: str, *, deadline_s: float | None = None) -> str:
        """What the program prints. Raises ControlFailed if it cannot be run, is late or finds no daemon."""
        limit = deadline_s or self._deadline_s
        async with _pipe() as (answer, written):
            question = _filled_pipe(command.encode() + b"\n")
            try:
                process = await asyncio.create_subprocess_exec(
                    self._program,
                    env=self._environment,
                    stdin=question,
                    stdout=written,
                    stderr=asyncio.subprocess.DEVNULL,
                    start_new_session=True,
                )
            except OSError as error:
                raise ControlFailed(command, f"{self._program} cannot be run: {error.strerror}") from error
            finally:
                os.close(question)
                os.close(written)
            try:
                async with asyncio.timeout(limit):
                    output = await _output(process, command, answer)
            except TimeoutError:
                raise ControlFailed(command, f"no answer within {limit:g} s") from None
            finally:
                if process.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    await process.wait()
        if process.returncode == NO_DAEMON:
            raise ControlFailed(command, "no MPS control daemon answers in the pipe directory")
        if process.returncode:
            raise ControlFailed(command, f"it ended with status {process.returncode}")
        return output.decode("utf-8", "replace")


def _filled_pipe(data: bytes) -> int:
    """The reading end of a pipe that holds `data` and then ends; less than a pipe's capacity is written at once."""
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    return reading


@contextlib.asynccontextmanager
async def _pipe() -> AsyncGenerator[tuple[asyncio.StreamReader, int]]:
    """A pipe's reading end as a stream, and its writing end, which the caller closes.

    asyncio waits for its own pipes as well before it says that a process has ended: as long as any
    process that inherited one holds it open. So both pipes are ours.
    """
    reading, writing = os.pipe()
    answer = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(answer)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, os.fdopen(reading, "rb", 0))
    try:
        yield answer, writing
    finally:
        transport.close()


async def _output(process: asyncio.subprocess.Process, command: str, answer: asyncio.StreamReader) -> bytes:
    """What it prints until it has ended. ControlFailed if that is more than OUTPUT_MAX."""
    output = bytearray()
    while chunk := await answer.read(OUTPUT_MAX):
        output += chunk
        if len(output) > OUTPUT_MAX:
            raise ControlFailed(command, f"it prints more than {OUTPUT_MAX} bytes")
    await process.wait()
    return bytes(output)


def _numbers(command: str, text: str) -> list[int]:
    lines = text.split()
    if any(_NUMBER.fullmatch(line) is None for line in lines):
        raise ControlFailed(command, f"expected pids, got {text.strip()[:80]!r}")
    return [int(line) for line in lines]
