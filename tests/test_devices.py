# SPDX-License-Identifier: Apache-2.0
"""The daemon's view of the devices: the helper, its deadlines, and what is said when NVML is of no use."""

import asyncio
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from mpsafe.soft.host import SoftwareHost
from mpsafed.devices import HELPER, LINE_MAX_BYTES, Devices
from requires import requires, tool

HANGING_NVML = """
#include <unistd.h>
int nvmlInitWithFlags(unsigned int flags) { (void)flags; for (;;) pause(); }
"""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[SoftwareHost]:
    with SoftwareHost(tmp_path / "host", devices=2, memory_bytes=1 << 30) as host:
        yield host


@pytest.fixture
def hanging(tmp_path: Path) -> Mapping[str, str]:
    """An environment whose NVML never returns from its initialisation."""
    source, library = tmp_path / "hang.c", tmp_path / "libnvidia-ml.so.1"
    source.write_text(HANGING_NVML)
    subprocess.run([tool("cc"), "-shared", "-fPIC", "-Wl,-soname,libnvidia-ml.so.1", "-o", library, source], check=True)
    return environment(LD_LIBRARY_PATH=os.fspath(tmp_path))


def environment(**more: str) -> dict[str, str]:
    """This process's, with the package in the path of a child."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | more


def patient(
    *, environment: Mapping[str, str] | None = None, command: Sequence[str] = HELPER, pause_s: float = 0.0
) -> Devices:
    """Devices whose deadlines a busy machine does not miss."""
    return Devices(environment=environment, command=command, deadline_s=60, start_deadline_s=60, pause_s=pause_s)


def pretender(script: str) -> tuple[str, ...]:
    """A program in the helper's place."""
    return (sys.executable, "-c", script)


def stop(host: SoftwareHost, number: signal.Signals) -> None:
    """Signals the software kernel itself, whose pid its socket tells."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.connect(os.fspath(host.directory / "rm"))
        pid, _, _ = struct.unpack("iII", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    os.kill(pid, number)


def children() -> set[int]:
    """The pids of this process's children that live."""
    found: set[int] = set()
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if child.status() != psutil.STATUS_ZOMBIE:
                found.add(child.pid)
    return found


@requires("soft")
def test_devices_are_those_of_nvml(host: SoftwareHost) -> None:
    async def scenario() -> None:
        devices = patient(environment=host.environment)
        first, second = await devices.list()
        assert (first.index, second.index) == (0, 1)
        assert first.uuid != second.uuid
        assert first.pci == "0000:01:00.0"
        assert first.memory_total_bytes == 1 << 30
        assert first.memory_used_bytes == 0
        assert first.software
        assert first.compute_mode == "default"
        assert devices.state.alive
        assert devices.age_s is not None
        await devices.close()

    asyncio.run(scenario())


@requires("soft")
def test_one_helper_answers_all_and_ends_with_close(host: SoftwareHost) -> None:
    async def scenario() -> None:
        devices = patient(environment=host.environment)
        before = children()
        assert children() == before, "a helper without a question"
        await asyncio.gather(*(devices.list() for _ in range(5)))
        await devices.list()
        assert len(children() - before) == 1
        await devices.close()
        assert children() == before

    asyncio.run(scenario())


def test_no_driver_is_a_reason(tmp_path: Path) -> None:
    """Without libnvidia-ml 12, with it but without a driver 9: either way no device, and a sentence."""

    async def scenario() -> None:
        devices = patient(environment=environment(LD_LIBRARY_PATH=os.fspath(tmp_path)))
        assert await devices.list() == []
        assert not devices.state.alive
        assert devices.state.name == "nvml"
        assert devices.state.detail in (
            "NVML: NVML Shared Library Not Found (12)",
            "NVML: Driver Not Loaded (9)",
        )
        assert devices.age_s is None
        await devices.close()

    if Path("/proc/driver/nvidia/version").exists():
        pytest.skip("this machine has a driver")
    asyncio.run(scenario())


