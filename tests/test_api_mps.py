# SPDX-License-Identifier: Apache-2.0
"""This test will call io.mpsafe.Mps over a socket: what is passed on, what is refused, who sees what."""

import asyncio
import json
import math
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from as_user import as_user
from control_daemon import declared
from mpsafe.client import AsyncClient, Client
from mpsafe.errors import BadRequest, MpsafeError, NotOurs, NotPermitted, NotSupported, UnknownControl
from mpsafe.model import Limits
from mpsafe.soft.host import SoftwareHost
from requires import requires
from served import Declared, Served

pytestmark = requires("soft")

DEVICE = "GPU-8c1ee2d3-27f1-4c5b-9c68-0f5bd2d1a1e7"
NOBODY, SOMEBODY = 65534, 4242


@pytest.fixture(scope="module")
def host() -> Iterator[SoftwareHost]:
    with tempfile.TemporaryDirectory(prefix="mpsafe-") as name:
        Path(name).chmod(0o755)
        with SoftwareHost(Path(name)) as host:
            yield host


@pytest.fixture
def supervisor(host: SoftwareHost) -> Declared:
    pipes = host.pipe_directory
    theirs, everybodys = declared(pipes, name="uid-4242", uid=SOMEBODY), declared(pipes, interface="v3")
    return Declared(theirs, everybodys, declared(pipes, name="watched", uid=0))


@pytest.fixture
def served(host: SoftwareHost, supervisor: Declared) -> Iterator[Served]:
    with Served(host, supervisor) as served:
        yield served
    Path(served.socket).unlink()


def test_a_change_answers_with_the_control_daemon_as_it_is_then(served: Served, supervisor: Declared) -> None:
    client = served.client
    assert client.controls() == supervisor.overview()
    assert client.stop_mps("uid-4242").state == "stopped"
    assert not client.controls()[0].wanted
    assert client.start_mps("uid-4242").wanted
    client.stop_mps("uid-4242", force=True)
    assert supervisor.forced == [False, True]
    limits = Limits(37.5, 1, {"0": 2048, "all": 512}, {DEVICE: [4, 4]})
    assert client.set_limits("shared", limits).declared == limits
    assert client.partition("shared", DEVICE, [8]).declared.partitions == {DEVICE: [8]}
    assert client.partition("shared", DEVICE, []).declared.pinned_mib == limits.pinned_mib
    assert client.set_limits("shared", None).declared == Limits()


def test_both_clients_do_the_same(served: Served) -> None:
    async def check() -> None:
        async with AsyncClient(served.socket) as client:
            assert await client.controls() == served.client.controls()
            stopped = await client.stop_mps("shared", force=True)
            assert stopped == next(one for one in served.client.controls() if one.name == "shared")
            assert (await client.start_mps("shared")).state == "running"
            limited = await client.set_limits("shared", Limits(50))
            assert limited.declared == Limits(50)
            assert (await client.partition("shared", DEVICE, [2])).declared.partitions == {DEVICE: [2]}
            with pytest.raises(UnknownControl):
                await client.start_mps("nowhere")

    asyncio.run(asyncio.wait_for(check(), 60))


@pytest.mark.parametrize(
    ("call", "arguments", "expected"),
    [
        ("start_mps", ("nowhere",), UnknownControl("nowhere")),
        ("stop_mps", ("n" * 100,), UnknownControl("n" * 64)),
        ("start_mps", ("watched",), NotOurs("watched")),
        ("partition", ("watched", DEVICE, [2]), NotSupported("partition", "an MPS that was started with -S")),
    ],
)
def test_a_refusal_comes_as_it_was_raised(
    served: Served, call: str, arguments: tuple[object, ...], expected: MpsafeError
) -> None:
    with pytest.raises(type(expected)) as caught:
        getattr(served.client, call)(*arguments)
    assert (caught.value.fields(), str(caught.value)) == (expected.fields(), str(expected))
    assert len(served.client.controls()) == 3


