# SPDX-License-Identifier: Apache-2.0
"""The software kernel: the one process that stands for nvidia.ko, nvidia-uvm.ko and the silicon.

Speaks the language of ffi/soft/wire.h on DIR/rm, writes the kernel log to DIR/kmsg and stands for
/dev/mpsafe on DIR/mpsafe.

    python -m mpsafe.soft.kernel --dir DIR [--devices N] [--memory BYTES] [--heartbeat-ms MS] [--records N]
                              [--inject]

Its MPS servers ask and hear more than wire.h says, which is for the libraries:

    recreate <group>    the server makes its contexts anew on the devices where the group died; error
                        807 while a client still has a channel there
    dead <group> <class> <devices> <pids>
                        heard after `watch`: the reach of the fault, numbers between commas
"""

import argparse
import errno
import os
import socket
import sys
import time
import uuid
from pathlib import Path
from typing import Final

from mpsafe.soft import lifeline
from mpsafe.soft.kernel_log import MMU_FAULTS, SM_FAULTS, TRAP, KernelLog
from mpsafe.soft.machine import Machine
from mpsafe.soft.module import Module
from mpsafe.soft.owner import OwnerPort
from mpsafe.soft.parts import Absorbed, CudaError, Device, Effect, Fatal, Gone, Process
from mpsafe.soft.peer import Peer, identity
from mpsafe.soft.records import ACCESSES, RecordRing
from mpsafe.soft.sockets import Loop, allow_many, listen, post

__all__ = ["main"]

DRIVER_VERSION: Final = "580.00-software"
CUDA_VERSION: Final = 13000
PACKET_MAX: Final = 4096
REFUSED: Final = "error 1"


def software_devices(count: int, memory_bytes: int) -> list[Device]:
    """Devices with stable UUIDs, so that a restarted software kernel has the same ones."""
    namespace = uuid.uuid5(uuid.NAMESPACE_DNS, "software-gpu.mpsafe.io")
    return [
        Device(
            index=index,
            uuid=f"GPU-{uuid.uuid5(namespace, str(index))}",
            pci=f"0000:{index + 1:02x}:00.0",
            name="mpsafe software GPU (no silicon)",
            total_bytes=memory_bytes,
            sms=8,
        )
        for index in range(count)
    ]


