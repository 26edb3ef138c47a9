# SPDX-License-Identifier: Apache-2.0
"""What the software device does: channel groups, faults and their reach. No I/O.

The reach of a fatal fault is that of NVIDIA's MPS documentation, "Error Containment": the devices of
all clients that run on the device of the fault, and all clients that run on any of these devices.
ffi/soft/wire.h says how processes ask for what is here.
"""

import time
from collections.abc import Sequence
from typing import Final

from mpsafe.soft.ledger import Ledger
from mpsafe.soft.parts import (
    PLACES,
    SINK_BYTES,
    Absorbed,
    Channel,
    CudaError,
    Device,
    Effect,
    Fatal,
    Gone,
    Group,
    Mode,
    Process,
    SinkPolicy,
)

__all__ = ["Absorbed", "CudaError", "Device", "Effect", "Fatal", "Gone", "Machine", "Mode", "Process"]

INVALID_VALUE: Final = 1
INVALID_DEVICE: Final = 101
INVALID_CONTEXT: Final = 201
INVALID_HANDLE: Final = 400
ILLEGAL_ADDRESS: Final = 700
MPS_RPC_FAILURE: Final = 806
MPS_SERVER_NOT_READY: Final = 807
MPS_CLIENT_TERMINATED: Final = 810
OPERATING_SYSTEM: Final = 304

# MPSAFE_STATUS_... (ffi/mpsafe_uapi.h).
NOT_SUPPORTED: Final = 0x56
LIMIT: Final = 0x1A
UNIT_SM: Final = 1 << 1
STATE: Final = 0x40

_FATAL: Final = {"illegal_instruction": 715, "misaligned": 716, "trap": 719}


