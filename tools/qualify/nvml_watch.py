# SPDX-License-Identifier: Apache-2.0
"""A process that waits for NVML's events and sends each as it comes. Started by stage.py.

The arguments are the number of a SOCK_SEQPACKET socket and the device's UUID. The first packet says
whether the events were registered ("result" is an nvmlReturn_t), each later one is an event.
"""

import importlib
import json
import select
import socket
import sys
import time
from typing import Any, Final

__all__ = ["main"]

_WAIT_MS: Final = 50
_XID: Final = 0x8
_TIMEOUT: Final = 10


def main() -> int:
    """Watches one device until the other end closes the socket."""
    sock = socket.socket(fileno=int(sys.argv[1]))
    nvml: Any = importlib.import_module("pynvml")
    nvml.nvmlInit()
    device = nvml.nvmlDeviceGetHandleByUUID(sys.argv[2].encode())
    events = nvml.nvmlEventSetCreate()
    types: int = nvml.nvmlDeviceGetSupportedEventTypes(device)
    try:
        nvml.nvmlDeviceRegisterEvents(device, types, events)
    except nvml.NVMLError as error:
        sock.send(json.dumps({"result": error.value, "call": "nvmlDeviceRegisterEvents", "types": types}).encode())
        return 1
    sock.send(json.dumps({"result": 0, "call": "", "types": types}).encode())
    while not select.select([sock], [], [], 0)[0]:
        try:
            event = nvml.nvmlEventSetWait_v2(events, _WAIT_MS)
        except nvml.NVMLError as error:
            if error.value != _TIMEOUT:
                raise
            continue
        xid = event.eventData if event.eventType == _XID else None
        seen = {"type": event.eventType, "xid": xid, "data": event.eventData, "seen_ns": time.monotonic_ns()}
        sock.send(json.dumps({"result": 0, "call": ""} | seen).encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