@requires("soft")
def test_a_driver_that_comes_later_is_seen(tmp_path: Path) -> None:
    async def scenario() -> None:
        with SoftwareHost(tmp_path / "host") as host:
            known = host.environment
        devices = patient(environment=known)
        assert await devices.list() == []
        assert devices.state.detail == "NVML: Driver Not Loaded (9)"
        with SoftwareHost(tmp_path / "host"):
            assert len(await devices.list()) == 1
            assert devices.state.alive
            await devices.close()

    asyncio.run(scenario())


@requires("cc")
def test_nvml_that_hangs_does_not_hang_the_loop(hanging: Mapping[str, str]) -> None:
    async def scenario() -> None:
        devices = Devices(environment=hanging, deadline_s=0.2, start_deadline_s=600)
        listing = asyncio.create_task(devices.list())
        ticks = 0
        while not listing.done():
            await asyncio.sleep(0.01)
            ticks += 1
        assert ticks > 1
        assert await listing == []
        assert not devices.state.alive
        assert devices.state.detail == "NVML has not answered within 0.2 s"
        await devices.close()

    asyncio.run(scenario())


@requires("cc")
def test_a_helper_that_hangs_is_killed(hanging: Mapping[str, str]) -> None:
    async def scenario() -> None:
        devices = Devices(environment=hanging, deadline_s=60, start_deadline_s=0.3)
        before = children()
        assert await devices.list() == []
        assert devices.state.detail == "NVML did not answer within 0.3 s; its helper was killed"
        assert children() == before
        await devices.close()

    asyncio.run(scenario())


@requires("cc")
def test_close_ends_a_helper_that_hangs(hanging: Mapping[str, str]) -> None:
    async def scenario() -> None:
        devices = Devices(environment=hanging, deadline_s=0.1, start_deadline_s=600)
        before = children()
        await devices.list()
        await devices.close()
        assert children() == before

    asyncio.run(scenario())


@requires("soft")
def test_devices_stay_known_while_nvml_hangs(host: SoftwareHost) -> None:
    async def scenario() -> None:
        devices = Devices(environment=host.environment, deadline_s=0.3, start_deadline_s=60, pause_s=0)
        known = await devices.list()
        while not devices.state.alive:
            known = await devices.list()
        seen_s = devices.age_s
        stop(host, signal.SIGSTOP)
        try:
            assert await devices.list() == known
            assert not devices.state.alive
            assert devices.age_s is not None and seen_s is not None and devices.age_s > seen_s
        finally:
            stop(host, signal.SIGCONT)
        while not devices.state.alive:
            assert await devices.list() == known
        await devices.close()

    asyncio.run(scenario())


@requires("soft")
def test_a_helper_that_is_killed_is_replaced(host: SoftwareHost) -> None:
    async def scenario() -> None:
        devices = patient(environment=host.environment)
        before = children()
        known = await devices.list()
        (helper,) = children() - before
        os.kill(helper, signal.SIGKILL)
        assert await devices.list() == known
        assert devices.state.detail == "the NVML helper ended"
        assert await devices.list() == known
        assert devices.state.alive
        (fresh,) = children() - before
        assert fresh != helper
        await devices.close()

    asyncio.run(scenario())


def test_a_helper_that_fails_is_not_started_again_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        starts = tmp_path / "starts"
        devices = patient(command=pretender(f"open({os.fspath(starts)!r}, 'a').write('x')"), pause_s=3600)
        for _ in range(3):
            assert await devices.list() == []
        assert devices.state.detail == "the NVML helper ended"
        assert starts.read_text() == "x"
        await devices.close()

    asyncio.run(scenario())