class Machine:
    """The state behind all connections. Methods change it and return the effects to be made known."""

    def __init__(self, devices: Sequence[Device]) -> None:
        self.devices = tuple(devices)
        self.mode: Mode = "off"
        self.policy = SinkPolicy()
        self._ledger = Ledger([device.total_bytes for device in devices])
        self._processes: dict[int, Process] = {}
        self._channels: dict[int, Channel] = {}
        self._groups: dict[int, Group] = {}
        self._seen: dict[int, set[int]] = {device.index: set() for device in devices}
        self._forgotten: set[int] = set()
        self._next = 1

    def _number(self) -> int:
        self._next += 1
        return self._next - 1

    @property
    def clients(self) -> list[Process]:
        """The processes with an address space, by number."""
        return [process for process in self._processes.values() if process.role == "cuda"]

    def mode_of(self, process: Process) -> Mode:
        """The mode in force for one client: the lower of the policy's and its own."""
        order: tuple[Mode, ...] = ("off", "observe", "absorb")
        own = process.mode
        return self.mode if own == "inherit" else order[min(order.index(self.mode), order.index(own))]

    def connect(self, *, pid: int, uid: int, start_ticks: int, comm: str, role: str) -> Process:
        """A process said hello."""
        process = Process(self._number(), pid, uid, start_ticks, comm, role, created_ns=time.monotonic_ns())
        self._processes[process.number] = process
        return process

    def disconnect(self, process: Process) -> list[Effect]:
        """A connection closed: everything that the process had is freed."""
        effects = self._close_all(process)
        self._ledger.leave(process.number)
        for group in [g for g in self._groups.values() if g.owner is process]:
            for orphan in self._members(group):
                orphan.error = orphan.error or MPS_RPC_FAILURE
            del self._groups[group.number]
        del self._processes[process.number]
        return effects

    def create_group(self, owner: Process, *, shared: bool) -> Group:
        """A new channel group on all devices."""
        group = Group(self._number(), owner, shared)
        self._groups[group.number] = group
        return group

    def recreate(self, owner: Process, number: int) -> None:
        """Makes a server's group anew where it died. CUDA_ERROR_MPS_SERVER_NOT_READY while a client is there."""
        group = self._owned(owner, number)
        if any(c.group is group and c.device in group.dead_on for c in self._channels.values()):
            raise CudaError(MPS_SERVER_NOT_READY)
        group.dead_on.clear()

    def open(self, process: Process, device: int, group_number: int) -> Channel:
        """A context on a device, in a server's group or (0) in the process's own."""
        self.device(device)
        if process.error:
            raise CudaError(process.error)
        if group_number:
            group = self._groups.get(group_number)
            if group is None or not group.shared or group.owner.uid not in (process.uid, 0):
                raise CudaError(INVALID_VALUE)
            if group.dead_on:
                raise CudaError(MPS_SERVER_NOT_READY)
        else:
            group = process.group = process.group or self.create_group(process, shared=False)
        channel = Channel(self._number(), process, device, group)
        self._channels[channel.number] = channel
        return channel

    def close(self, process: Process, number: int) -> list[Effect]:
        """Closes one channel; a process without channels in a shared group has left it."""
        channel = self._owned_channel(process, number)
        del self._channels[number]
        if channel.group.shared and process not in self._members(channel.group):
            return [Gone(process, channel.group.number)]
        return []

    def alloc(self, process: Process, device: int, allocation: int, size_bytes: int) -> None:
        """Holds an allocation, by the inode of its memory. A doomed client gets no new range."""
        if process.doomed:
            process.refused += 1
            raise CudaError(OPERATING_SYSTEM)
        if allocation in self._forgotten:
            raise CudaError(INVALID_HANDLE)
        self._seen[self.device(device).index].add(allocation)
        self._ledger.hold(process.number, self.device(device).index, allocation, size_bytes)

    def free(self, process: Process, device: int, allocation: int) -> None:
        """Lets an allocation go."""
        self._ledger.let_go(process.number, self.device(device).index, allocation)

    def fault(self, process: Process, number: int, fault_class: str, detail: str, va: int, access: str) -> Effect:
        """A warp faulted: absorbed if the driver takes it, else the group dies."""
        channel = self._owned_channel(process, number)
        group = channel.group
        if process.error:
            return Fatal(process, number, channel.device, group.number, fault_class, detail, va, access, victims=())
        status = self._status(process, detail) if fault_class == "mmu" else NOT_SUPPORTED
        if not status:
            sink, new = _sink(process, va, self.policy.grow_after)
            process.sinks.add(sink)
            process.doomed = True
            process.faults += new
            return Absorbed(process, channel.device, va, access, detail, new, sink)
        sharing = self._members(group, {channel.device})
        devices = {c.device for c in self._channels.values() if c.group is group and c.process in sharing}
        victims = tuple(p for p in self._members(group, devices) if not p.error)
        for victim in victims:
            victim.error = _FATAL.get(detail, ILLEGAL_ADDRESS)
        group.dead_on |= devices
        newest = [c for c in self._channels.values() if c.group is group and c.device == channel.device][-1]
        return Fatal(
            process,
            number,
            channel.device,
            group.number,
            fault_class,
            detail,
            va,
            access,
            victims,
            devices=tuple(sorted(devices)),
            status=status,
            newest=newest,
        )

    def channel_of(self, process: Process) -> int | None:
        """The number of its oldest channel."""
        return next((number for number, channel in self._channels.items() if channel.process is process), None)

    def terminate(self, owner: Process, number: int, pid: int) -> list[Effect]:
        """Ends one client of a server's group; its channels are gone when this returns."""
        group = self._owned(owner, number)
        found = [p for p in self._members(group) if p.pid == pid]
        if not found:
            raise CudaError(INVALID_CONTEXT)
        effects: list[Effect] = []
        for process in found:
            process.error = process.error or MPS_CLIENT_TERMINATED
            effects += self._close_all(process)
        return effects

    def reset(self, device: int) -> None:
        """Forgets all memory of a device, whoever has its handles. MPS_SERVER_NOT_READY while a context is on it."""
        if self.running(device):
            raise CudaError(MPS_SERVER_NOT_READY)
        self._forgotten |= self._seen[device]
        self._seen[device] = set()

    def device(self, index: int) -> Device:
        """The device of that index; CUDA_ERROR_INVALID_DEVICE if there is none."""
        if not 0 <= index < len(self.devices):
            raise CudaError(INVALID_DEVICE)
        return self.devices[index]

    def used_bytes(self, device: int) -> int:
        """What all processes together hold on a device."""
        return self._ledger.used_bytes(device)

    def running(self, device: int) -> list[tuple[Process, int, Group]]:
        """Each process with a channel on the device, the bytes it holds there, and its group."""
        self.device(device)
        groups = {c.process.number: c.group for c in self._channels.values() if c.device == device}
        return [
            (self._processes[number], self._ledger.held_bytes(number, device), group)
            for number, group in groups.items()
        ]

    def _status(self, process: Process, detail: str) -> int:
        """0 if a sink is to take an access that faulted like this, or why not."""
        if not process.doomed and self.mode_of(process) != "absorb":
            return STATE
        place = PLACES.get(detail)
        wanted = process.doomed or (place in self.policy.places and self.policy.units & UNIT_SM)
        if place is None or not wanted:
            return NOT_SUPPORTED
        return LIMIT if len(process.sinks) >= self.policy.sinks_max else 0

    def _close_all(self, process: Process) -> list[Effect]:
        effects: list[Effect] = []
        for channel in [c for c in self._channels.values() if c.process is process]:
            effects += self.close(process, channel.number)
        return effects

    def _owned(self, owner: Process, number: int) -> Group:
        group = self._groups.get(number)
        if group is None or group.owner is not owner:
            raise CudaError(INVALID_VALUE)
        return group

    def _owned_channel(self, process: Process, number: int) -> Channel:
        channel = self._channels.get(number)
        if channel is None or channel.process is not process:
            raise CudaError(INVALID_VALUE)
        return channel

    def _members(self, group: Group, devices: set[int] | None = None) -> list[Process]:
        """The processes with a channel of the group, on these devices if any are named."""
        found = {
            c.process.number: c.process
            for c in self._channels.values()
            if c.group is group and (devices is None or c.device in devices)
        }
        return list(found.values())


def _sink(process: Process, va: int, grow_after: tuple[int, int]) -> tuple[tuple[int, int], bool]:
    """The sink that covers an address, and whether it is new."""
    for size in SINK_BYTES:
        if (found := (va // size * size, size)) in process.sinks:
            return found, False
    size = SINK_BYTES[sum(len(process.sinks) >= after for after in grow_after)]
    return (va // size * size, size), True
