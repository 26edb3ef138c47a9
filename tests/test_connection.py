# SPDX-License-Identifier: Apache-2.0
"""This test will send the daemon everything that a peer should not, and look whether it goes on serving."""

import array
import json
import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from daemon_process import Mpsafed
from mpsafe.client import Client
from mpsafe.errors import DaemonUnreachable
from mpsafed.api.connection import MESSAGE_MAX
from mpsafed.peer import METHOD_ROLES
from raw_peer import (
    ATTACH,
    DESCRIBE,
    TENANTS,
    WATCH,
    connect,
    is_closed,
    replies,
    send,
    serving,
    unharmed,
)
from requires import requires

pytestmark = requires("soft")


@pytest.fixture(scope="module")
def daemon() -> Iterator[Mpsafed]:
    with serving() as daemon:
        yield daemon


@pytest.fixture(autouse=True)
def goes_on(daemon: Mpsafed) -> Iterator[None]:
    with unharmed(daemon):
        yield


# What is no call.


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\0", id="empty"),
        pytest.param(b"hello\0", id="words"),
        pytest.param(b"[]\0", id="a list"),
        pytest.param(b"null\0", id="null"),
        pytest.param(b"{}\0", id="no method"),
        pytest.param(b'{"method":5}\0', id="a number for a method"),
        pytest.param(b'{"method":"io.mpsafe.Host.Describe","parameters":[]}\0', id="parameters are a list"),
        pytest.param(b'{"method":"io.mpsafe.Host.Describe","more":1}\0', id="more is a number"),
        pytest.param(b"\xff\xfe\0", id="no text"),
        pytest.param(b'{"method":"\xff"}\0', id="no text in a text"),
        pytest.param(b"[" * 100_000 + b"\0", id="deep"),
        pytest.param(b'{"method":"a","parameters":' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}\0", id="deep objects"),
        pytest.param(b'{"method":"a","parameters":{"a":' + b"9" * 10_000 + b"}}\0", id="a number of many digits"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n\0", id="another protocol"),
    ],
)
def test_garbage_ends_the_connection(daemon: Mpsafed, data: bytes) -> None:
    """Or is answered with an error, where it has the form of a call."""
    with connect(daemon) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        for reply in replies(sock, 2):
            assert reply["error"]
        assert is_closed(sock)


def test_nothing_is_done_for_a_peer_after_its_garbage(daemon: Mpsafed) -> None:
    with connect(daemon) as sock:
        sock.sendall(b"garbage\0" + 50 * ATTACH + WATCH)
        assert is_closed(sock)


@pytest.mark.parametrize("fill", [b"x", b" ", b"{"])
def test_a_message_that_is_too_long_ends_the_connection(daemon: Mpsafed, fill: bytes) -> None:
    with connect(daemon) as sock:
        send(sock, fill * (2 * MESSAGE_MAX))
        assert is_closed(sock)


def test_a_message_of_the_greatest_length_is_answered(daemon: Mpsafed) -> None:
    head, tail = TENANTS[:-2], b"}\0"
    with connect(daemon) as sock:
        sock.sendall(head + b" " * (MESSAGE_MAX - len(head) - len(tail)) + tail)
        assert "parameters" in replies(sock, 1)[0]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ({"method": "io.mpsafe.Host.Nothing"}, "org.varlink.service.MethodNotFound"),
        ({"method": "io.mpsafe.Nothing.Describe"}, "org.varlink.service.InterfaceNotFound"),
        ({"method": "io.mpsafe.Host.__init__"}, "org.varlink.service.MethodNotFound"),
        ({"method": "io.mpsafe.Host._host"}, "org.varlink.service.MethodNotFound"),
        ({"method": "io.mpsafe.Events.Watch"}, "org.varlink.service.ExpectedMore"),
        ({"method": "io.mpsafe.Host.Attach", "parameters": {"tenant": 5}}, "org.varlink.service.InvalidParameter"),
        ({"method": "io.mpsafe.Events.Fence", "parameters": {}}, "org.varlink.service.InvalidParameter"),
        ({"method": "io.mpsafe.Events.Fence", "parameters": {"pid": "1"}}, "org.varlink.service.InvalidParameter"),
        ({"method": "io.mpsafe.Events.Fence", "parameters": {"pid": 2**80}}, "io.mpsafe.Events.UnknownClient"),
        ({"method": "io.mpsafe.Events.Fence", "parameters": {"pid": -1}}, "io.mpsafe.Events.UnknownClient"),
        ({"method": "io.mpsafe.Events.List", "parameters": {"limit": 0}}, "io.mpsafe.Events.BadRequest"),
        ({"method": "io.mpsafe.Events.List", "parameters": {"limit": 10_001}}, "io.mpsafe.Events.BadRequest"),
        ({"method": "io.mpsafe.Host.Attach", "parameters": {"tenant": "x"}}, "io.mpsafe.Host.UnknownTenant"),
    ],
)
def test_a_wrong_call_is_answered_with_its_error(daemon: Mpsafed, call: dict[str, Any], error: str) -> None:
    with connect(daemon) as sock:
        sock.sendall(json.dumps(call).encode() + b"\0" + TENANTS)
        wrong, right = replies(sock, 2)
        assert wrong["error"] == error
        assert "error" not in right


