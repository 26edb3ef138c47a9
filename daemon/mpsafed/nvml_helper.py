# SPDX-License-Identifier: Apache-2.0
"""NVML in a process of its own: NVML can hang for ever on a dying device, and the daemon must not.

Reads one JSON object a line from stdin and writes one a line to stdout, until stdin ends:

    {"id": 1, "ask": "devices"}     {"id": 1, "ok": {"devices": [...], "problems": [...]}}
    {"id": 2, "ask": "processes"}   {"id": 2, "ok": [{"uuid", "pid", "used_bytes", "mps"}, ...]}
    {"id": 3, "ask": "driver"}      {"id": 3, "ok": {"driver", "nvml", "cuda"}}
                                    {"id": 4, "error": {"code": 9, "text": "Driver Not Loaded"}}

`error.code` is an nvmlReturn_t (nvml.h). A device that NVML lists but cannot describe is a sentence
in `problems`, never a reason to hide the others.

As `events` it reads nothing and writes what happens, as long as somebody reads it; at least a beat a second:

    {"watched": 2, "problems": [...]}       {"uuid": "GPU-...", "xid": 31}       {}

    python -m mpsafed.nvml_helper [events]
"""

import importlib
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final, Literal

import msgspec

from mpsafe.model import Device

__all__ = ["main"]

LINE_MAX_BYTES: Final = 4096
BEAT_MS: Final = 1000

# nvmlComputeMode_t (nvml.h); 1, exclusive thread, is no more.
_COMPUTE_MODES: Final = {0: "default", 2: "prohibited", 3: "exclusive_process"}


class Ask(msgspec.Struct, forbid_unknown_fields=True):
    """One request of the daemon."""

    id: int
    ask: Literal["devices", "processes", "driver"]


