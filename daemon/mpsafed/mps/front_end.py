# SPDX-License-Identifier: Apache-2.0
"""Runs `nvidia-cuda-mps-control`, and whatever else is run for it: once, bounded in time and output.

A user's pipe directory is the user's to fill: a link or a false daemon there must not lead root, so
for a user's control daemon the program runs as that user. Whatever it prints is untrusted.
"""

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mpsafe.errors import ControlFailed
from mpsafed.child import Child

__all__ = ["OUTPUT_MAX", "FrontEnd", "Reply"]

OUTPUT_MAX: Final = 1 << 20
NO_DAEMON: Final = 1
# How long to wait before each other try.
HUNG_UP_S: Final = (0.02, 0.1)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a program printed on its standard output, and its exit status."""

    text: str
    status: int


class FrontEnd:
    """The program in one environment, which says what control daemon it speaks to.

    `uid`: as whom it runs where we are root; None: as we do. LC_ALL is C: a warning of the language's
    is no answer.
    """

    def __init__(
        self, program: str, environment: Mapping[str, str], *, uid: int | None = None, deadline_s: float = 5.0
    ) -> None:
        self._program = program
        self._environment = {**environment, "LC_ALL": "C"}
        self._uid = uid
        self._deadline_s = deadline_s

    async def ask(self, command: str, *, deadline_s: float | None = None) -> str:
        """The answer to one line of the v2 language. Raises ControlFailed if none comes.

        The program exits 0 whatever became of the command, 1 where no daemon answers (535, 550), and 1 also where the
        daemon has hung up unheard, as it does while a server of its comes up (580). What only asks is asked again.
        """
        reply = await self.run(typed=command, named=command, deadline_s=deadline_s)
        for pause_s in HUNG_UP_S if command.startswith("get_") else ():
            if reply.status != NO_DAEMON:
                break
            await asyncio.sleep(pause_s)
            reply = await self.run(typed=command, named=command, deadline_s=deadline_s)
        if reply.status == NO_DAEMON:
            raise ControlFailed(command, "no MPS control daemon answers in the pipe directory")
        if reply.status:
            raise ControlFailed(command, f"it ended with status {reply.status}")
        return reply.text

    async def call(self, *arguments: str, deadline_s: float | None = None) -> str:
        """The answer to one v3 command: module, verb and arguments. Raises ControlFailed, also if it refuses."""
        command = " ".join(arguments)
        reply = await self.run(*arguments, named=command, deadline_s=deadline_s)
        if reply.status:
            said = reply.text.strip()[:200]
            raise ControlFailed(command, f"it ended with status {reply.status}: {said or 'it says nothing'}")
        return reply.text

    async def run(self, *arguments: str, typed: str = "", named: str, deadline_s: float | None = None) -> Reply:
        """Runs it to its end. Raises ControlFailed for `named` if it cannot be run, is late or says too much."""
        try:
            return await self._run(arguments, typed, named, deadline_s or self._deadline_s)
        except OSError as error:
            raise ControlFailed(named, f"{self._program} cannot be run: {error.strerror}") from error

    async def _run(self, arguments: tuple[str, ...], typed: str, named: str, limit_s: float) -> Reply:
        child = await Child.start(
            [self._program, *arguments],
            environment=self._environment,
            uid=self._uid if os.geteuid() == 0 else None,
            errors=subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(limit_s):
                output = await _conversation(child, typed.encode() + b"\n" * bool(typed), named)
        except TimeoutError:
            raise ControlFailed(named, f"no answer within {limit_s:g} s") from None
        finally:
            await child.end()
        return Reply(output.decode("utf-8", "replace"), child.status or 0)


async def _conversation(child: Child, typed: bytes, named: str) -> bytes:
    """What it prints until it has ended. ControlFailed if that is more than OUTPUT_MAX."""
    with contextlib.suppress(BrokenPipeError):
        child.write(typed)
    child.close_stdin()
    output = bytearray()
    while chunk := await child.output.read(OUTPUT_MAX):
        output += chunk
        if len(output) > OUTPUT_MAX:
            raise ControlFailed(named, f"it prints more than {OUTPUT_MAX} bytes")
    await child.ended()
    return bytes(output)