def test_a_name_without_an_interface_is_answered(daemon: Mpsafed) -> None:
    for name in ("", "Describe", ".", "...", "a" * 100_000):
        with connect(daemon) as sock:
            sock.sendall(json.dumps({"method": name}).encode() + b"\0")
            sock.shutdown(socket.SHUT_WR)
            assert all("error" in reply for reply in replies(sock, 1))


# How it is sent.


def test_a_message_may_come_in_pieces(daemon: Mpsafed) -> None:
    with connect(daemon) as sock:
        for byte in TENANTS:
            sock.send(bytes([byte]))
        assert "parameters" in replies(sock, 1)[0]


def test_calls_may_be_sent_ahead_and_are_answered_in_order(daemon: Mpsafed) -> None:
    calls = [TENANTS, DESCRIBE, b'{"method":"io.mpsafe.Host.Nothing"}\0', DESCRIBE, TENANTS] * 5
    with connect(daemon) as sock:
        sock.sendall(b"".join(calls))
        found = [next(iter(reply.get("parameters", {}))) for reply in replies(sock, len(calls))]
        assert found == ["tenants", "host", "method", "host", "tenants"] * 5


def test_a_oneway_call_is_not_answered(daemon: Mpsafed) -> None:
    oneway = b'{"method":"io.mpsafe.Host.ListTenants","oneway":true}\0{"method":"io.mpsafe.Host.X","oneway":true}\0'
    with connect(daemon) as sock:
        sock.sendall(oneway + DESCRIBE)
        sock.shutdown(socket.SHUT_WR)
        assert [list(reply["parameters"]) for reply in replies(sock, 2)] == [["host"]]


def test_a_peer_may_stop_sending_and_wait_for_its_reply(daemon: Mpsafed) -> None:
    with connect(daemon) as sock:
        sock.sendall(DESCRIBE)
        sock.shutdown(socket.SHUT_WR)
        assert "host" in replies(sock, 1)[0]["parameters"]
        assert is_closed(sock)


def test_half_messages_hold_up_nobody(daemon: Mpsafed) -> None:
    with ExitStack() as stack:
        for size in range(1, len(DESCRIBE)):
            stack.enter_context(connect(daemon)).sendall(DESCRIBE[:size])
        assert daemon.client.describe().acting


def test_a_thousand_quick_connections(daemon: Mpsafed) -> None:
    for number in range(1000):
        with connect(daemon) as sock:
            if number % 3 == 0:
                sock.sendall(DESCRIBE)
            elif number % 3 == 1:
                sock.sendall(DESCRIBE[:9])


def test_a_peer_that_never_stops_calling_leaves_the_others_their_turn(daemon: Mpsafed) -> None:
    stop = threading.Event()

    def flood() -> None:
        with connect(daemon) as sock:
            sock.setblocking(False)
            waiting = memoryview(TENANTS * 1000)
            while not stop.is_set():
                with suppress(BlockingIOError):
                    waiting = waiting[sock.send(waiting) :] or memoryview(TENANTS * 1000)
                with suppress(BlockingIOError):
                    sock.recv(1 << 20)

    flooder = threading.Thread(target=flood)
    flooder.start()
    try:
        for _ in range(10):
            daemon.client.describe()
    finally:
        stop.set()
        flooder.join()


