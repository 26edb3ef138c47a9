# SPDX-License-Identifier: Apache-2.0
"""The software libnvidia-ml.so.1 under the real pynvml, over a real software kernel."""

import ctypes
import importlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contract.check_nvml import CHECKS, refusal
from mpsafe.soft.host import LIBRARIES, SoftwareHost
from requires import requires

pytestmark = requires("soft")

CONTRACT = Path(__file__).parent / "contract" / "check_nvml.py"
DRIVER_NOT_LOADED, INVALID_ARGUMENT, NOT_SUPPORTED, TIMEOUT, GPU_IS_LOST = 9, 2, 3, 10, 15
INSUFFICIENT_SIZE, VERSION_MISMATCH = 7, 25
XID = 0x8


class Peer:
    """A process's connection to the software kernel, in the language of ffi/soft/wire.h."""

    def __init__(self, host: SoftwareHost, role: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.connect(os.fspath(host.directory / "rm"))
        self.ask(f"hello {role}")

    def ask(self, request: str) -> list[str]:
        self.socket.send(request.encode())
        words = self.socket.recv(4096).decode().split(" ")
        assert words[0] == "ok", (request, words)
        return words[1:]

    def fault(self, device: int) -> None:
        """A trap on that device; the kernel has sent Xid 43 when this returns."""
        channel, _ = self.ask(f"open {device} 0")
        self.ask(f"fault {channel} sm trap va=0x0 access=none")

    def kernel_pid(self) -> int:
        raw = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid: int = struct.unpack("iII", raw)[0]
        return pid


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftwareHost]:
    with SoftwareHost(tmp_path_factory.mktemp("host"), devices=2, memory_bytes=1 << 30) as host:
        yield host


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Any:
    """pynvml over the software library, not initialised."""
    pynvml: Any = importlib.import_module("pynvml")
    monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(os.fspath(LIBRARIES / "libnvidia-ml.so.1")))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    return pynvml