class Nvml:
    """What the daemon asks of NVML. Each method raises `pynvml.NVMLError`; the first call initialises."""

    def __init__(self) -> None:
        # pynvml has neither type hints nor stubs.
        self.pynvml: Any = importlib.import_module("pynvml")
        self._ready = False

    def answer(self, ask: str) -> object:
        """The value of `ok`."""
        if not self._ready:
            self.pynvml.nvmlInit()
            self._ready = True
        match ask:
            case "devices":
                return self._devices()
            case "processes":
                return list(self._processes())
            case _:
                return {
                    "driver": self.pynvml.nvmlSystemGetDriverVersion(),
                    "nvml": self.pynvml.nvmlSystemGetNVMLVersion(),
                    "cuda": self.pynvml.nvmlSystemGetCudaDriverVersion(),
                }

    def _devices(self) -> dict[str, object]:
        driver_version = self.pynvml.nvmlSystemGetDriverVersion()
        devices: list[Device] = []
        problems: list[str] = []
        for index in range(self.pynvml.nvmlDeviceGetCount()):
            try:
                devices.append(self._device(index, driver_version))
            except self.pynvml.NVMLError as error:
                problems.append(f"device {index}: {error} ({error.value})")
        return {"devices": devices, "problems": problems}

    def _device(self, index: int, driver_version: str) -> Device:
        handle = self.pynvml.nvmlDeviceGetHandleByIndex(index)
        memory = self.pynvml.nvmlDeviceGetMemoryInfo(handle)
        pci = self.pynvml.nvmlDeviceGetPciInfo(handle)
        name = self.pynvml.nvmlDeviceGetName(handle)
        return Device(
            uuid=self.pynvml.nvmlDeviceGetUUID(handle),
            index=index,
            name=name,
            pci=f"{pci.domain:04x}:{pci.bus:02x}:{pci.device:02x}.0",
            driver_version=driver_version,
            memory_total_bytes=memory.total,
            memory_used_bytes=memory.used,
            software="software" in name.lower(),
            compute_mode=self._compute_mode(handle),
        )

    def _compute_mode(self, handle: object) -> str:
        """A device that cannot tell it is none the worse for it."""
        try:
            return _COMPUTE_MODES.get(self.pynvml.nvmlDeviceGetComputeMode(handle), "unknown")
        except self.pynvml.NVMLError:
            return "unknown"

    def _processes(self) -> Iterator[dict[str, object]]:
        for index in range(self.pynvml.nvmlDeviceGetCount()):
            handle = self.pynvml.nvmlDeviceGetHandleByIndex(index)
            uuid = self.pynvml.nvmlDeviceGetUUID(handle)
            all_of_them = self._running(self.pynvml.nvmlDeviceGetComputeRunningProcesses, handle)
            clients = self._running(self.pynvml.nvmlDeviceGetMPSComputeRunningProcesses, handle)
            for pid, used_bytes in (all_of_them | clients).items():
                yield {"uuid": uuid, "pid": pid, "used_bytes": used_bytes, "mps": pid in clients}

    def _running(self, call: Callable[[object], Any], handle: object) -> dict[int, int | None]:
        """Used bytes by pid; None where NVML cannot tell."""
        try:
            return {process.pid: process.usedGpuMemory for process in call(handle)}
        except self.pynvml.NVMLError as error:
            if error.value == self.pynvml.NVML_ERROR_NOT_SUPPORTED:
                return {}
            raise

    def events(self) -> Iterator[dict[str, object]]:
        """What is watched, then each Xid as it happens, and a beat wherever nothing does. Never ends."""
        self.pynvml.nvmlInit()
        events = self.pynvml.nvmlEventSetCreate()
        watched, problems = 0, list[str]()
        for index in range(self.pynvml.nvmlDeviceGetCount()):
            try:
                watched += self._watch(index, events)
            except self.pynvml.NVMLError as error:
                problems.append(f"device {index}: {error} ({error.value})")
        yield {"watched": watched, "problems": problems}
        while True:
            try:
                event = self.pynvml.nvmlEventSetWait_v2(events, BEAT_MS)
            except self.pynvml.NVMLError as error:
                if error.value != self.pynvml.NVML_ERROR_TIMEOUT:
                    raise
                yield {}
                continue
            if event.eventType == self.pynvml.nvmlEventTypeXidCriticalError:
                yield {"uuid": self.pynvml.nvmlDeviceGetUUID(event.device), "xid": event.eventData}

    def _watch(self, index: int, events: object) -> bool:
        """Whether the device tells of Xids at all."""
        handle = self.pynvml.nvmlDeviceGetHandleByIndex(index)
        wanted = self.pynvml.nvmlEventTypeXidCriticalError
        if not self.pynvml.nvmlDeviceGetSupportedEventTypes(handle) & wanted:
            return False
        self.pynvml.nvmlDeviceRegisterEvents(handle, wanted, events)
        return True


def watch(nvml: Nvml, answers: BinaryIO) -> None:
    """Writes events until NVML fails; the last line says why."""
    try:
        for event in nvml.events():
            answers.write(msgspec.json.encode(event) + b"\n")
            answers.flush()
    except nvml.pynvml.NVMLError as error:
        answers.write(msgspec.json.encode({"error": {"code": error.value, "text": str(error)}}) + b"\n")
        answers.flush()


def serve(nvml: Nvml, requests: BinaryIO, answers: BinaryIO) -> None:
    """Answers each line of `requests` on `answers`. Ends with them."""
    while line := requests.readline(LINE_MAX_BYTES):
        request = msgspec.json.decode(line, type=Ask)
        try:
            answer: dict[str, object] = {"id": request.id, "ok": nvml.answer(request.ask)}
        except nvml.pynvml.NVMLError as error:
            answer = {"id": request.id, "error": {"code": error.value, "text": str(error)}}
        answers.write(msgspec.json.encode(answer) + b"\n")
        answers.flush()


def main() -> int:
    """Serves stdin and stdout until the daemon closes them."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if sys.argv[1:] == ["events"]:
        watch(Nvml(), sys.stdout.buffer)
        return 0
    serve(Nvml(), sys.stdin.buffer, sys.stdout.buffer)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
