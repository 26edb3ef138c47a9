# SPDX-License-Identifier: Apache-2.0
"""The legacy language of the control daemon, v2: one line a command, the text of the answer is all that counts.

Forms as measured on 535.309.01 and 550.163.01. SM partitions came with CUDA 13.1: their forms are
published ones (MPS documentation, sglang-omni, isaac_ros_gpu_partitioning) and were never run by us.
"""

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import Collection
from typing import Final

from mpsafe.errors import ControlFailed, NotSupported
from mpsafe.model import Limits, MpsInterface, ServerState
from mpsafed.mps.front_end import FrontEnd
from mpsafed.mps.limits import ALL_DEVICES, mib_of

__all__ = ["V2"]

QUIT_SECONDS: Final = 2.0

_STATES: Final[dict[str, ServerState]] = {"INITIALIZING": "initializing", "ACTIVE": "active", "FAULT": "fault"}
_NUMBER: Final = re.compile(r"\d{1,10}")
_PERCENTAGE: Final = re.compile(r"\d{1,3}\.\d{1,6}")
_CREATED: Final = re.compile(r"Partition \S{1,120} created")
# "GPU-74d43ed3  Dx4A...  -  7  -  56  Yes", also without the dashes: a device, a partition, its chunks.
_PARTITION: Final = re.compile(
    r"((?:GPU|MIG)-[0-9a-f-]{2,64})\s+(?!\d+\s|-\s)([A-Za-z0-9+/=]{1,64})\s+(?:-\s+)?(\d{1,4})\s.*"
)


class V2:
    """A control daemon that speaks v2."""

    interface: MpsInterface = "v2"

    def __init__(self, front_end: FrontEnd) -> None:
        self._ask = front_end.ask
        self._run = front_end.run

    async def servers(self) -> list[int]:
        """get_server_list"""
        return _numbers("get_server_list", await self._ask("get_server_list"))

    async def server_state(self, server: int) -> ServerState:
        """get_server_status; 535 has no such command."""
        text = (await self._ask(f"get_server_status {server}")).strip()
        return "gone" if "not found" in text else _STATES.get(text, "unknown")

    async def clients(self, server: int) -> list[int]:
        """get_client_list"""
        text = await self._ask(f"get_client_list {server}")
        return [] if "not found" in text else _numbers("get_client_list", text)

    async def terminate_client(self, server: int, client: int, *, deadline_s: float) -> bool:
        """terminate_client; the proof is the answer `0`, the CUDA result, and nothing else."""
        return (await self._ask(f"terminate_client {server} {client}", deadline_s=deadline_s)).strip() == "0"

    async def shutdown_server(self, server: int) -> None:
        """shutdown_server -f"""
        await self._ask(f"shutdown_server {server} -f")

    async def start_server(self, uid: int) -> None:
        """start_server; the program says nothing even if the server dies at once."""
        await self._silent(f"start_server -uid {uid}", "start_server")

    async def limited(self) -> list[int | None]:
        """The defaults reach only the next server, a server's own limits only later clients: so both."""
        return [None, *await self.servers()]

    async def limits(self, server: int | None, devices: Collection[str]) -> Limits:
        """A server has no priority of its own: the default counts for its clients."""
        percentage = (await self._ask(_of("get", "active_thread_percentage", server))).strip()
        if not _PERCENTAGE.fullmatch(percentage):
            raise ControlFailed("get_active_thread_percentage", f"expected a percentage, got {percentage[:80]!r}")
        priority = (await self._ask("get_default_client_priority")).strip()
        pinned: dict[str, int] = {}
        for device in sorted(set(devices) - {ALL_DEVICES}):
            if mib := mib_of(await self._ask(_of("get", "device_pinned_mem_limit", server, device))):
                pinned[device] = mib
        return Limits(float(percentage), int(priority) if priority in ("0", "1") else None, pinned)

    async def set_limits(self, server: int | None, limits: Limits) -> None:
        """What it answers to a percentage is the one in force, to the rest nothing or a complaint."""
        if ALL_DEVICES in limits.pinned_mib:
            raise NotSupported("a limit of pinned memory for all devices together", "MPS v3")
        if limits.active_thread_percentage is not None:
            await self._ask(_of("set", "active_thread_percentage", server, f"{limits.active_thread_percentage:g}"))
        if limits.client_priority is not None and server is None:
            await self._silent(f"set_default_client_priority {limits.client_priority}", "set_default_client_priority")
        for device, mib in limits.pinned_mib.items():
            command = _of("set", "device_pinned_mem_limit", server, device, f"{mib}M" if mib else "0")
            await self._silent(command, "set_device_pinned_mem_limit")

    async def partitions(self) -> dict[str, list[int]]:
        """lspart; it may shorten the UUIDs of devices."""
        found: dict[str, list[int]] = {}
        for device, _, chunks in await self._rows():
            found.setdefault(device, []).append(chunks)
        return found

    async def partition(self, device: str, chunks: list[int]) -> None:
        """sm_partition rm for those that are too many, then sm_partition add."""
        missing = Counter(chunks)
        for known, partition, size in await self._rows():
            if not device.startswith(known):
                continue
            if missing[size]:
                missing[size] -= 1
            else:
                await self._ask(f"sm_partition rm {device} {partition}")
        for size in missing.elements():
            answer = (await self._ask(f"sm_partition add {device} {size}")).strip()
            if not _CREATED.search(answer):
                raise ControlFailed("sm_partition add", answer[:200] or "it says nothing")

    async def quit(self, *, force: bool) -> None:
        """quit, by force after a second.

        The program waits for the daemon's end with us, and status 1 tells that a server has failed
        before: neither that it is late nor that status says anything of this command.
        """
        command = "quit -t 1" if force else "quit"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(QUIT_SECONDS):
                reply = await self._run(typed=command, named=command, deadline_s=2 * QUIT_SECONDS)
            if complaint := reply.text.strip():
                raise ControlFailed(command, complaint[:200])

    async def _rows(self) -> list[tuple[str, str, int]]:
        text = await self._ask("lspart")
        if text.startswith("Unknown command"):
            raise NotSupported("a partition of SMs", "the MPS of CUDA 13.1 or newer")
        found = [match for line in text.splitlines() if (match := _PARTITION.fullmatch(line.strip()))]
        return [(match[1], match[2], int(match[3])) for match in found]

    async def _silent(self, command: str, named: str) -> None:
        if complaint := (await self._ask(command)).strip():
            raise ControlFailed(named, complaint[:200])


def _of(verb: str, name: str, server: int | None, *words: str) -> str:
    return " ".join((f"{verb}_default_{name}", *words) if server is None else (f"{verb}_{name}", str(server), *words))


def _numbers(command: str, text: str) -> list[int]:
    lines = text.split()
    if any(_NUMBER.fullmatch(line) is None for line in lines):
        raise ControlFailed(command, f"expected pids, got {text.strip()[:80]!r}")
    return [int(line) for line in lines]
