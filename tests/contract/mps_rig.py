# SPDX-License-Identifier: Apache-2.0
"""What the checks of nvidia-cuda-mps-control use: the programs, a control daemon of their own, other users."""

import atexit
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Final, Self

__all__ = [
    "LINE",
    "NOBODY",
    "PATIENCE_S",
    "Mps",
    "NotRun",
    "Programs",
    "Reply",
    "as_nobody",
    "eventually",
    "finish",
    "modes",
    "over_the_wire",
    "real_programs",
    "runs_as_nobody",
]

PATIENCE_S: Final = 30.0
NOBODY: Final = 65534
FETCH: Final = (Path(__file__).parents[2] / "tools" / "packages" / "unpack", "nvidia-cuda-mps")
CANNOT: Final = 77
LINE: Final = re.compile(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} (Control|Server|Other) +(\d+)\] (.*)")


class NotRun(Exception):
    """A check wants something that is not there; the message says what."""


@dataclass(frozen=True, slots=True)
class Programs:
    """What is checked: a daemon and a front end, which are one program unless they are to be mixed."""

    daemon: Path
    front_end: Path
    branch: int = 550
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


@dataclass(frozen=True, slots=True)
class Reply:
    """What a run of the program left: both streams and the exit status."""

    text: str
    complaint: str
    status: int


@cache
def _trees() -> dict[str, Path]:
    """The unpacked packages of the real programs by branch: the newest version of each that Debian has."""
    done = subprocess.run(FETCH, capture_output=True, text=True, check=False)
    if done.returncode == CANNOT:
        raise NotRun(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    found = sorted(line.split(" ", 1) for line in done.stdout.splitlines())
    return {version.partition(".")[0]: Path(tree) for version, tree in found}


@cache
def _reachable(tree: Path) -> Path:
    """A copy of the programs where every user can run them: a clone may lie in somebody's private home."""
    copy = tempfile.TemporaryDirectory(prefix="mpsafe-programs-")
    atexit.register(copy.cleanup)
    place = Path(copy.name)
    place.chmod(0o755)
    for program in (tree / "usr" / "bin" / "nvidia-cuda-mps-control", tree / "usr" / "sbin" / "nvidia-cuda-mps-server"):
        shutil.copy(program, place)
    return place


def real_programs(branch: str) -> Programs:
    """The real programs of a branch, "535" or "550". Without a libcuda their servers do not start."""
    tree = _trees().get(branch)
    if tree is None:
        raise NotRun(f"Debian has no nvidia-cuda-mps of branch {branch} any more")
    place = _reachable(tree)
    program = place / "nvidia-cuda-mps-control"
    path = f"{place}:{os.environ.get('PATH', os.defpath)}"
    hidden = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    return Programs(program, program, int(branch), {**hidden, "PATH": path, "CUDA_VISIBLE_DEVICES": ""})


def eventually(holds: Callable[[], object], what: str) -> None:
    """Waits for something that nothing wakes one for: a line in a log, the end of somebody else's child."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"did not come: {what}"
        time.sleep(0.005)


class Mps:
    """One control daemon in directories of its own; it is gone when the `with` ends."""

    def __init__(self, programs: Programs, directory: Path) -> None:
        self.programs = programs
        self.pipes = directory / "pipe"
        self.logs = directory / "log"
        self.environment = dict(programs.environment) | {
            "CUDA_MPS_PIPE_DIRECTORY": os.fspath(self.pipes),
            "CUDA_MPS_LOG_DIRECTORY": os.fspath(self.logs),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if (pid := self.pid()) is not None:
            try:
                self.run("quit -t 1")
                finish(pid)
            except (AssertionError, subprocess.TimeoutExpired):
                finish(pid, signal.SIGKILL)
                raise

    def start(self, how: str = "-d", **environment: str) -> Reply:
        """Runs the daemon program with one argument."""
        return self._finish([self.programs.daemon, how], "", self.environment | environment)

    def run(self, *commands: str, end: str = "\n") -> Reply:
        """Runs the front end with these lines of input."""
        return self._finish([self.programs.front_end], "\n".join(commands) + end, self.environment)

    def call(self, *arguments: str) -> Reply:
        """Runs the front end with arguments and no input."""
        return self._finish([self.programs.front_end, *arguments], "", self.environment)

    def ask(self, command: str) -> list[str]:
        """The lines of the reply to one command."""
        reply = self.run(command)
        assert (reply.status, reply.complaint) == (0, ""), (command, reply)
        return reply.text.splitlines()

    def expect(self, command: str, *lines: str) -> None:
        """Asks, and checks the reply."""
        found = self.ask(command)
        assert found == list(lines), f"{command!r}: {found}, expected {list(lines)}"

    def expect_all(self, replies: Mapping[str, Sequence[str]]) -> None:
        """Asks one after the other in one run of the front end, and checks all replies together."""
        reply = self.run(*replies)
        expected = [line for lines in replies.values() for line in lines]
        assert reply.text.splitlines() == expected, (reply, dict(replies))

    def pid(self) -> int | None:
        """The daemon that listens in the pipe directory."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                sock.connect(os.fspath(self.pipes / "control"))
                raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        except OSError:
            return None
        pid: int = struct.unpack("iII", raw)[0]
        return pid

    def log(self, name: str = "control.log") -> list[str]:
        """The texts of a log's lines, each of which has the form of such lines."""
        texts: list[str] = []
        for line in (self.logs / name).read_text().splitlines():
            found = LINE.fullmatch(line)
            assert found, f"no line of a log: {line!r}"
            texts.append(found[3])
        return texts

    def _finish(self, command: list[str | Path], typed: str, environment: Mapping[str, str]) -> Reply:
        done = subprocess.run(
            command, input=typed, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        return Reply(done.stdout, done.stderr, done.returncode)


def finish(pid: int, number: signal.Signals | None = None) -> None:
    """Waits for the end of a process, after a signal if one is given."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if number is not None:
            signal.pidfd_send_signal(fd, number)
        assert select.select([fd], [], [], PATIENCE_S)[0], f"{pid} does not end"
    finally:
        os.close(fd)


def as_nobody(call: Callable[[], list[str]]) -> list[str]:
    """Calls it in a forked child that is another user: such a one may not be able to run our programs."""
    if os.geteuid() != 0:
        raise NotRun("wants root, to become another user")
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.write(writing, "\0".join(call()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return text.split("\0") if text else []


def over_the_wire(pipes: Path, command: str) -> list[str]:
    """Asks as a front end would, without one: magic and kind, length and text, 0; (0, line) back, (1, status)."""
    lines: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(PATIENCE_S)
        sock.connect(os.fspath(pipes / "control"))
        assert sock.recv(64) == b"OUTBHELL\0"
        text = command.encode() + b"\n\0"
        for packet in (b"OUTBCRED\0", struct.pack("<I", 4), struct.pack("<Q", len(text)), text, struct.pack("<Q", 0)):
            sock.send(packet)
        while (packet := sock.recv(65536)) and packet[:4] == bytes(4):
            lines.append(packet[4:].decode())
    return lines


def modes(directory: Path) -> dict[str, int]:
    """Type and mode of each file."""
    return {path.name: path.lstat().st_mode for path in directory.iterdir()}


def runs_as_nobody(python: str) -> bool:
    """Whether another user can run a Python; one in a private home cannot be."""
    try:
        subprocess.run([python, "-c", ""], user=NOBODY, group=NOBODY, extra_groups=[], check=True)
    except (PermissionError, subprocess.CalledProcessError):
        return False
    return True
