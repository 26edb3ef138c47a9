# SPDX-License-Identifier: Apache-2.0
"""This test will send the daemon any bytes, and any calls."""

import json
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from daemon_process import Mpsafed
from mpsafed.peer import METHOD_ROLES
from raw_peer import connect, replies, send, serving, unharmed
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


texts = st.text(max_size=30) | st.sampled_from([*METHOD_ROLES, "chat", "private", "io.mpsafe.Host."])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
parameters = st.dictionaries(st.sampled_from(["since", "limit", "tenant", "interface", "x"]), values, max_size=3)
calls = st.fixed_dictionaries(
    {"method": texts},
    optional={
        "parameters": parameters | values,
        "more": st.booleans() | values,
        "oneway": st.booleans() | values,
        "upgrade": values,
    },
)


def _converse(daemon: Mpsafed, data: bytes) -> None:
    with connect(daemon) as sock:
        send(sock, data)
        with suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
        for reply in replies(sock, 1000):
            assert reply.keys() & {"parameters", "error"}


@settings(max_examples=200)
@given(st.binary(max_size=300))
@example(b"\0" * 300)
def test_any_bytes(daemon: Mpsafed, data: bytes) -> None:
    _converse(daemon, data)


@settings(max_examples=200)
@given(st.lists(calls | values, min_size=1, max_size=4))
def test_any_calls(daemon: Mpsafed, messages: list[object]) -> None:
    _converse(daemon, b"".join(json.dumps(message).encode() + b"\0" for message in messages))