@pytest.fixture
def nvml(host: SoftwareHost, library: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("MPSAFE_SOFT_DIR", os.fspath(host.directory))
    library.nvmlInit()
    yield library
    library.nvmlShutdown()


@pytest.fixture
def peers(host: SoftwareHost) -> Iterator[list[Peer]]:
    """One cuda client; the test may append more."""
    made = [Peer(host, "cuda")]
    yield made
    for peer in made:
        peer.socket.close()


@pytest.fixture(scope="module")
def contract(host: SoftwareHost) -> dict[str, str]:
    """The contract suite in a process of its own, which finds the library as any program would."""
    done = subprocess.run(
        [sys.executable, CONTRACT], env=host.environment, stdout=subprocess.PIPE, text=True, check=False
    )
    return dict(line.split("\t", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize("name", [check.__name__ for check in CHECKS])
def test_contract(contract: dict[str, str], name: str) -> None:
    assert contract[name] == "ok"


def test_it_says_that_it_is_software(nvml: Any) -> None:
    assert "software" in nvml.nvmlDeviceGetName(nvml.nvmlDeviceGetHandleByIndex(0))
    assert "software" in nvml.nvmlSystemGetDriverVersion()


def test_no_software_host_is_no_driver(library: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MPSAFE_SOFT_DIR", raising=False)
    assert refusal(library, library.nvmlInit) == DRIVER_NOT_LOADED
    monkeypatch.setenv("MPSAFE_SOFT_DIR", os.fspath(tmp_path))
    assert refusal(library, library.nvmlInit) == DRIVER_NOT_LOADED
    monkeypatch.setenv("MPSAFE_SOFT_DIR", "/" + "long" * 40)
    assert refusal(library, library.nvmlInit) == DRIVER_NOT_LOADED


def test_a_socket_that_nobody_serves_is_no_driver(
    library: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with SoftwareHost(tmp_path):
        pass
    assert (tmp_path / "rm").exists()
    monkeypatch.setenv("MPSAFE_SOFT_DIR", os.fspath(tmp_path))
    assert refusal(library, library.nvmlInit) == DRIVER_NOT_LOADED


def test_a_kernel_that_dies_is_a_lost_gpu(library: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with SoftwareHost(tmp_path) as host:
        monkeypatch.setenv("MPSAFE_SOFT_DIR", os.fspath(host.directory))
        library.nvmlInit()
        handle = library.nvmlDeviceGetHandleByIndex(0)
        events = library.nvmlEventSetCreate()
        library.nvmlDeviceRegisterEvents(handle, XID, events)
    assert refusal(library, library.nvmlDeviceGetMemoryInfo, handle) == GPU_IS_LOST
    assert refusal(library, library.nvmlEventSetWait_v2, events, 60_000) == GPU_IS_LOST
    library.nvmlShutdown()


def test_what_a_software_device_lacks_is_not_supported(nvml: Any) -> None:
    handle = nvml.nvmlDeviceGetHandleByIndex(0)
    for call in (nvml.nvmlDeviceGetMigMode, nvml.nvmlDeviceGetPowerUsage, nvml.nvmlDeviceGetUtilizationRates):
        assert refusal(nvml, call, handle) == NOT_SUPPORTED
        assert refusal(nvml, call, None) == INVALID_ARGUMENT


def test_a_buffer_too_small_is_told(nvml: Any, peers: list[Peer], host: SoftwareHost) -> None:
    handle = nvml.nvmlDeviceGetHandleByIndex(0)
    name = ctypes.create_string_buffer(8)
    assert nvml.nvmlLib.nvmlDeviceGetName(handle, name, 8) == INSUFFICIENT_SIZE
    assert nvml.nvmlLib.nvmlSystemGetDriverVersion(name, 8) == INSUFFICIENT_SIZE
    peers.append(Peer(host, "cuda"))
    for peer in peers:
        peer.ask("open 0 0")
    count, infos = ctypes.c_uint(1), (nvml.c_nvmlProcessInfo_v3_t * 1)()
    assert nvml.nvmlLib.nvmlDeviceGetComputeRunningProcesses_v3(handle, ctypes.byref(count), infos) == INSUFFICIENT_SIZE
    assert count.value == 2
    assert infos[0].pid == os.getpid()


def test_a_structure_of_another_version_is_refused(nvml: Any) -> None:
    handle = nvml.nvmlDeviceGetHandleByIndex(0)
    assert refusal(nvml, nvml.nvmlDeviceGetMemoryInfo, handle, 0x01000028) == VERSION_MISMATCH


def test_processes_and_memory_are_the_kernel_s(nvml: Any, peers: list[Peer], host: SoftwareHost) -> None:
    handle = nvml.nvmlDeviceGetHandleByIndex(1)
    before = nvml.nvmlDeviceGetMemoryInfo(handle).used
    assert nvml.nvmlDeviceGetComputeRunningProcesses(handle) == []
    peers[0].ask("open 1 0")
    peers[0].ask(f"alloc 1 4711 {2 << 20}")
    (process,) = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    assert (process.pid, process.usedGpuMemory) == (os.getpid(), 2 << 20)
    assert nvml.nvmlDeviceGetMemoryInfo(handle).used == before + (2 << 20)
    assert nvml.nvmlDeviceGetMPSComputeRunningProcesses(handle) == []

    server = Peer(host, "mps")
    (group,) = server.ask("group")
    peers.append(Peer(host, "cuda"))
    peers[1].ask(f"open 1 {group}")
    assert [client.pid for client in nvml.nvmlDeviceGetMPSComputeRunningProcesses(handle)] == [os.getpid()]
    assert len(nvml.nvmlDeviceGetComputeRunningProcesses(handle)) == 2
    server.socket.close()


def test_an_xid_reaches_the_sets_that_were_registered_before_it(nvml: Any, peers: list[Peer]) -> None:
    handle = nvml.nvmlDeviceGetHandleByIndex(1)
    late, other = nvml.nvmlEventSetCreate(), nvml.nvmlEventSetCreate()
    nvml.nvmlDeviceRegisterEvents(nvml.nvmlDeviceGetHandleByIndex(0), XID, other)
    early = nvml.nvmlEventSetCreate()
    nvml.nvmlDeviceRegisterEvents(handle, XID, early)
    peers[0].fault(1)
    nvml.nvmlDeviceRegisterEvents(handle, XID, late)

    event = nvml.nvmlEventSetWait_v2(early, 10_000)
    assert event.eventData == 43
    assert nvml.nvmlDeviceGetIndex(event.device) == 1
    assert event.eventType == XID
    assert event.gpuInstanceId == event.computeInstanceId == 0xFFFFFFFF
    for events in (early, late, other):
        assert refusal(nvml, nvml.nvmlEventSetWait_v2, events, 1) == TIMEOUT
        nvml.nvmlEventSetFree(events)
        assert refusal(nvml, nvml.nvmlEventSetWait_v2, events, 1) == INVALID_ARGUMENT


def test_an_event_wakes_a_thread_that_waits(nvml: Any, peers: list[Peer]) -> None:
    events = nvml.nvmlEventSetCreate()
    nvml.nvmlDeviceRegisterEvents(nvml.nvmlDeviceGetHandleByIndex(0), XID, events)
    seen: list[int] = []
    waiter = threading.Thread(target=lambda: seen.append(nvml.nvmlEventSetWait_v2(events, 60_000).eventData))
    waiter.start()
    peers[0].fault(0)
    waiter.join()
    assert seen == [43]


def test_only_xids_can_be_registered(nvml: Any) -> None:
    events = nvml.nvmlEventSetCreate()
    handle = nvml.nvmlDeviceGetHandleByIndex(0)
    assert refusal(nvml, nvml.nvmlDeviceRegisterEvents, handle, XID | 0x2, events) == NOT_SUPPORTED
    assert refusal(nvml, nvml.nvmlDeviceRegisterEvents, handle, XID, None) == INVALID_ARGUMENT


def test_process_names_are_cut_to_the_buffer(nvml: Any) -> None:
    whole = nvml.nvmlSystemGetProcessName(os.getpid()).encode()
    short = ctypes.create_string_buffer(4)
    assert nvml.nvmlLib.nvmlSystemGetProcessName(os.getpid(), short, 4) == 0
    assert short.value == whole[:3]


def test_a_kernel_that_does_not_answer_is_waited_for(nvml: Any, peers: list[Peer]) -> None:
    handle = nvml.nvmlDeviceGetHandleByIndex(0)
    answered = threading.Event()

    def ask() -> None:
        nvml.nvmlDeviceGetMemoryInfo(handle)
        answered.set()

    os.kill(peers[0].kernel_pid(), signal.SIGSTOP)
    try:
        asking = threading.Thread(target=ask)
        asking.start()
        assert not answered.wait(0.2)
    finally:
        os.kill(peers[0].kernel_pid(), signal.SIGCONT)
    asking.join()
    assert answered.is_set()