def test_a_peer_that_reads_nothing_costs_only_itself(daemon: Mpsafed) -> None:
    with connect(daemon) as sock:
        sock.setblocking(False)
        try:
            while True:
                sock.send(TENANTS * 100)
        except BlockingIOError:
            pass
        assert daemon.client.describe().acting


# Streams and descriptors.


def test_watchers_that_hang_up_leave_nothing(daemon: Mpsafed) -> None:
    for _ in range(50):
        with connect(daemon) as sock:
            sock.sendall(WATCH)
            assert replies(sock, 1)[0]["continues"]


def test_a_watcher_that_was_cut_off_in_the_middle(daemon: Mpsafed) -> None:
    """The stream of all events is longer than what a socket holds."""
    since = b'{"method":"io.mpsafe.Events.Watch","parameters":{"since":0},"more":true}\0'
    for _ in range(20):
        with connect(daemon) as sock:
            sock.sendall(since)
            sock.recv(10)


@pytest.mark.parametrize("since", [-1, -(2**70), 0, 2**70])
def test_a_stream_from_anywhere_begins_where_there_is_something(daemon: Mpsafed, since: int) -> None:
    last = daemon.client.describe().last_event
    call = {"method": "io.mpsafe.Events.Watch", "parameters": {"since": since}, "more": True}
    with connect(daemon) as sock:
        sock.sendall(json.dumps(call).encode() + b"\0")
        watched = replies(sock, 1)[0]["parameters"]["watched"]
        assert watched == {"seq": last if since > 0 else 0, "lost": 0, "event": None}


def test_descriptors_that_nobody_asked_for_are_closed(daemon: Mpsafed) -> None:
    with open(os.devnull) as null:
        for _ in range(20):
            with connect(daemon) as sock:
                socket.send_fds(sock, [TENANTS], [null.fileno()] * 60)
                assert "parameters" in replies(sock, 1)[0]
            with connect(daemon) as sock:
                socket.send_fds(sock, [TENANTS[:5]], [null.fileno()] * 60)
            with connect(daemon) as sock:
                socket.send_fds(sock, [b"garbage\0"], [null.fileno()] * 60)


def test_more_descriptors_than_a_message_may_have_end_the_connection(daemon: Mpsafed) -> None:
    with open(os.devnull) as null:
        with connect(daemon) as sock:
            socket.send_fds(sock, [TENANTS[:5]], [null.fileno()] * 100)
            assert is_closed(sock)
        with connect(daemon) as sock:
            for _ in range(10):
                try:
                    socket.send_fds(sock, [b" "], [null.fileno()] * 60)
                except (BrokenPipeError, ConnectionResetError):
                    break
            assert is_closed(sock)


def test_many_attachments_of_one_connection_are_bounded(daemon: Mpsafed) -> None:
    """Or any user could take all of the daemon's descriptors."""
    before = daemon.descriptors()
    with connect(daemon) as sock:
        for _ in range(300):
            sock.sendall(ATTACH)
            _, ancillary, _, _ = sock.recvmsg(1 << 16, socket.CMSG_SPACE(16))
            for _, _, payload in ancillary:
                for fd in array.array("i", payload):
                    os.close(fd)
        assert daemon.descriptors() - before <= 100


def test_the_interfaces_describe_themselves(daemon: Mpsafed) -> None:
    with connect(daemon) as sock:
        sock.sendall(b'{"method":"org.varlink.service.GetInfo"}\0')
        info = replies(sock, 1)[0]["parameters"]
        assert (info["vendor"], info["product"]) == ("mpsafe", "mpsafed")
        described: set[str] = set()
        for name in info["interfaces"]:
            call = {"method": "org.varlink.service.GetInterfaceDescription", "parameters": {"interface": name}}
            sock.sendall(json.dumps(call).encode() + b"\0")
            text = replies(sock, 1)[0]["parameters"]["description"]
            described |= {f"{name}.{method}" for method in re.findall(r"^method (\w+)\(", text, re.MULTILINE)}
        assert described == set(METHOD_ROLES)


def test_a_daemon_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DaemonUnreachable), Client(os.fspath(tmp_path / "nobody")) as client:
        client.describe()
