# SPDX-License-Identifier: Apache-2.0
"""In the guest: a client of the stand-alone module, driver_patches/standalone/mpsafe_client.h.

client.py serve NAME            holds one open /dev/mpsafe-client and does what it is asked
client.py ask NAME ready        "ready", once it serves
client.py ask NAME fault VA     one fault of it: "absorbed", or "passed"
client.py ask NAME range        a new range: "granted", or "refused"
client.py storm RATE SECONDS    faults at a steady rate, all at one address: how many were made
"""

import fcntl
import os
import socket
import struct
import sys
from contextlib import suppress

MAGIC = 0xE8
STORM = struct.Struct("=QQIIQQQ")
READ, WRITE = 2, 1


def _ioc(direction: int, number: int, size: int) -> int:
    """The number of a request, as linux/ioctl.h makes it."""
    return direction << 30 | size << 16 | MAGIC << 8 | number


RANGE, FAULTS = _ioc(0, 1, 0), _ioc(READ | WRITE, 2, STORM.size)


def storm(client: int, va: int, *, per_second: int, seconds: int) -> tuple[int, int]:
    """The faults that were made, and those of them that were absorbed."""
    *_, made, absorbed, _ = STORM.unpack(fcntl.ioctl(client, FAULTS, STORM.pack(va, 0, per_second, seconds, 0, 0, 0)))
    return made, absorbed


def opened() -> int:
    """A client."""
    return os.open("/dev/mpsafe-client", os.O_RDWR | os.O_CLOEXEC)


def answer(client: int, command: str, *arguments: str) -> str:
    """What becomes of one command."""
    match command:
        case "ready":
            return command
        case "fault":
            made, absorbed = storm(client, int(arguments[0], 0), per_second=1, seconds=1)
            return "absorbed" if made == absorbed == 1 else "passed"
        case "range":
            with suppress(PermissionError):
                fcntl.ioctl(client, RANGE)
                return "granted"
            return "refused"
        case _:
            return f"not a command: {command}"


def serve(name: str) -> None:
    """Until it is killed."""
    client = opened()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(f"\0{name}")
        listener.listen()
        while True:
            peer, _ = listener.accept()
            with peer:
                peer.send(answer(client, *peer.recv(4096).decode().split()).encode())


def ask(name: str, *command: str) -> str:
    """The client's answer; "gone" from one that does not serve, but "ready" waits for it."""
    while True:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer, suppress(ConnectionError):
            peer.connect(f"\0{name}")
            peer.send(" ".join(command).encode())
            return peer.recv(4096).decode() or "gone"
        if command != ("ready",):
            return "gone"


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", name]:
            serve(name)
        case ["storm", rate, seconds]:
            print(storm(opened(), 0x1000, per_second=int(rate), seconds=int(seconds))[0])
        case ["ask", name, *command]:
            print(ask(name, *command))
        case _:
            raise SystemExit(__doc__)
