# SPDX-License-Identifier: Apache-2.0
"""An MPS server of the software GPU: one process, one channel group, many clients.

States as NVIDIA documents them ("Error Containment"): INITIALIZING, ACTIVE, and FAULT from a client's
fatal fault until all clients that it reached have left; the others work on meanwhile, and nobody new
is let in. It talks to its control daemon:

    from control  "<n> status" | "<n> clients" | "<n> devices" | "<n> terminate <pid>" | "shutdown"
    to control    "ready", "arrived <pid>", "idle" when the last client has left, and "<n> <reply>"
"""

import contextlib
import os
import socket
from typing import Final

from mpsafe.soft.mps_log import MpsLog
from mpsafe.soft.parts import CudaError
from mpsafe.soft.pipe_directory import pipe_directory
from mpsafe.soft.rm import Rm
from mpsafe.soft.settings import MIB_BYTES, Settings
from mpsafe.soft.sockets import Loop, credentials, post

__all__ = ["run"]

CLIENT_LIMIT: Final = 60
INVALID_CONTEXT, NOT_READY, MAX_CLIENTS = 201, 807, 808


def client_limit() -> int:
    """How many clients a server takes: 60, as CUDA 13.1 and newer; MPSAFE_SOFT_CLIENT_LIMIT lowers it for tests."""
    return min(CLIENT_LIMIT, int(os.environ.get("MPSAFE_SOFT_CLIENT_LIMIT", CLIENT_LIMIT)))


def _label(pid: int) -> str:
    """How the log names a client."""
    return f"{{PID: {pid}, Context ID: 0}}"


