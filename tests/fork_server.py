# SPDX-License-Identifier: Apache-2.0
"""Starts the Python programs of the tests by fork, from a process that has imported what they need.

    python fork_server.py        its stdin is the socket on which it is asked

Most of the time of a test on a software host would be that of imports. What the dynamic linker reads at a program's
start cannot be changed by a fork: there is one such process for each LD_LIBRARY_PATH and LD_PRELOAD. Tests of what a
start is (the command line, the units) start programs themselves.
"""

import contextlib
import importlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

import msgspec

__all__ = ["Forked"]

# What each of the programs imports first.
IMPORTED: Final = ("mpsafed.main", "tenant_process", "vault_process")
LINKER: Final = ("LD_LIBRARY_PATH", "LD_PRELOAD")
KEPT_MAX: Final = 2
MESSAGE_MAX: Final = 1 << 17


class _Order(msgspec.Struct):
    """What a forked process is to be."""

    module: str
    arguments: list[str]
    environment: dict[str, str]
    new_session: bool


class Forked:
    """A process that is what `python -m MODULE ARGUMENTS` would be, with what tests use of subprocess.Popen.

    `stderr`: where that goes, else to that of the tests. `talks`: there are `stdin` and `stdout`, text.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str | os.PathLike[str]],
        *,
        environment: Mapping[str, str],
        stderr: IO[bytes] | None = None,
        talks: bool = True,
        new_session: bool = False,
    ) -> None:
        words = [os.fspath(word) for word in arguments]
        order = _Order(module, words, dict(environment), new_session)
        self.returncode: int | None = None
        self.stdin: IO[str] | None = None
        self.stdout: IO[str] | None = None
        with contextlib.ExitStack() as theirs:
            if talks:
                read, write = os.pipe()
                self.stdin = os.fdopen(write, "w")
                given = [theirs.enter_context(os.fdopen(read, "rb")).fileno()]
                read, write = os.pipe()
                self.stdout = os.fdopen(read)
                given.append(theirs.enter_context(os.fdopen(write, "wb")).fileno())
            else:
                null = theirs.enter_context(Path(os.devnull).open("r+b")).fileno()
                given = [null, stderr.fileno() if stderr else 1]
            self._status, status = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            theirs.enter_context(status)
            given += [stderr.fileno() if stderr else 2, status.fileno()]
            _server_for(environment).send(order, given)
        self.pid = int(self._told())

    def poll(self) -> int | None:
        """The exit status if it has ended, negative for a signal."""
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self._end()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the end, in seconds; subprocess.TimeoutExpired."""
        if self.returncode is None and not select.select([self._status], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return self._end()

    def send_signal(self, number: int) -> None:
        """To a process that has not ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _end(self) -> int:
        if self.returncode is None:
            self.returncode = int(self._told())
            self._status.close()
        return self.returncode

    def _told(self) -> bytes:
        word = self._status.recv(64)
        assert word, "the fork server has ended"
        return word


class _Server:
    """The process that forks, for one setting of the dynamic linker."""

    def __init__(self, linker: Mapping[str, str]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        inherited = {name: value for name, value in os.environ.items() if name not in LINKER}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, Path(__file__)],
                env={**inherited, **linker, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=theirs.fileno(),
            )

    def send(self, order: _Order, fds: Sequence[int]) -> None:
        """Has it fork a process with these stdin, stdout, stderr and socket for its pid and its status."""
        socket.send_fds(self._socket, [msgspec.json.encode(order)], fds)

    def close(self) -> None:
        """It ends when those that it has forked have."""
        self._socket.close()

    def has_ended(self) -> bool:
        """Whether it has."""
        return self._process.poll() is not None


_servers: dict[tuple[str, ...], _Server] = {}
_closed: list[_Server] = []


def _server_for(environment: Mapping[str, str]) -> _Server:
    linker = {name: environment[name] for name in LINKER if name in environment}
    key = tuple(linker.get(name, "") for name in LINKER)
    server = _servers.pop(key, None) or _Server(linker)
    _servers[key] = server
    if len(_servers) > KEPT_MAX:
        oldest = _servers.pop(next(iter(_servers)))
        oldest.close()
        _closed.append(oldest)
    _closed[:] = [one for one in _closed if not one.has_ended()]
    return server


def main() -> None:
    """Forks whenever it is asked to, until nobody asks any more and all that it forked have ended."""
    for name in IMPORTED:
        importlib.import_module(name)
    # In the child the loop is over, and what it was asked to be comes after it: its end is that of any program.
    program = _serve(socket.socket(fileno=os.dup(0)))
    if program is not None:
        raise SystemExit(program())


def _serve(asked: socket.socket) -> Callable[[], int | None] | None:
    children: dict[int, tuple[int, socket.socket]] = {}
    listening = True
    while listening or children:
        waiting: list[int | socket.socket] = [*children, *([asked] if listening else [])]
        for ready in select.select(waiting, [], [])[0]:
            if isinstance(ready, int):
                _tell_end(ready, *children.pop(ready))
                continue
            order, fds, _, _ = socket.recv_fds(asked, MESSAGE_MAX, 4)
            if not order:
                listening = False
                continue
            status = socket.socket(fileno=fds[3])
            pid = os.fork()
            if not pid:
                asked.close()
                for pidfd, (_, other) in children.items():
                    os.close(pidfd)
                    other.close()
                status.close()
                return _become(msgspec.json.decode(order, type=_Order), fds[:3])
            children[os.pidfd_open(pid)] = pid, status
            for fd in fds[:3]:
                os.close(fd)
            status.send(b"%d" % pid)
    return None


def _tell_end(pidfd: int, pid: int, status: socket.socket) -> None:
    os.close(pidfd)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with status, contextlib.suppress(OSError):
        status.send(b"%d" % code)


def _become(order: _Order, fds: Sequence[int]) -> Callable[[], int | None]:
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
    for fd in fds:
        os.close(fd)
    if order.new_session:
        os.setsid()
    os.environ.clear()
    os.environ.update(order.environment)
    sys.argv = [order.module, *order.arguments]
    main: Callable[[], int | None] = importlib.import_module(order.module).main
    return main


if __name__ == "__main__":
    main()