class Kernel:
    """Serves one directory until its host is gone."""

    def __init__(
        self, directory: Path, devices: list[Device], *, heartbeat_s: float, records: int, inject: bool
    ) -> None:
        self._machine = Machine(devices)
        self._log = KernelLog(directory / "kmsg")
        self._ring = RecordRing(records)
        self._peers: dict[socket.socket, Peer] = {}
        self._running = True
        self._loop = Loop()
        self._loop.accept(listen(directory / "rm", 0o666), self._accept)
        self._module = Module(
            self._machine,
            self._ring,
            driver=DRIVER_VERSION,
            limit_s=heartbeat_s,
            inject=self._inject if inject else None,
        )
        self._owner = OwnerPort(self._loop, directory / "mpsafe", self._ring, self._module)
        lifeline.follow(self._loop, directory, self._stop)

    def run(self) -> None:
        """Serves."""
        while self._running:
            self._loop.turn(self._module.remaining_s())
            self._module.check()
            self._owner.flush()

    def _stop(self) -> None:
        self._running = False

    def _accept(self, sock: socket.socket) -> None:
        peer = self._peers[sock] = Peer(sock)
        self._loop.hear(sock, lambda packet: self._serve(peer, packet))

    def _serve(self, peer: Peer, packet: bytes) -> None:
        if not packet:
            self._drop(peer)
            return
        fds: list[int] = []
        try:
            words = packet.decode("ascii").split(" ") if len(packet) <= PACKET_MAX else []
            reply = self._answer(peer, words, fds)
        except CudaError as error:
            reply = f"error {error.result}"
        except (ValueError, OSError):  # no number, no text, or a process that has ended meanwhile
            reply = REFUSED
        if not post(peer.sock, reply.encode(), fds):
            self._drop(peer)

    def _drop(self, peer: Peer) -> None:
        if self._peers.pop(peer.sock, None) is None:
            return
        self._loop.forget(peer.sock)
        peer.close()
        if peer.process is not None:
            self._apply(self._machine.disconnect(peer.process))
            self._module.gone(peer.process)
            self._owner.flush()
            self._show_all()

    def _answer(self, peer: Peer, words: list[str], fds: list[int]) -> str:
        machine = self._machine
        match words:
            case ["hello", ("cuda" | "nvml" | "mps") as role] if peer.process is None:
                start, comm = identity(peer.pid)
                peer.process = machine.connect(pid=peer.pid, uid=peer.uid, start_ticks=start, comm=comm, role=role)
                if role != "nvml":
                    fds.append(peer.make_notifier())
                return f"ok devices={len(machine.devices)} driver={DRIVER_VERSION} cuda={CUDA_VERSION}"
            case ["device", index]:
                device, used = machine.device(int(index)), machine.used_bytes(int(index))
                name = device.name.replace(" ", "_")
                return (
                    f"ok uuid={device.uuid} pci={device.pci} total={device.total_bytes} used={used} "
                    f"sms={device.sms} name={name}"
                )
            case ["open", index, group]:
                channel = machine.open(peer.known(), int(index), int(group))
                return f"ok {channel.number} {channel.group.number}"
            case ["close", channel]:
                self._apply(machine.close(peer.known(), int(channel)))
            case ["alloc", index, number, size]:
                machine.alloc(peer.known(), int(index), int(number), int(size))
            case ["free", index, number]:
                machine.free(peer.known(), int(index), int(number))
            case ["fault", channel, fault_class, detail, va, access]:
                return self._fault(peer, int(channel), fault_class, detail, va, access.removeprefix("access="))
            case ["processes", index]:
                return self._processes(int(index))
            case ["reset", index] if peer.uid == os.geteuid():
                machine.reset(int(index))
            case ["watch"]:
                peer.watching = True
            case ["group"] if peer.known().role == "mps":
                return f"ok {machine.create_group(peer.known(), shared=True).number}"
            case ["recreate", group] if peer.known().role == "mps":
                machine.recreate(peer.known(), int(group))
            case ["terminate", group, pid] if peer.known().role == "mps":
                self._apply(machine.terminate(peer.known(), int(group), int(pid)))
                self._show_all()
            case _:
                return REFUSED
        return "ok"

    def _processes(self, device: int) -> str:
        """As many as fit into one packet."""
        found = self._machine.running(device)
        words = [f"{process.pid}:{held}:{group.number}:{int(group.shared)}" for process, held, group in found]
        while len(reply := " ".join(["ok", str(len(words)), *words])) > PACKET_MAX:
            words.pop()
        return reply

    def _fault(self, peer: Peer, channel: int, fault_class: str, detail: str, va: str, access: str) -> str:
        details = {"mmu": MMU_FAULTS, "sm": {**SM_FAULTS, TRAP: TRAP}}.get(fault_class, {})
        address = int(va.removeprefix("va="), 16)
        if detail not in details or access not in ACCESSES or not 0 <= address < 1 << 64:
            return REFUSED
        effect = self._faulted(peer.known(), channel, fault_class, detail, address, access)
        if isinstance(effect, Absorbed):
            peer.show()
            return "ok absorbed"
        return f"ok fatal {peer.known().error}"

    def _faulted(
        self, process: Process, channel: int, fault_class: str, detail: str, address: int, access: str
    ) -> Effect:
        began = time.monotonic_ns()
        effect = self._machine.fault(process, channel, fault_class, detail, address, access)
        if isinstance(effect, Absorbed):
            uuid_of = _uuid_bytes(self._machine.device(effect.device))
            self._module.absorbed(effect, uuid_of, time.monotonic_ns() - began)
            self._owner.flush()
        else:
            self._apply([effect])
        return effect

    def _inject(self, process: Process, detail: str, address: int, access: str) -> int:
        """A fault on the process's oldest channel; its status. EINVAL where it has none."""
        channel = self._machine.channel_of(process)
        if channel is None:
            raise OSError(errno.EINVAL, "the client has no context")
        effect = self._faulted(process, channel, "mmu", detail, address, access)
        self._show_all()
        return effect.status if isinstance(effect, Fatal) else 0

    def _apply(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Fatal(victims=()) | Absorbed():
                    pass
                case Fatal():
                    self._fatal(effect)
                case Gone():
                    self._tell(f"gone {effect.group} {effect.process.pid}", role="mps")

    def _fatal(self, fault: Fatal) -> None:
        device = self._machine.device(fault.device)
        for xid in self._log.fault(fault, device.pci):
            self._tell(f"xid {fault.device} {xid}")
        self._module.passed(fault, _uuid_bytes(device))
        self._owner.flush()
        reach = ",".join(str(index) for index in fault.devices)
        victims = ",".join(str(victim.pid) for victim in fault.victims)
        self._tell(f"dead {fault.group} {fault.fault_class} {reach} {victims}", role="mps")
        self._show_all()

    def _show_all(self) -> None:
        for peer in self._peers.values():
            peer.show()

    def _tell(self, event: str, *, role: str = "") -> None:
        for peer in list(self._peers.values()):
            if peer.watching and role in ("", peer.role) and not post(peer.sock, event.encode()):
                self._drop(peer)


def _uuid_bytes(device: Device) -> bytes:
    return uuid.UUID(device.uuid.removeprefix("GPU-")).bytes


def main() -> int:
    """Runs the software kernel until its host is gone; "ready" on stdout says that it serves."""
    parser = argparse.ArgumentParser(prog="mpsafe.soft.kernel")
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--memory", type=int, default=16 << 30, help="bytes a device")
    parser.add_argument(
        "--heartbeat-ms", type=int, default=5000, help="the owner's heartbeat is due then at the latest"
    )
    parser.add_argument("--records", type=int, default=4096, help="how many records are kept")
    parser.add_argument("--inject", action="store_true", help="let the owner inject faults")
    options = parser.parse_args()
    options.dir.mkdir(parents=True, exist_ok=True)
    allow_many()
    devices = software_devices(options.devices, options.memory)
    kernel = Kernel(
        options.dir,
        devices,
        heartbeat_s=options.heartbeat_ms / 1000,
        records=options.records,
        inject=options.inject,
    )
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    kernel.run()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
