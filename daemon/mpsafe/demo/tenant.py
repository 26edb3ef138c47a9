# SPDX-License-Identifier: Apache-2.0
"""A tenant of the demo: a matrix-vector service on the device, with two bugs that a request can hit.

Requests are packets on a Unix socket (SOCK_SEQPACKET): SIZE floats to be multiplied, or the name of
a bug. The answer is SIZE floats, or "error <what CUDA said>". A tenant that clings catches its CUDA
error and stays, its context open, as servers do that wrap each request in a try: MPS then waits
for it before it serves anybody again. The others end, and are started again by their supervisor.
"""

import argparse
import array
import contextlib
import random
import socket
import sys
from pathlib import Path
from typing import Final, NoReturn

from mpsafe import cuda
from mpsafe.client import Client
from mpsafe.errors import BadCudaCall, MpsafeError

__all__ = ["BUGS", "SIZE", "main", "matrix"]

SIZE: Final = 64
FLOAT_BYTES: Final = 4
PACKET_MAX: Final = 4096
BUGS: Final = {"memory": b"bug: write far out of range", "sm": b"bug: trap"}
WILD_ADDRESS: Final = 0x5000_0000_0000


def matrix(name: str) -> list[list[float]]:
    """The tenant's weights: small integers, so that every order of adding gives the same sum."""
    numbers = random.Random(name)
    return [[float(numbers.randint(-4, 4)) for _ in range(SIZE)] for _ in range(SIZE)]


class Service:
    """The weights on the device, and the kernels."""

    def __init__(self, context: cuda.Context, module: cuda.Module, name: str) -> None:
        self._context = context
        self._module = module
        self._weights = cuda.Buffer(context, SIZE * SIZE * FLOAT_BYTES)
        self._weights.write(array.array("f", [x for row in matrix(name) for x in row]).tobytes())
        self._input = cuda.Buffer(context, SIZE * FLOAT_BYTES)
        self._output = cuda.Buffer(context, SIZE * FLOAT_BYTES)

    def answer(self, request: bytes) -> bytes:
        """One answer. Raises BadCudaCall."""
        if request == BUGS["memory"]:
            self._launch("write_address", cuda.U64(WILD_ADDRESS), cuda.U32(1))
            return b"ok"
        if request == BUGS["sm"]:
            self._launch("trap")
            return b"ok"
        if len(request) != SIZE * FLOAT_BYTES:
            return b"error the request has another size"
        self._input.write(request)
        where = (cuda.U64(buffer.address) for buffer in (self._output, self._weights, self._input))
        self._launch("matvec", *where, cuda.U32(SIZE), cuda.U32(SIZE), threads=SIZE)
        return self._output.read()

    def _launch(self, name: str, *arguments: cuda.Argument, threads: int = 1) -> None:
        self._module.kernel(name).launch(*arguments, threads=threads)
        self._context.synchronize()


def serve(listener: socket.socket, service: Service, *, clings: bool) -> NoReturn:
    """Answers until CUDA fails, or for ever if it clings. Raises BadCudaCall."""
    while True:
        connection, _ = listener.accept()
        with connection:
            while request := _receive(connection):
                try:
                    reply = service.answer(request)
                except BadCudaCall as error:
                    reply = f"error {error}".encode()
                    if not clings:
                        _send(connection, reply)
                        raise
                _send(connection, reply)


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(PACKET_MAX)
    except OSError:
        return b""


def _send(connection: socket.socket, reply: bytes) -> None:
    with contextlib.suppress(OSError):
        connection.send(reply)


def main() -> int:
    """Runs one tenant; status 1 where CUDA fails, with CUDA's words on standard error."""
    parser = argparse.ArgumentParser(prog="mpsafe.demo.tenant")
    parser.add_argument("name")
    parser.add_argument("--listen", type=Path, required=True)
    parser.add_argument("--mpsafe", help="mpsafed's socket, to attach to as this tenant")
    parser.add_argument("--clings", action="store_true")
    options = parser.parse_args()
    try:
        with contextlib.ExitStack() as stack:
            if options.mpsafe:
                client = stack.enter_context(Client(options.mpsafe))
                stack.enter_context(client.attach(options.name))
            driver = cuda.load()
            driver.init()
            context = stack.enter_context(cuda.Context(driver, driver.devices()[0]))
            module = stack.enter_context(cuda.Module(context, cuda.kernels()))
            service = Service(context, module, options.name)
            options.listen.unlink(missing_ok=True)
            listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            listener.bind(str(options.listen))
            listener.listen()
            serve(listener, service, clings=options.clings)
    except MpsafeError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
