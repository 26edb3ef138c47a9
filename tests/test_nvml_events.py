# SPDX-License-Identifier: Apache-2.0
"""This test will hear Xids from NVML, and go on where NVML hangs, dies, talks nonsense or is not there."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import pytest

from mpsafe.errors import SourceLost
from mpsafe.model import SourceState
from mpsafe.soft.host import SoftwareHost
from mpsafed.signals import DeviceXid, Signal
from mpsafed.sources import keep_running
from mpsafed.sources.nvml_events import LINE_MAX_BYTES, NvmlEvents
from requires import requires, tool
from tenant_process import Tenant

PATIENCE_S = 60

HANGS_AT_ONCE = "int nvmlInitWithFlags(unsigned int flags) { (void)flags; for (;;) pause(); }"
HANGS_LATER = """
int nvmlInitWithFlags(unsigned int flags) { (void)flags; return 0; }
int nvmlEventSetCreate(void **set) { *set = (void *)1; return 0; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) { (void)index; *device = (void *)1; return 0; }
int nvmlDeviceGetSupportedEventTypes(void *device, unsigned long long *types) { (void)device; *types = 8; return 0; }
int nvmlDeviceRegisterEvents(void *device, unsigned long long types, void *set)
{ (void)device; (void)types; (void)set; return 0; }
int nvmlEventSetWait_v2(void *set, void *data, unsigned int timeout)
{ (void)set; (void)data; (void)timeout; for (;;) pause(); }
"""


def nvml(code: str, directory: Path) -> Mapping[str, str]:
    """An environment with this NVML."""
    source, library = directory / "nvml.c", directory / "libnvidia-ml.so.1"
    source.write_text(f"#include <unistd.h>\n{code}\n")
    subprocess.run([tool("cc"), "-shared", "-fPIC", "-Wl,-soname,libnvidia-ml.so.1", "-o", library, source], check=True)
    return environment(LD_LIBRARY_PATH=os.fspath(directory))


def environment(**more: str) -> dict[str, str]:
    """This process's, with the package in the path of a child."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | more


def pretender(script: str) -> NvmlEvents:
    """Events of a program in the helper's place."""
    return NvmlEvents(command=(sys.executable, "-c", script), deadline_s=60, start_deadline_s=60)


def lost(source: NvmlEvents) -> str:
    """Why the source is lost; also that no helper is left behind."""

    async def losing() -> str:
        with pytest.raises(SourceLost) as caught:
            await asyncio.wait_for(source.run(lambda _: None, lambda _: None), PATIENCE_S)
        return caught.value.reason

    before = psutil.Process().children()
    reason = asyncio.run(losing())
    assert psutil.Process().children() == before
    return reason


async def until(told: Callable[[], bool], *tasks: "asyncio.Future[None]") -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not told():
            for task in tasks:
                if task.done():
                    task.result()
            await asyncio.sleep(0)


@requires("soft")
def test_a_fault_is_told_with_its_device(software_host: SoftwareHost) -> None:
    async def scenario() -> None:
        found: list[Signal] = []
        told: list[str] = []
        source = NvmlEvents(environment=software_host.environment, deadline_s=60, start_deadline_s=60)
        task = asyncio.ensure_future(source.run(found.append, told.append))
        await until(lambda: bool(told), task)
        assert told == ["1 devices"]
        assert found == []
        with Tenant(software_host, "chat") as chat:
            assert chat.do("wild_write") == "error 700"
            chat.wait()
        await until(lambda: bool(found), task)
        (signal, *_) = found
        assert isinstance(signal, DeviceXid)
        assert signal.xid == 31
        assert signal.device.startswith("GPU-")
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(scenario())


def test_no_driver_is_a_reason(tmp_path: Path) -> None:
    """Without libnvidia-ml 12, with it but without a driver 9."""
    if Path("/proc/driver/nvidia/version").exists():
        pytest.skip("this machine has a driver")
    reason = lost(NvmlEvents(environment=environment(LD_LIBRARY_PATH=os.fspath(tmp_path))))
    assert reason in ("NVML: NVML Shared Library Not Found (12)", "NVML: Driver Not Loaded (9)")