DEVICE = {
    "uuid": "GPU-1",
    "index": 0,
    "name": "n",
    "pci": "0000:01:00.0",
    "driver_version": "1.0",
    "memory_total_bytes": 2,
    "memory_used_bytes": 1,
    "software": False,
}
ANSWER = {"id": 1, "ok": {"devices": [DEVICE], "problems": ["device 1: GPU is lost (15)"]}}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("nonsense", "the NVML helper sent no answer"),
        ("[]", "the NVML helper sent no answer"),
        (json.dumps({"id": 1}), "the NVML helper sent neither ok nor error"),
        (json.dumps(ANSWER | {"id": 2}), "the NVML helper answered request 2, asked was 1"),
        (json.dumps({"id": 1, "ok": {}}), "the NVML helper sent no list of devices"),
        (json.dumps({"id": 1, "ok": {"devices": [DEVICE | {"index": "0"}], "problems": []}}), "no list of devices"),
        (json.dumps({"id": 1, "ok": {"devices": [DEVICE] * 257, "problems": []}}), "no list of devices"),
        (json.dumps({"id": 1, "error": {"code": 15, "text": "GPU is lost"}}), "NVML: GPU is lost (15)"),
    ],
)
def test_an_answer_that_makes_no_sense_ends_the_helper(line: str, reason: str) -> None:
    async def scenario() -> None:
        before = children()
        devices = patient(command=pretender(f"input(); print({line!r}, flush=True); input()"))
        assert await devices.list() == []
        assert reason in devices.state.detail
        assert children() == before
        await devices.close()

    asyncio.run(scenario())


def test_a_line_without_an_end_is_not_read_for_ever() -> None:
    async def scenario() -> None:
        script = f"import sys\ninput()\nwhile True: sys.stdout.write('x' * {LINE_MAX_BYTES})"
        devices = patient(command=pretender(script))
        assert await devices.list() == []
        assert devices.state.detail == f"the NVML helper sent a line of more than {LINE_MAX_BYTES} bytes"
        await devices.close()

    asyncio.run(scenario())


def test_a_lost_device_hides_no_other() -> None:
    async def scenario() -> None:
        devices = patient(command=pretender(f"input(); print({json.dumps(ANSWER)!r}, flush=True); input()"))
        (device,) = await devices.list()
        assert device.uuid == "GPU-1"
        assert not device.software
        assert devices.state.alive
        assert devices.state.detail == "1 devices; device 1: GPU is lost (15)"
        await devices.close()

    asyncio.run(scenario())


def test_a_helper_that_cannot_be_started_is_a_reason(tmp_path: Path) -> None:
    async def scenario() -> None:
        devices = patient(command=(os.fspath(tmp_path / "absent"),))
        assert await devices.list() == []
        assert devices.state.detail.startswith("the NVML helper could not be started: ")
        await devices.close()

    asyncio.run(scenario())


@requires("soft")
def test_the_helper_answers_each_question(host: SoftwareHost) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(os.fspath(host.directory / "rm"))
        for request in (b"hello cuda", b"open 1 0"):
            client.send(request)
            assert client.recv(4096).startswith(b"ok")
        asks = ["driver", "processes", "devices"]
        done = subprocess.run(
            [sys.executable, "-m", "mpsafed.nvml_helper"],
            input="".join(json.dumps({"id": number, "ask": ask}) + "\n" for number, ask in enumerate(asks)),
            env=host.environment,
            capture_output=True,
            text=True,
            check=True,
        )
    driver, processes, devices = (json.loads(line) for line in done.stdout.splitlines())
    assert driver["ok"] == {"driver": "580.00-software", "nvml": "13.580.00-software", "cuda": 13000}
    (process,) = processes["ok"]
    assert process == {"uuid": process["uuid"], "pid": os.getpid(), "used_bytes": 0, "mps": False}
    assert [device["uuid"] for device in devices["ok"]["devices"]][1] == process["uuid"]


def test_the_helper_ends_at_a_question_it_does_not_know() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mpsafed.nvml_helper"],
        input='{"id": 1, "ask": "reset"}\n',
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert "reset" in done.stderr
