# SPDX-License-Identifier: Apache-2.0
"""What mpsafe relies on of NVML, for any libnvidia-ml.so.1: the real one and the software one.

    python check_nvml.py        prints one line a check: name, a tab, "ok" or what was wrong

It reads and never sets, wants at least one device, and takes its figures from NVML alone. Where
NVML may say "not supported", the check accepts that and nothing else.
"""

import importlib
import os
import re
import sys
import threading
from collections.abc import Callable
from typing import Any, Final

__all__ = ["CHECKS", "check_nvml"]

_UUID: Final = re.compile(r"GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_BUS_ID: Final = re.compile(r"[0-9A-F]{8}:[0-9A-F]{2}:[0-9A-F]{2}\.0")
_EVENT_XID: Final = 0x8
_FIELD_RECOVERY_ACTION: Final = 230
_MEMORY_V2: Final = 0x02000028
_UNINITIALIZED, _INVALID_ARGUMENT, _NOT_SUPPORTED, _NOT_FOUND, _TIMEOUT = 1, 2, 3, 6, 10

# pynvml has neither type hints nor stubs.
Nvml = Any


def refusal(nvml: Nvml, call: Callable[..., object], *arguments: object) -> int:
    """The nvmlReturn_t of a call; 0 if it succeeds."""
    try:
        call(*arguments)
    except nvml.NVMLError as error:
        return int(error.value)
    return 0


def supported(nvml: Nvml, call: Callable[..., Any], *arguments: object) -> Any:
    """What the call returns, or None where NVML says that the device has no such thing."""
    try:
        return call(*arguments)
    except nvml.NVMLError as error:
        assert error.value == _NOT_SUPPORTED, error
        return None


def handles(nvml: Nvml) -> list[Any]:
    """Each device."""
    return [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]


def uninitialised_calls_are_refused(nvml: Nvml) -> None:
    nvml.nvmlShutdown()
    try:
        assert refusal(nvml, nvml.nvmlDeviceGetCount) == _UNINITIALIZED
        assert refusal(nvml, nvml.nvmlDeviceGetHandleByIndex, 0) == _UNINITIALIZED
        assert refusal(nvml, nvml.nvmlSystemGetDriverVersion) == _UNINITIALIZED
        assert refusal(nvml, nvml.nvmlEventSetCreate) == _UNINITIALIZED
        assert refusal(nvml, nvml.nvmlShutdown) == _UNINITIALIZED
    finally:
        nvml.nvmlInit()


def init_counts_its_users(nvml: Nvml) -> None:
    nvml.nvmlInit()
    nvml.nvmlShutdown()
    assert refusal(nvml, nvml.nvmlDeviceGetCount) == 0


def errors_have_texts(nvml: Nvml) -> None:
    texts = {nvml.nvmlErrorString(code) for code in (_UNINITIALIZED, _INVALID_ARGUMENT, _NOT_SUPPORTED, _NOT_FOUND, 9)}
    assert len(texts) == 5 and all(texts), texts


def versions_are_told(nvml: Nvml) -> None:
    driver = nvml.nvmlSystemGetDriverVersion()
    assert re.match(r"\d+\.\d+", driver), driver
    assert nvml.nvmlSystemGetNVMLVersion().endswith(driver)
    assert nvml.nvmlSystemGetCudaDriverVersion() >= 11000


def devices_are_found_by_index_uuid_and_place(nvml: Nvml) -> None:
    assert handles(nvml), "no device"
    for index, handle in enumerate(handles(nvml)):
        uuid = nvml.nvmlDeviceGetUUID(handle)
        pci = nvml.nvmlDeviceGetPciInfo(handle)
        assert _UUID.fullmatch(uuid), uuid
        assert _BUS_ID.fullmatch(pci.busId), pci.busId
        assert pci.busId == f"{pci.domain:08X}:{pci.bus:02X}:{pci.device:02X}.0", pci.busId
        assert nvml.nvmlDeviceGetIndex(handle) == index
        assert nvml.nvmlDeviceGetIndex(nvml.nvmlDeviceGetHandleByUUID(uuid.encode())) == index
        assert nvml.nvmlDeviceGetIndex(nvml.nvmlDeviceGetHandleByPciBusId(pci.busId.encode())) == index
        assert nvml.nvmlDeviceGetName(handle)


def unknown_devices_are_refused(nvml: Nvml) -> None:
    assert refusal(nvml, nvml.nvmlDeviceGetHandleByIndex, nvml.nvmlDeviceGetCount()) == _INVALID_ARGUMENT
    nobody = b"GPU-00000000-0000-0000-0000-000000000000"
    assert refusal(nvml, nvml.nvmlDeviceGetHandleByUUID, nobody) == _NOT_FOUND
    assert refusal(nvml, nvml.nvmlDeviceGetHandleByPciBusId, b"nonsense") in (_INVALID_ARGUMENT, _NOT_FOUND)
    assert refusal(nvml, nvml.nvmlDeviceGetUUID, None) == _INVALID_ARGUMENT


def memory_adds_up(nvml: Nvml) -> None:
    for handle in handles(nvml):
        plain = nvml.nvmlDeviceGetMemoryInfo(handle)
        assert 0 <= plain.used <= plain.total
        assert plain.free + plain.used == plain.total, plain
        parts = nvml.nvmlDeviceGetMemoryInfo(handle, _MEMORY_V2)
        assert parts.total == plain.total
        assert parts.free + parts.used + parts.reserved <= parts.total, parts


def modes_are_told(nvml: Nvml) -> None:
    for handle in handles(nvml):
        assert nvml.nvmlDeviceGetComputeMode(handle) in range(4)
        assert nvml.nvmlDeviceGetPersistenceMode(handle) in (0, 1)
        mig = supported(nvml, nvml.nvmlDeviceGetMigMode, handle)
        assert mig is None or set(mig) <= {0, 1}, mig
        load = supported(nvml, nvml.nvmlDeviceGetUtilizationRates, handle)
        assert load is None or 0 <= load.gpu <= 100


def processes_are_listed(nvml: Nvml) -> None:
    for handle in handles(nvml):
        for call in (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetMPSComputeRunningProcesses):
            running: list[Any] | None = supported(nvml, call, handle)
            for process in running or ():
                assert process.pid > 0
                name = refusal(nvml, nvml.nvmlSystemGetProcessName, process.pid)
                assert name in (0, _NOT_FOUND), name


def processes_have_names(nvml: Nvml) -> None:
    assert nvml.nvmlSystemGetProcessName(os.getpid())
    assert refusal(nvml, nvml.nvmlSystemGetProcessName, 2**22 + 1) == _NOT_FOUND  # above the kernel's PID_MAX


def fields_have_an_error_each(nvml: Nvml) -> None:
    for handle in handles(nvml):
        action, unknown = nvml.nvmlDeviceGetFieldValues(handle, [_FIELD_RECOVERY_ACTION, 2**31 - 1])
        assert unknown.nvmlReturn != 0
        assert action.nvmlReturn in (0, _NOT_SUPPORTED), action.nvmlReturn
        assert action.nvmlReturn or action.value.uiVal in range(8), action.value.uiVal


def xids_can_be_waited_for(nvml: Nvml) -> None:
    events = nvml.nvmlEventSetCreate()
    for handle in handles(nvml):
        types = nvml.nvmlDeviceGetSupportedEventTypes(handle)
        assert types & _EVENT_XID, hex(types)
        nvml.nvmlDeviceRegisterEvents(handle, _EVENT_XID, events)
        assert refusal(nvml, nvml.nvmlDeviceRegisterEvents, handle, 1 << 62, events) != 0
    assert refusal(nvml, nvml.nvmlEventSetWait_v2, events, 10) == _TIMEOUT
    nvml.nvmlEventSetFree(events)


def threads_may_call_at_once(nvml: Nvml) -> None:
    handle = nvml.nvmlDeviceGetHandleByIndex(0)
    uuid = nvml.nvmlDeviceGetUUID(handle)
    wrong: list[object] = []

    def ask() -> None:
        for _ in range(50):
            try:
                memory = nvml.nvmlDeviceGetMemoryInfo(handle)
                seen = nvml.nvmlDeviceGetUUID(handle)
            except nvml.NVMLError as error:
                wrong.append(error)
                return
            if seen != uuid or memory.free + memory.used != memory.total:
                wrong.append((seen, memory.total, memory.used, memory.free))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[:3]


CHECKS: Final[tuple[Callable[[Nvml], None], ...]] = (
    uninitialised_calls_are_refused,
    init_counts_its_users,
    errors_have_texts,
    versions_are_told,
    devices_are_found_by_index_uuid_and_place,
    unknown_devices_are_refused,
    memory_adds_up,
    modes_are_told,
    processes_are_listed,
    processes_have_names,
    fields_have_an_error_each,
    xids_can_be_waited_for,
    threads_may_call_at_once,
)


def check_nvml(nvml: Nvml) -> dict[str, str]:
    """Runs all checks on `pynvml`: by name "ok", or what was wrong. NVMLError where it cannot be initialised."""
    outcomes: dict[str, str] = {}
    nvml.nvmlInit()
    for check in CHECKS:
        try:
            check(nvml)
        except (AssertionError, nvml.NVMLError) as error:
            line = error.__traceback__.tb_next.tb_lineno if error.__traceback__ and error.__traceback__.tb_next else 0
            outcomes[check.__name__] = f"line {line}: {error!r}"
        else:
            outcomes[check.__name__] = "ok"
    nvml.nvmlShutdown()
    return outcomes


def main() -> int:
    """Checks the library that the loader finds; 1 if anything is wrong."""
    outcomes = check_nvml(importlib.import_module("pynvml"))
    for name, outcome in outcomes.items():
        sys.stdout.write(f"{name}\t{outcome}\n")
    return 0 if set(outcomes.values()) == {"ok"} else 1


if __name__ == "__main__":
    raise SystemExit(main())
