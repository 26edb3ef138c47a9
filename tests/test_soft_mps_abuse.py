# SPDX-License-Identifier: Apache-2.0
"""This test will treat the stand-in for MPS badly: it stays up, and so do the clients that behave."""

import os
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from contract.check_mps_clients import Scene
from contract.mps_rig import Mps, Programs, eventually, finish, over_the_wire
from mpsafe.soft.host import SoftwareHost
from requires import requires

pytestmark = requires("soft")

MAX_CLIENTS = 808


@pytest.fixture
def scene(place: Path) -> Iterator[Scene]:
    with ExitStack() as stack:
        host = stack.enter_context(SoftwareHost(place, memory_bytes=1 << 30))
        private = place / "private"
        private.mkdir()
        programs = Programs(host.control_program, host.control_program, 550, host.environment)
        yield Scene(stack.enter_context(Mps(programs, private)), stack)


def client_of(mps: Mps) -> socket.socket:
    """A connection to the server as the software libcuda makes it, from this process."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
        control.connect(os.fspath(mps.pipes / "control"))
        assert control.recv(64) == b"OUTBHELL\0"
        control.send(b"OUTBCRED\0" + struct.pack("<IQ", 1, 0))
        word, path = control.recv(4096).decode().split(" ", 1)
    assert word == "server"
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.connect(path)
    return server


def test_nonsense_ends_the_connection_and_nothing_else(scene: Scene) -> None:
    client = scene.client()
    daemon, server = scene.mps.pid(), scene.server()
    magic, front_end = b"OUTBCRED\0", struct.pack("<I", 4)
    for packets in (
        [b"x" * 60000],
        [magic[:5]],
        [magic, struct.pack("<I", 99)],
        [magic, front_end, struct.pack("<Q", 1 << 40)],
        [magic, front_end, struct.pack("<Q", 9), b"ps\n\0"],
        [magic, front_end, struct.pack("<Q", 4), b"ps\n\0"],
        [magic + front_end + struct.pack("<Q", 6) + b"\xff\xfe\xfd\xfc\n\0" + struct.pack("<Q", 0)],
        [magic, struct.pack("<IQ", 1, 0)],
    ):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(os.fspath(scene.mps.pipes / "control"))
            for packet in packets:
                sock.send(packet)
    for packet in (b"x" * 60000, b"terminated", b"\xff\0\xff"):
        with client_of(scene.mps) as sock:
            sock.send(packet)
    assert (scene.mps.pid(), scene.server(), client.ask("work 0")) == (daemon, server, 0)
    eventually(lambda: scene.clients() == {client.pid}, "the client alone")


def test_a_front_end_that_does_not_read_is_dropped(scene: Scene) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(os.fspath(scene.mps.pipes / "control"))
        sock.send(b"OUTBCRED\0" + struct.pack("<I", 4))
        command = struct.pack("<Q", 6) + b"help\n\0"
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while True:
                sock.send(command)
    scene.mps.expect("get_default_client_priority", "0")


def test_a_hundred_connections_at_once(scene: Scene) -> None:
    client = scene.client()
    with ExitStack() as stack:
        held = [stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) for _ in range(100)]
        for sock in held:
            sock.connect(os.fspath(scene.mps.pipes / "control"))
        assert over_the_wire(scene.mps.pipes, "get_server_list") == [str(scene.server())]
        asked = [stack.enter_context(client_of(scene.mps)) for _ in range(100)]
        replies = [sock.recv(4096).decode().split()[0:2] for sock in asked]
        assert [word for word, _ in replies].count("ok") == 59, "60 clients, one of which is there"
        assert {number for word, number in replies if word == "error"} == {str(MAX_CLIENTS)}
    eventually(lambda: scene.clients() == {client.pid}, "the client alone")
    assert client.ask("work 0") == 0


def test_clients_killed_at_any_moment(scene: Scene) -> None:
    client = scene.client()
    server = scene.server()
    steps = ("init", "open 0", "work 0", "end 0")
    for count in range(len(steps) + 1):
        with scene.newcomer() as victim:
            for step in steps[:count]:
                victim.tell(step)
            if count:
                assert victim.heard() == 0
    assert client.ask("work 0") == 0
    eventually(lambda: scene.clients() == {client.pid}, "the client alone")
    assert (scene.server(), scene.state()) == (server, "ACTIVE")


def test_a_server_that_is_killed_while_it_is_asked(scene: Scene) -> None:
    client = scene.client()
    server = scene.server()
    os.kill(server, signal.SIGSTOP)
    commands = ["ps", "get_device_client_list", f"get_client_list {server}", f"terminate_client {server} {client.pid}"]
    front_ends = [
        subprocess.Popen(
            [scene.mps.programs.front_end],
            env=scene.mps.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in commands
    ]
    for front_end, command in zip(front_ends, commands, strict=True):
        assert front_end.stdin is not None
        front_end.stdin.write(command + "\n")
        front_end.stdin.flush()
    eventually(lambda: {f"Cmd:{command}" for command in commands} <= set(scene.mps.log()), "all commands")
    finish(server, signal.SIGKILL)
    answers = [front_end.communicate(timeout=60)[0] for front_end in front_ends]
    assert answers == [f"Server {server} not found\n"] * len(commands)
    assert client.ask("end 0") == 806
    client.leave()
    assert scene.client().ask("work 0") == 0
