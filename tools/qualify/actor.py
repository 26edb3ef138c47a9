# SPDX-License-Identifier: Apache-2.0
"""A process that does CUDA work, and faults, as it is told. Started by stage.py.

The first argument is the number of a SOCK_SEQPACKET socket. A request is one JSON object with the key
"do", with a descriptor beside it for `import`; the reply is one with "result", the CUresult, and
"call", the call that failed, and a descriptor beside it for `create`. Times are CLOCK_MONOTONIC.
"""

import array
import fcntl
import json
import mmap
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from mpsafe import cuda
from mpsafe.cuda._cuda import ffi
from mpsafe.errors import BadCudaCall

__all__ = ["FAULTS", "main"]

PACKET_MAX: Final = 65536
FAULTS: Final = ("trap", "misaligned", "wild_read", "wild_write", "read_only_write", "use_after_unmap")
_WILD: Final = 0x300000000000  # inside the 47 bits of a GPU address, and nothing is ever mapped there
_WORDS: Final = 1024
_BUSY_BYTES: Final = 64 << 20

_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW

T = TypeVar("T")
Json = dict[str, Any]


class Actor:
    """One CUDA process's state. Each public method is one request; `main` names them."""

    def __init__(self) -> None:
        self._driver = cuda.load()
        self._device: cuda.Device | None = None
        self._context: cuda.Context | None = None
        self._module: cuda.Module | None = None
        self._words: cuda.Buffer | None = None
        self._shared: cuda.Reservation | None = None
        self._held: list[cuda.Memory | cuda.Reservation] = []
        self.fd_in = -1
        self.fd_out = -1

    def describe(self) -> Json:
        """The devices and the CUDA version; makes no context."""
        self._driver.init()
        devices = [
            {"uuid": device.uuid, "name": device.name, "capability": list(device.compute_capability)}
            for device in self._driver.devices()
        ]
        return {"devices": devices, "cuda": self._driver.version()}

    def open(self, uuid: str) -> Json:
        """A context on the device, the kernels, a small buffer."""
        began_ns = time.monotonic_ns()
        self._driver.init()
        init_ns = time.monotonic_ns()
        self._device = self._driver.device(uuid)
        self._context = cuda.Context(self._driver, self._device)
        context_ns = time.monotonic_ns()
        self._module = cuda.Module(self._context, cuda.kernels())
        self._words = cuda.Buffer(self._context, 4 * _WORDS)
        steps = {"init_ms": init_ns - began_ns, "context_ms": context_ns - init_ns}
        steps["kernels_ms"] = time.monotonic_ns() - context_ns
        reply: Json = {name: round(ns / 1e6, 3) for name, ns in steps.items()}
        return reply | {"mps": self._driver.attribute("MPS_ENABLED", self._device.ordinal)}

    def free(self) -> Json:
        """Device memory that nobody has."""
        return {"bytes": _made(self._context).free_bytes()}

    def work(self) -> Json:
        """A kernel over the small buffer, and whether its result is right."""
        words = _made(self._words)
        value = time.monotonic_ns() & 0xFFFFFFFF
        self._launch("fill", cuda.U64(words.address), cuda.U64(_WORDS), cuda.U32(value), threads=_WORDS)
        _made(self._context).synchronize()
        return {"correct": words.read() == array.array("I", [value] * _WORDS).tobytes()}

    def latency(self, seconds: float) -> Json:
        """How long a small kernel takes from its launch until it is known to be done, in microseconds."""
        words = _made(self._words)
        launch = self._prepare("fill", cuda.U64(words.address), cuda.U64(_WORDS), cuda.U32(1), threads=_WORDS)
        took: list[float] = []
        ends = time.monotonic() + seconds
        while len(took) < 2 or time.monotonic() < ends:
            began_ns = time.monotonic_ns()
            launch()
            _made(self._context).synchronize()
            took.append((time.monotonic_ns() - began_ns) / 1e3)
        points = statistics.quantiles(took, n=100, method="inclusive")
        return {"looks": len(took), "p50_us": round(points[49], 1), "p99_us": round(points[98], 1)}

    def busy(self, seconds: float) -> Json:
        """Larger kernels, one after the other, for that long; how many."""
        with cuda.Buffer(_made(self._context), _BUSY_BYTES) as memory:
            words = _BUSY_BYTES // 4
            launch = self._prepare("fill", cuda.U64(memory.address), cuda.U64(words), cuda.U32(1), threads=words)
            ends, count = time.monotonic() + seconds, 0
            while time.monotonic() < ends:
                launch()
                _made(self._context).synchronize()
                count += 1
        return {"kernels": count}

    def copies(self, nbytes: int, count: int) -> Json:
        """What host memory is copied at, in GB/s: the median of single copies.

        Page-locked by the driver, in both directions; and a map of a sealed memfd, which is what processes share, as it
        is (`pageable`) and registered for reading (`sealed`).
        """
        context = _made(self._context)
        with (
            cuda.HostBuffer(context, nbytes) as host,
            cuda.Buffer(context, nbytes) as device,
            _sealed(nbytes) as address,
        ):
            host.view()[:] = bytes(nbytes)

            def measured(copy: Callable[[], None]) -> float:
                took: list[float] = []
                for _ in range(count):
                    began_ns = time.monotonic_ns()
                    copy()
                    context.synchronize()
                    took.append((time.monotonic_ns() - began_ns) / 1e9)
                return round(nbytes / statistics.median(took) / 1e9, 2)

            def from_map() -> None:
                source = ffi.cast("void *", address)
                self._driver.call("cuMemcpyHtoDAsync_v2", device.address, source, nbytes, ffi.NULL)

            found = {
                "to_device": measured(lambda: device.write_async(host)),
                "to_host": measured(lambda: device.read_async(host)),
                "pageable": measured(from_map),
            }
            with cuda.Registration(self._driver, address, nbytes, read_only=True):
                found["sealed"] = measured(from_map)
        return found

    def fault(self, kind: str) -> Json:
        """Launches a kernel that faults and waits for it. `result` is what that wait returned."""
        words = _made(self._words)
        prepared: Callable[[], None]
        match kind:
            case "trap":
                prepared = self._prepare("trap")
            case "misaligned":
                prepared = self._prepare("misaligned", cuda.U64(words.address))
            case "wild_read":
                prepared = self._prepare("read_address", cuda.U64(_WILD), cuda.U64(words.address))
            case "wild_write":
                prepared = self._prepare("write_address", cuda.U64(_WILD), cuda.U32(1))
            case "read_only_write" | "use_after_unmap":
                span = self._map(self._create(), "read" if kind == "read_only_write" else "readwrite")
                if kind == "use_after_unmap":
                    span.unmap()
                prepared = self._prepare("write_address", cuda.U64(span.address), cuda.U32(1))
            case _:
                raise ValueError(kind)
        reply: Json = {"launched_ns": time.monotonic_ns()}
        try:
            prepared()
            _made(self._context).synchronize()
        except BadCudaCall as error:
            reply |= {"result": error.result, "call": error.call}
        return reply | {"returned_ns": time.monotonic_ns()}

    def endless(self) -> Json:
        """A kernel that never ends, and that nobody waits for."""
        words = _made(self._words)
        words.write(bytes(4))
        self._launch("endless", cuda.U64(words.address))
        return {"launched_ns": time.monotonic_ns()}

    def create(self, value: int) -> Json:
        """Exportable memory, mapped and filled with words of that value; the descriptor goes with the reply."""
        memory = self._create()
        self._shared = self._map(memory, "readwrite")
        self.fill(value)
        self.fd_out = memory.export()
        return {"bytes": memory.nbytes}

    def take(self, nbytes: int, access: cuda.Access) -> Json:
        """Maps the memory whose descriptor came with the request."""
        self._shared = self._map(cuda.Memory.import_fd(self._driver, self.fd_in, nbytes), access)
        return {}

    def tick(self) -> Json:
        """A kernel that counts the first word of the shared memory up for ever, and that nobody waits for."""
        self._launch("ticking", cuda.U64(_made(self._shared).address))
        return {}

    def word(self) -> Json:
        """The first word of the shared memory."""
        return {"value": int.from_bytes(_made(self._shared).read(4), sys.byteorder)}

    def reserve(self, nbytes: int) -> Json:
        """Exportable memory that is not mapped here; the descriptor goes with the reply."""
        memory = cuda.Memory.create(self._driver, _made(self._device), nbytes)
        self._held.append(memory)
        self.fd_out = memory.export()
        return {}

    def take_timed(self, nbytes: int) -> Json:
        """What each step of mapping the memory costs whose descriptor came with the request, in microseconds."""
        stamps = [time.monotonic_ns()]
        memory = cuda.Memory.import_fd(self._driver, self.fd_in, nbytes)
        stamps.append(time.monotonic_ns())
        span = cuda.Reservation(_made(self._context), nbytes)
        stamps.append(time.monotonic_ns())
        span.map(memory)
        stamps.append(time.monotonic_ns())
        span.set_access("readwrite")
        stamps.append(time.monotonic_ns())
        self._held += (memory, span)
        names = ("import_us", "reserve_us", "map_us", "access_us")
        return {name: (after - before) / 1e3 for name, before, after in zip(names, stamps, stamps[1:], strict=False)}

    def drop(self) -> Json:
        """Gives back what `reserve` and `take_timed` have."""
        for held in reversed(self._held):
            held.close()
        self._held.clear()
        return {}

    def fill(self, value: int) -> Json:
        """Writes the value into each word of the shared memory, by a kernel."""
        span = _made(self._shared)
        words = span.nbytes // 4
        self._launch("fill", cuda.U64(span.address), cuda.U64(words), cuda.U32(value), threads=words)
        _made(self._context).synchronize()
        return {}

    def check(self, value: int) -> Json:
        """Whether each word of the shared memory has that value."""
        span = _made(self._shared)
        return {"correct": span.read() == array.array("I", [value]).tobytes() * (span.nbytes // 4)}

    def _launch(self, name: str, *arguments: cuda.Argument, threads: int = 1) -> None:
        self._prepare(name, *arguments, threads=threads)()

    def _prepare(self, name: str, *arguments: cuda.Argument, threads: int = 1) -> Callable[[], None]:
        kernel = _made(self._module).kernel(name)
        return lambda: kernel.launch(*arguments, threads=threads)

    def _create(self) -> cuda.Memory:
        device = _made(self._device)
        return cuda.Memory.create(self._driver, device, cuda.granularity(self._driver, device))

    def _map(self, memory: cuda.Memory, access: cuda.Access) -> cuda.Reservation:
        span = cuda.Reservation(_made(self._context), memory.nbytes)
        span.map(memory)
        span.set_access(access)
        return span


def _made(value: T | None) -> T:
    if value is None:
        raise RuntimeError("asked before it was there")
    return value


@contextmanager
def _sealed(nbytes: int) -> Generator[int]:
    """Where a map of a sealed memfd is, of whole pages."""
    fd = os.memfd_create("mpsafe-sealed", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, nbytes)
        os.pwrite(fd, bytes(nbytes), 0)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        with mmap.mmap(fd, nbytes, mmap.MAP_SHARED, mmap.PROT_READ) as memory:
            yield int(ffi.cast("uintptr_t", ffi.from_buffer("char[]", memory)))
    finally:
        os.close(fd)


def main() -> int:
    """Serves one socket until the other end closes it. What the driver holds is left to the driver."""
    sock = socket.socket(fileno=int(sys.argv[1]))
    actor = Actor()
    requests: dict[str, Callable[..., Json]] = {
        "describe": actor.describe,
        "open": actor.open,
        "latency": actor.latency,
        "busy": actor.busy,
        "copies": actor.copies,
        "free": actor.free,
        "tick": actor.tick,
        "word": actor.word,
        "reserve": actor.reserve,
        "take_timed": actor.take_timed,
        "drop": actor.drop,
        "work": actor.work,
        "fault": actor.fault,
        "endless": actor.endless,
        "create": actor.create,
        "import": actor.take,
        "fill": actor.fill,
        "check": actor.check,
    }
    while True:
        packet, fds, _, _ = socket.recv_fds(sock, PACKET_MAX, 1)
        if not packet:
            return 0
        request: Json = json.loads(packet)
        actor.fd_in, actor.fd_out = fds[0] if fds else -1, -1
        reply: Json = {"result": 0, "call": ""}
        try:
            reply |= requests[request.pop("do")](**request)
        except BadCudaCall as error:
            reply |= {"result": error.result, "call": error.call}
        socket.send_fds(sock, [json.dumps(reply).encode()], [actor.fd_out] if actor.fd_out >= 0 else [])
        if actor.fd_out >= 0:
            os.close(actor.fd_out)


if __name__ == "__main__":
    raise SystemExit(main())
