# SPDX-License-Identifier: Apache-2.0
"""This test will have both client libraries talk to a daemon that is none."""

import asyncio
import os
import socket
import threading
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mpsafe.client import AsyncClient, Client
from mpsafe.errors import (
    DaemonUnreachable,
    PeerMisbehaved,
)
from requires import requires

pytestmark = requires("soft")

PATIENCE_S = 60.0


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, PATIENCE_S))


@contextmanager
def pretender(place: Path, reply: bytes, fds: tuple[int, ...] = ()) -> Generator[str]:
    """Answers each connection with the same bytes."""
    path = os.fspath(place / "pretender")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                with sock:
                    sock.recv(4096)
                    socket.send_fds(sock, [reply], fds)

        server = threading.Thread(target=serve)
        server.start()
        try:
            yield path
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            server.join()


@pytest.mark.parametrize(
    "reply",
    [
        b"hello\0",
        b"[]\0",
        b"\xff\0",
        b'{"parameters":{}}\0',
        b'{"parameters":{"tenants":5}}\0',
        b'{"parameters":{"tenants":[{"name":1}]}}\0',
        b'{"error":"io.mpsafe.Host.UnknownTenant","parameters":{"tenant":5}}\0',
        b'{"error":"io.mpsafe.Host.NobodyKnowsIt"}\0',
        b'{"error":"org.varlink.service.MethodNotFound","parameters":{"method":"x"}}\0',
        b'{"error":5}\0',
    ],
)
def test_what_is_no_reply_is_refused(place: Path, reply: bytes) -> None:
    async def check(path: str) -> None:
        async with AsyncClient(path, timeout_s=PATIENCE_S) as client:
            with pytest.raises((PeerMisbehaved, DaemonUnreachable)):
                await client.tenants()

    with pretender(place, reply) as path:
        with Client(path, timeout_s=PATIENCE_S) as client, pytest.raises(PeerMisbehaved):
            client.tenants()
        run(check(path))


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_descriptors_that_do_not_fit_are_closed(place: Path, count: int) -> None:
    """Also where their number is right and one of them is no status page."""

    async def check(path: str) -> None:
        async with AsyncClient(path, timeout_s=PATIENCE_S) as client:
            with pytest.raises(PeerMisbehaved):
                await client.attach()

    reply = b'{"parameters":{"epoch":1,"generation":1,"page":0,"wake":1}}\0'
    null = os.open(os.devnull, os.O_RDONLY)
    try:
        before = len(os.listdir("/proc/self/fd"))
        with pretender(place, reply, (null,) * count) as path:
            with Client(path, timeout_s=PATIENCE_S) as client, pytest.raises(PeerMisbehaved):
                client.attach()
            run(check(path))
        assert len(os.listdir("/proc/self/fd")) == before, "the pretender has closed its own by now"
    finally:
        os.close(null)


@pytest.mark.parametrize("reply", [b"", b'{"parameters":'])
def test_a_daemon_that_ends_in_the_middle(place: Path, reply: bytes) -> None:
    refusal = pytest.raises(DaemonUnreachable, match="closed the connection")
    with pretender(place, reply) as path, Client(path) as client, refusal:
        client.tenants()