@pytest.mark.parametrize(
    ("limits", "parameter"),
    [
        (Limits(0), "limits.active_thread_percentage"),
        (Limits(100.5), "limits.active_thread_percentage"),
        (Limits(client_priority=2), "limits.client_priority"),
        (Limits(client_priority=-1), "limits.client_priority"),
        (Limits(pinned_mib={"32": 1}), "limits.pinned_mib"),
        (Limits(pinned_mib={"0; quit": 1}), "limits.pinned_mib"),
        (Limits(pinned_mib={"0\n": 1}), "limits.pinned_mib"),
        (Limits(pinned_mib={"0": 0}), "limits.pinned_mib.0"),
        (Limits(pinned_mib={"all": (1 << 24) + 1}), "limits.pinned_mib.all"),
        (Limits(partitions={"0": [1]}), "device"),
        (Limits(partitions={DEVICE: [1] * 65}), "limits.partitions"),
        (Limits(partitions={DEVICE: [0]}), "chunks"),
    ],
)
def test_limits_that_make_no_sense(served: Served, supervisor: Declared, limits: Limits, parameter: str) -> None:
    with pytest.raises(BadRequest) as caught:
        served.client.set_limits("shared", limits)
    assert caught.value.parameter == parameter
    assert supervisor.controls["shared"].declared == Limits(), "nothing was passed on"


@pytest.mark.parametrize(
    ("device", "chunks"),
    [("GPU-1", [1]), (f"{DEVICE} 1", [1]), (f"{DEVICE}\n", [1]), (DEVICE, [0]), (DEVICE, [1025]), (DEVICE, [1] * 65)],
)
def test_partitions_that_make_no_sense(served: Served, device: str, chunks: list[int]) -> None:
    with pytest.raises(BadRequest):
        served.client.partition("shared", device, chunks)


@pytest.mark.parametrize(
    "parameters",
    [
        {"control": "shared", "limits": {"active_thread_percentage": "50"}},
        {"control": "shared", "limits": {"pinned_mib": {"0": 1.5}}},
        {"control": "shared", "limits": {"pinned_mib": [1]}},
        {"control": "shared", "limits": 5},
        {"control": None},
        {},
    ],
)
def test_what_is_no_call_of_the_interface(served: Served, parameters: dict[str, Any]) -> None:
    call = json.dumps({"method": "io.mpsafe.Mps.SetLimits", "parameters": parameters}).encode() + b"\0"
    assert _raw(served, call)["error"] == "org.varlink.service.InvalidParameter"
    assert len(served.client.controls()) == 3


def test_a_percentage_that_is_no_number(served: Served) -> None:
    """JSON has no NaN, but a float that overflows is infinite."""
    call = b'{"method":"io.mpsafe.Mps.SetLimits","parameters":{"control":"shared","limits":{"active_thread_percentage":'
    for number in (b"NaN", b"1e999", b"-1e999"):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(served.socket)
            sock.sendall(call + number + b"}}}\0")
            answer = sock.recv(1 << 16)
        assert not answer or b"error" in answer
    assert not any(
        math.isinf(one.declared.active_thread_percentage or 0) or one.declared != Limits()
        for one in served.client.controls()
    )


def _raw(served: Served, call: bytes) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(served.socket)
        sock.sendall(call)
        data = b""
        while not data.endswith(b"\0"):
            data += sock.recv(1 << 16)
    answer: dict[str, Any] = json.loads(data[:-1])
    return answer


@requires("root")
def test_others_see_their_own_and_the_shared_ones_and_change_none(served: Served) -> None:
    for uid, names in ((NOBODY, ["shared"]), (SOMEBODY, ["uid-4242", "shared"])):
        with Client(served.socket) as client:
            with as_user(uid):
                assert [one.name for one in client.controls()] == names
            for call in ("start_mps", "stop_mps"):
                with as_user(uid), pytest.raises(NotPermitted):
                    getattr(client, call)("uid-4242")
            with as_user(uid), pytest.raises(NotPermitted):
                client.set_limits("uid-4242", None)
            with as_user(uid), pytest.raises(NotPermitted):
                client.partition("uid-4242", DEVICE, [])
