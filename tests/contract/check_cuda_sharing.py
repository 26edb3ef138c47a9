# SPDX-License-Identifier: Apache-2.0
"""Whether a handle of device memory works in another process, for any libcuda.so.1.

    python check_cuda_sharing.py [LIBRARY]      prints one line a check: name, a tab, "ok" or what was wrong

The checking process only holds descriptors, as the daemon does: it never uses the driver. The
processes that do are its children, each with one granule of memory, and obey packets:

    create          makes memory; the reply carries its descriptor
    attach          imports the descriptor that comes along
    read            the reply is the first 16 bytes
    write TEXT      writes at the start
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Final, Self

from mpsafe import cuda

__all__ = ["CHECKS", "Holder", "check_cuda_sharing"]


def hold(driver: cuda.Driver, sock: socket.socket) -> None:
    """What a child does until the other end closes."""
    driver.init()
    device = driver.devices()[0]
    granule = cuda.granularity(driver, device)
    with (
        ExitStack() as stack,
        cuda.Context(driver, device) as context,
        cuda.Reservation(context, granule) as place,
    ):
        while True:
            packet, fds, _, _ = socket.recv_fds(sock, 64, 1)
            command, _, text = packet.partition(b" ")
            if not packet:
                return
            reply, handed = b"ok", list[int]()
            if command in (b"create", b"attach"):
                if command == b"create":
                    memory = stack.enter_context(cuda.Memory.create(driver, device, granule))
                    handed = [memory.export()]
                else:
                    memory = stack.enter_context(cuda.Memory.import_fd(driver, fds[0], granule))
                place.map(memory)
                place.set_access("readwrite")
            elif command == b"read":
                reply = place.read(16)
            else:
                place.write(text.ljust(16))
            socket.send_fds(sock, [reply], handed)
            for fd in [*fds, *handed]:
                os.close(fd)


class Holder:
    """A child that holds device memory, seen from outside."""

    def __init__(self, library: str, environment: Mapping[str, str] | None) -> None:
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.settimeout(120)
        with theirs:
            number = str(theirs.fileno())
            command = [sys.executable, __file__, library, number]
            self._process = subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._sock.close()
        self._process.wait(timeout=120)

    def ask(self, request: str, *fds: int) -> tuple[bytes, list[int]]:
        """One command and its reply; an empty reply means that the child has failed."""
        socket.send_fds(self._sock, [request.encode()], fds)
        reply, got, _, _ = socket.recv_fds(self._sock, 64, 1)
        assert reply, f"the child ended at {request!r}"
        return reply, list(got)

    def create(self, text: str) -> int:
        """Memory that begins with the text; the descriptor is the caller's."""
        (fd,) = self.ask("create")[1]
        self.ask(f"write {text}")
        return fd

    def read(self) -> str:
        """The text that its memory begins with."""
        return self.ask("read")[0].decode().rstrip()

    def kill(self) -> None:
        """Ends it without a chance to clean up, and waits until it is gone."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(timeout=120)


Start = Callable[[], Holder]


def a_handle_aliases_memory_in_another_process(start: Start) -> None:
    with start() as creator, start() as other:
        fd = creator.create("by the creator")
        other.ask("attach", fd)
        os.close(fd)
        assert other.read() == "by the creator"
        other.ask("write by the other")
        assert creator.read() == "by the other"


def memory_outlives_its_creator(start: Start) -> None:
    with start() as other:
        with start() as creator:
            fd = creator.create("a dead one's")
            other.ask("attach", fd)
            os.close(fd)
            creator.kill()
        assert other.read() == "a dead one's"
        other.ask("write goes on")
        assert other.read() == "goes on"


def a_descriptor_alone_keeps_memory(start: Start) -> None:
    with start() as creator:
        fd = creator.create("nobody's")
        creator.kill()
    with start() as heir:
        heir.ask("attach", fd)
        os.close(fd)
        assert heir.read() == "nobody's"


CHECKS: Final[tuple[Callable[[Start], None], ...]] = (
    a_handle_aliases_memory_in_another_process,
    memory_outlives_its_creator,
    a_descriptor_alone_keeps_memory,
)


def check_cuda_sharing(library: str, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Runs all checks: by name "ok", or what was wrong."""
    found: dict[str, str] = {}
    for check in CHECKS:
        try:
            check(lambda: Holder(library, environment))
        except (AssertionError, OSError) as error:
            found[check.__name__] = repr(error)
        else:
            found[check.__name__] = "ok"
    return found


def main() -> int:
    """As the module says; 1 if anything is wrong. With a socket's number behind the library: a child."""
    library = sys.argv[1] if len(sys.argv) > 1 else cuda.load().path
    if len(sys.argv) > 2:
        with socket.socket(fileno=int(sys.argv[2])) as sock:
            hold(cuda.load(library), sock)
        return 0
    found = check_cuda_sharing(library)
    for name, outcome in found.items():
        sys.stdout.write(f"{name}\t{outcome}\n")
    return 0 if set(found.values()) == {"ok"} else 1


if __name__ == "__main__":
    raise SystemExit(main())
