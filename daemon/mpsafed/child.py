# SPDX-License-Identifier: Apache-2.0
"""A program that the daemon runs beside itself, killed and waited for by whoever started it.

asyncio's own subprocesses are not used: where the loop ends while one starts, it is waited for without end
(CPython 3.11 to 3.13, `BaseSubprocessTransport._wait`: the task that would wake the waiter is cancelled).
"""

import asyncio
import contextlib
import os
import pwd
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Final, Self

from mpsafed.processes import Process, identify

__all__ = ["Child", "group_of"]

NOBODYS_GROUP: Final = 65534


class Child:
    """A program in a session of its own, with pipes to its stdin and from its stdout.

    Both pipes are ours alone: what it starts may hold them open and does not keep us from seeing its end.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], stdin: int, output: asyncio.StreamReader, pipe: asyncio.ReadTransport
    ) -> None:
        self._process = process
        self._stdin: int | None = stdin
        self._pipe = pipe
        self.output = output

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None,
        line_max_bytes: int = 1 << 16,
        uid: int | None = None,
        errors: int | None = None,
        pass_fds: Sequence[int] = (),
    ) -> Self:
        """Starts it, as the user `uid` where that is not None. `errors`: its stderr; None: ours.

        `pass_fds`: what it inherits under the same numbers.

        `output.readline` raises ValueError at a line of more than `line_max_bytes`. Raises OSError.
        """
        output = asyncio.StreamReader(line_max_bytes)
        reading, written = os.pipe()
        with contextlib.ExitStack() as ours:
            ours.callback(os.close, written)
            pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(output), os.fdopen(reading, "rb", 0)
            )
            read, stdin = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            os.set_blocking(read, True)
            ours.callback(os.close, read)
            try:
                process = subprocess.Popen(
                    command,
                    env=environment,
                    stdin=read,
                    stdout=written,
                    stderr=errors,
                    start_new_session=True,
                    pass_fds=pass_fds,
                    user=uid,
                    group=None if uid is None else group_of(uid),
                    extra_groups=None if uid is None else [],
                )
            except BaseException:
                os.close(stdin)
                pipe.close()
                raise
        return cls(process, stdin, output, pipe)

    @property
    def pid(self) -> int:
        """Its pid, which no other process has before it was seen to have ended."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """How it ended, as `subprocess.Popen.returncode`; None: it runs."""
        return self._process.poll()

    def write(self, data: bytes) -> None:
        """To its stdin, at once: BlockingIOError if its pipe is full, BrokenPipeError if it has closed it."""
        assert self._stdin is not None
        if os.write(self._stdin, data) < len(data):
            raise BlockingIOError

    def close_stdin(self) -> None:
        """It reads the end of its stdin."""
        if self._stdin is not None:
            os.close(self._stdin)
            self._stdin = None

    async def ended(self, timeout_s: float | None = None) -> bool:
        """Waits until it has ended, `timeout_s` seconds at most; says whether it has."""
        if self.status is None and (identity := identify(self.pid)) is not None:
            with Process(identity) as process:
                await process.ended(timeout_s)
        return self.status is not None

    async def end(self, timeout_s: float | None = None) -> bool:
        """Lets go of it: kills it and its process group, if it has not ended, and waits as above."""
        self.close_stdin()
        self._pipe.close()
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        return await self.ended(timeout_s)


def group_of(uid: int) -> int:
    """A user's own group; nobody's where the host has no such user."""
    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:
        return NOBODYS_GROUP
