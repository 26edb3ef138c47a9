# SPDX-License-Identifier: Apache-2.0
"""The demo's last act: the same SM exception beside a decoder, with a warm standby and with a restart."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from mpsafe.client import Client
from mpsafe.demo.asker import Asked, ask
from mpsafe.demo.hosts import Host
from mpsafe.demo.scenario import Note, daemon
from mpsafe.errors import DemoCannotRun
from mpsafe.model import Event

__all__ = ["HOWS", "How", "Loss", "lose"]

How: TypeAlias = Literal["nothing", "restart", "standby"]

HOWS: Final[tuple[How, ...]] = ("nothing", "restart", "standby")
TENANT: Final = "chat"
PROMPTS: Final = {"one": b"the quick brown", "two": b"fox", "three": b"jumps over"}
# So many that the fault comes in the middle, also where it is slow.
TOKENS: Final = 1000
SHAPE: Final = {"tokens": 1100}
FAULT_AT: Final = 30
PATIENCE_S: Final = 60.0
OUTSIDE: Final = {"CUDA_MPS_PIPE_DIRECTORY": "/nonexistent"}


@dataclass(frozen=True, slots=True)
class Loss:
    """What the askers saw: all that was said, and for how long nothing came after the fault, in milliseconds."""

    said: dict[str, bytes]
    silence_ms: float
    event: Event | None


def lose(host: Host, how: How, directory: Path) -> Loss:
    """Answers three requests while a neighbour's SM exception ends the MPS server, unless `how` is "nothing"."""
    notes: list[Note] = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(host)
        host.start_mps()
        socket = stack.enter_context(daemon(host, directory, notes))
        stack.enter_context(_drained(socket))
        path = directory / "decoder.sock"
        first = stack.enter_context(_serving(host, "primary", socket, path))
        if how == "standby":
            stack.enter_context(_serving(host, "standby", socket, path))
        neighbour = stack.enter_context(_neighbour(host))
        requests = {name: Asked(prompt, TOKENS) for name, prompt in PROMPTS.items()}
        fault_ns = 0

        def each() -> None:
            nonlocal fault_ns
            if how != "nothing" and not fault_ns and sum(len(one.said) for one in requests.values()) >= FAULT_AT:
                fault_ns = time.time_ns()
                neighbour()
                if how == "restart":
                    first.wait(PATIENCE_S)
                    stack.enter_context(_serving(host, "restarted", socket, path))

        try:
            connected = ask(path, requests, patience_s=PATIENCE_S, each=each)
        except TimeoutError as error:
            raise DemoCannotRun(str(error)) from error
        if how != "nothing" and len(connected) < 2:
            raise DemoCannotRun(f"{how}: all was said before the fault cost anything; this machine is too busy for it")
        after = [ns for one in requests.values() for ns in one.came_ns if ns > connected[-1]]
        event = _takeover(socket) if how == "standby" else None
        silence_ms = (min(after) - fault_ns) / 1e6 if fault_ns else 0.0
    return Loss({name: bytes(one.said) for name, one in requests.items()}, silence_ms, event)


def _takeover(socket: str) -> Event:
    """The event of the takeover, once it is closed."""
    end = time.monotonic() + PATIENCE_S
    with Client(socket) as client:
        while time.monotonic() < end:
            for event in client.events():
                if event.takeovers and event.phase == "closed":
                    return event
            time.sleep(0.05)
    raise DemoCannotRun(f"no takeover has ended within {PATIENCE_S:g} s")


@contextlib.contextmanager
def _neighbour(host: Host) -> Generator[Callable[[], None]]:
    """Another client of the server; what is given has it fault, and does not wait for that."""
    command = [sys.executable, "-m", "mpsafe.cuda.faulty", "sm", "--wait"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, env=host.environment, stdin=pipe, stdout=pipe, text=True)
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        stdin = process.stdin

        def fault() -> None:
            stdin.write("\n")
            stdin.flush()

        yield fault
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def _drained(socket: str) -> Generator[None]:
    """Leaves nothing in the vault, which would be held for ever."""
    try:
        yield
    finally:
        with Client(socket) as client:
            client.drain()


@contextlib.contextmanager
def _serving(host: Host, role: str, socket: str, path: Path) -> Generator[subprocess.Popen[str]]:
    """One of the processes of the serving example, ready."""
    environment = host.environment if role == "primary" else {**host.environment, **OUTSIDE}
    with Path(f"{path}.{role}.log").open("wb") as log:
        command = [
            sys.executable,
            "-m",
            "mpsafe.demo.serving",
            role,
            TENANT,
            socket,
            os.fspath(path),
            json.dumps(SHAPE),
        ]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        if not process.stdout.readline():
            said = Path(log.name).read_text(errors="replace").rstrip().rpartition("\n")[2]
            raise DemoCannotRun(f"the {role} of the decoder ended with {process.wait()}: {said}")
        yield process
    finally:
        process.kill()
        process.communicate()