@requires("cc")
@pytest.mark.parametrize("code", [HANGS_AT_ONCE, HANGS_LATER], ids=["at once", "later"])
def test_a_helper_that_hangs_is_killed_and_the_loop_goes_on(tmp_path: Path, code: str) -> None:
    """While one task waits for NVML, another one runs: it is what lets the time of the first pass."""

    async def scenario() -> str:
        start_s = PATIENCE_S if code == HANGS_LATER else 0.2
        source = NvmlEvents(environment=nvml(code, tmp_path), deadline_s=0.2, start_deadline_s=start_s)
        task = asyncio.ensure_future(source.run(lambda _: None, lambda _: None))
        turns = 0
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        assert turns > 1
        with pytest.raises(SourceLost) as caught:
            await task
        return caught.value.reason

    before = psutil.Process().children()
    assert asyncio.run(scenario()) == "NVML was silent for 0.2 s; its helper was killed"
    assert psutil.Process().children() == before


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("", "the NVML helper ended"),
        ("print('{')", "the NVML helper sent no event: Input data was truncated"),
        ("print('[]')", "the NVML helper sent no event: Expected `object`, got `array`"),
        ("print('{\"xid\": -1}')", "the NVML helper sent no event: Expected `int` >= 0 - at `$.xid`"),
        (f"print('x' * {LINE_MAX_BYTES + 1})", f"the NVML helper sent a line of more than {LINE_MAX_BYTES} bytes"),
        ('print(\'{"error": {"code": 15, "text": "GPU is lost"}}\')', "NVML: GPU is lost (15)"),
        ('print(\'{"watched": 0, "problems": ["device 0: lost"]}\')', "no device tells of Xids; device 0: lost"),
    ],
)
def test_what_makes_no_sense_ends_the_helper(script: str, reason: str) -> None:
    assert lost(pretender(script)) == reason


def test_a_helper_that_cannot_be_started_is_a_reason(tmp_path: Path) -> None:
    source = NvmlEvents(command=(os.fspath(tmp_path / "none"),))
    assert lost(source).startswith("the NVML helper could not be started: ")


def test_a_helper_that_fails_is_started_again_and_its_reason_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpsafed.sources.RETRY_SECONDS", 0)
    states: list[SourceState] = []
    source = NvmlEvents(command=(sys.executable, "-c", ""), pause_s=0)

    async def scenario() -> None:
        task = asyncio.ensure_future(keep_running(source, lambda _: None, states.append))
        await until(lambda: len(states) >= 4, task)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(scenario())
    assert [state.detail for state in states[:4]] == ["not seen yet", *["the NVML helper ended"] * 3]


def test_pauses_double_until_a_helper_beats() -> None:
    async def scenario() -> None:
        source = NvmlEvents(command=(sys.executable, "-c", ""), pause_s=0.001)
        pauses: list[float] = []
        for _ in range(4):
            with pytest.raises(SourceLost):
                await source.run(lambda _: None, lambda _: None)
            pauses.append(source._pause_s)  # pyright: ignore[reportPrivateUsage] -- nothing else tells it
        assert pauses == [0.001, 0.002, 0.004, 0.008]
        source._command = (sys.executable, "-c", "print('{}')")  # pyright: ignore[reportPrivateUsage]
        with pytest.raises(SourceLost):
            await source.run(lambda _: None, lambda _: None)
        assert source._pause_s == 0  # pyright: ignore[reportPrivateUsage]

    asyncio.run(scenario())


@requires("soft")
def test_the_helper_writes_one_json_object_a_line_and_ends_with_its_reader(software_host: SoftwareHost) -> None:
    command = [sys.executable, "-m", "mpsafed.nvml_helper", "events"]
    helper = subprocess.Popen(command, stdout=subprocess.PIPE, env=software_host.environment)
    assert helper.stdout is not None
    assert json.loads(helper.stdout.readline()) == {"watched": 1, "problems": []}
    assert json.loads(helper.stdout.readline()) == {}, "a beat"
    helper.stdout.close()
    assert helper.wait(PATIENCE_S) != 0