class Client:
    """One connected process. `terminating`: the request that ends it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.pid = credentials(sock).pid
        self.label = _label(self.pid)
        self.faulted = False
        self.terminating = ""


class Server:
    """Accepts clients, follows their faults, ends them on demand."""

    def __init__(
        self, control: socket.socket, listener: socket.socket, *, rm: Rm, log: MpsLog, settings: Settings
    ) -> None:
        self._control = control
        self._rm = rm
        self._log = log
        self._settings = settings
        self._limit = client_limit()
        self._state = "INITIALIZING"
        self._faulted_devices: list[int] = []
        self._clients: dict[socket.socket, Client] = {}
        self._running = True
        self._group = ""
        self._loop = Loop()
        self._loop.accept(listener, self._accept)
        self._loop.hear(control, self._obey)
        self._loop.hear(rm.events, self._follow)

    def run(self) -> None:
        """Serves until the control daemon says so, or is gone, or the software kernel is."""
        for device in range(self._rm.devices):
            self._say_context("Creating", device)
        self._group = self._rm.create_group()
        self._say(f"Active Threads Percentage set to {self._settings.percentage_text()}")
        for device, mib in sorted(self._settings.pinned_mib.items()):
            self._say(f"Device pinned memory limit for device {device} set to {mib * MIB_BYTES:#x} bytes")
        self._say(f"Server Priority set to {self._settings.priority}")
        self._say("Server has started")
        self._state = "ACTIVE"
        self._tell("ready")
        while self._running:
            self._loop.turn(None)
        self._say("Exiting")

    def _say(self, text: str) -> None:
        self._log.write("Server", text)

    def _say_context(self, what: str, device: int) -> None:
        name = self._rm.describe(device)["name"]
        self._say(f"{what} server context on device {device} ({name})")

    def _accept(self, sock: socket.socket) -> None:
        client = Client(sock)
        self._say(f"Received new client request for {client.label}")
        self._tell(f"arrived {client.pid}")
        if self._state != "ACTIVE" or any(c.terminating for c in self._clients.values()):
            self._refuse(client, NOT_READY)
        elif len(self._clients) >= self._limit:
            self._say(f"Failed to accept new client. Maximum number of clients ({self._limit}) reached.")
            self._refuse(client, MAX_CLIENTS)
        else:
            self._clients[sock] = client
            self._loop.hear(sock, lambda packet: self._hear(client, packet))
            post(sock, f"ok {self._group} {os.getpid()}".encode())
            self._say(f"Client {client.label} connected")
            self._say(f"Creating worker thread for client {client.label}")

    def _refuse(self, client: Client, result: int) -> None:
        post(client.sock, f"error {result}".encode())
        client.sock.close()
        self._tell_if_idle()

    def _tell_if_idle(self) -> None:
        if not self._clients:
            self._tell("idle")

    def _hear(self, client: Client, packet: bytes) -> None:
        if packet == b"terminated" and client.terminating:
            self._end_termination(client, self._terminate(client))
        elif not packet:
            self._loop.forget(client.sock)
            del self._clients[client.sock]
            self._say(f"Client process {client.pid} disconnected")
            self._end_termination(client, INVALID_CONTEXT)
            self._recover()
            self._tell_if_idle()

    def _end_termination(self, client: Client, result: int) -> None:
        if client.terminating:
            self._say("Client termination succeeded." if result == 0 else f"Failed to terminate client {client.label}.")
            self._reply(client.terminating, str(result))
            client.terminating = ""

    def _terminate(self, client: Client) -> int:
        """0 when the client's work has stopped, else a CUresult."""
        try:
            self._rm.terminate(self._group, client.pid)
        except CudaError as error:
            return error.result
        return 0

    def _follow(self, packet: bytes) -> None:
        match packet.decode().split(" "):
            case [""]:
                self._running = False
            case ["dead", group, fault_class, devices, victims] if group == self._group:
                reached = {int(victim) for victim in victims.split(",")}
                self._fault(fault_class, devices.split(","), reached)
            case ["gone", group, _] if group == self._group:
                self._recover()
            case _:
                pass

    def _fault(self, fault_class: str, devices: list[str], reached: set[int]) -> None:
        """The client that meets a memory fault first is any of them; here it is the oldest, whoever caused it."""
        self._state = "FAULT"
        victims = [client for client in self._clients.values() if client.pid in reached]
        if fault_class == "mmu" and victims:
            self._say(f"Client {{PID: {victims[0].pid}, Context: 1}} encountered a fatal GPU error.")
        self._say("Server is handling a fatal GPU error.")
        for client in victims:
            client.faulted = True
            for device in devices:
                self._say(f"Client {client.label} on device {device} to be torn down")
        for client in victims:
            self._say(f"All clients belonging to error trigging process {client.pid} will be torn down")
            self._say(f"Client {client.label} on the error-trigging process {client.pid} to be torn down")
        lists = (
            ("devices will be reset", devices),
            ("client process have a sticky error set", [c.pid for c in victims]),
        )
        for what, names in lists:
            self._say(f"The following {what}:")
            for name in names:
                self._say(str(name))
        self._faulted_devices = sorted({*self._faulted_devices, *map(int, devices)})

    def _recover(self) -> None:
        """Back to ACTIVE once all that the fault has reached are gone, from here and from the devices."""
        if self._state != "FAULT" or any(client.faulted for client in self._clients.values()):
            return
        try:
            self._rm.recreate(self._group)
        except CudaError:
            return
        for what in ("Destroy", "Creating"):
            for device in self._faulted_devices:
                self._say_context(what, device)
        self._faulted_devices = []
        self._state = "ACTIVE"

    def _obey(self, packet: bytes) -> None:
        match packet.decode().split(" "):
            case [request, "status"]:
                self._reply(request, self._state)
            case [request, "clients"]:
                self._reply(request, "\n".join(str(client.pid) for client in self._clients.values()))
            case [request, "devices"]:
                self._reply(request, "\n".join(self._devices()))
            case [request, "terminate", pid]:
                self._begin_termination(request, int(pid))
            case _:
                self._running = False

    def _devices(self) -> list[str]:
        """For each client on each device: the device's index and UUID, and the client's pid."""
        return [
            f"{device} {self._rm.describe(device)['uuid']} {pid}"
            for device in range(self._rm.devices)
            for pid in self._rm.running(self._group, device)
        ]

    def _begin_termination(self, request: str, pid: int) -> None:
        """A client answers when its own threads have stopped: one that is itself stopped, or has faulted, does not."""
        client = next((c for c in self._clients.values() if c.pid == pid), None)
        if client is not None and client.faulted and not client.terminating:
            client.terminating = request
        elif client is None or client.terminating or not post(client.sock, b"terminate"):
            self._reply(request, str(INVALID_CONTEXT))
        else:
            client.terminating = request

    def _reply(self, request: str, text: str) -> None:
        self._tell(f"{request} {text}")

    def _tell(self, text: str) -> None:
        """To the control daemon, which must not miss a word; its end is noticed elsewhere."""
        with contextlib.suppress(OSError):
            self._control.send(text.encode())


def run(control: socket.socket, listener: socket.socket, log: MpsLog, settings: Settings) -> int:
    """Runs one server in this process; the exit status."""
    log.write("Other", "Startup")
    log.write("Other", f"Connecting to control daemon on socket: {pipe_directory() / 'control'}")
    log.write("Other", "Initializing server process")
    try:
        rm = Rm()
    except CudaError:
        text = "no CUDA-capable device is detected"
        log.write("Other", f"Driver initialization failed with: {text}")
        log.write("Other", f"Failed to start : {text}")
        return 1
    Server(control, listener, rm=rm, log=log, settings=settings).run()
    return 0
