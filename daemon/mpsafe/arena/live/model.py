# SPDX-License-Identifier: Apache-2.0
"""One served model: a small decoder with real weights on the device, which answers and reports how it is.

    python -m mpsafe.arena.live.model TENANT MPSAFED PATH SHAPE

Requests are packets on the Unix socket PATH (SOCK_SEQPACKET), JSON: {"prompt": hexadecimal, "tokens": how many}. The
answer is {"said": hexadecimal, "busy_s": for how long the device worked on it}. One request at a time is computed; the
others wait. Queue, in flight, latency and residency are reported to mpsafed when they have changed, four times a second
at most, and once a second at least: a daemon that was started again knows nothing of an idle model. "ready PID NS"
(CLOCK_MONOTONIC) on standard output says when it answers from now on. A CUDA error ends it.
"""

import contextlib
import json
import os
import selectors
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Final

import msgspec

from mpsafe import cuda
from mpsafe.client import Client
from mpsafe.demo.decoder import Decoder, Shape
from mpsafe.errors import MpsafeError
from mpsafe.model import Figures

__all__ = ["Ask", "main"]

PACKET_MAX: Final = 4096
REPORT_S: Final = 0.25
AGAIN_S: Final = 1.0
SMOOTH: Final = 0.2


class Ask(msgspec.Struct):
    """One request."""

    prompt: str
    tokens: int


class Service:
    """Answers on one listening socket, in the order in which it was asked."""

    def __init__(self, decoder: Decoder, cache: cuda.Span, resident_bytes: int) -> None:
        self.resident_bytes = resident_bytes
        self.busy = 0
        self.waiting = 0
        self.latency_s = 0.0
        self._decoder = decoder
        self._cache = cache

    def serve(self, listener: socket.socket) -> None:
        """Until CUDA fails: BadCudaCall."""
        with selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            while True:
                ready = [key.fileobj for key, _ in selector.select()]
                for found in ready:
                    assert isinstance(found, socket.socket)
                    if found is listener:
                        peer, _ = listener.accept()
                        selector.register(peer, selectors.EVENT_READ)
                        continue
                    self.waiting = len(ready) - 1
                    if not self._answer(found):
                        selector.unregister(found)
                        found.close()

    def figures(self) -> Figures:
        """As the status page has them."""
        return Figures(self.waiting, self.busy, int(self.latency_s * 1e9), self.resident_bytes)

    def _answer(self, peer: socket.socket) -> bool:
        """One request of a peer; False where it has left, or asks what cannot be answered."""
        try:
            data = peer.recv(PACKET_MAX)
            ask = msgspec.json.decode(data, type=Ask) if data else None
            prompt = bytes.fromhex(ask.prompt) if ask is not None else b""
        except (OSError, ValueError):
            return False
        if ask is None or not prompt or not 0 < ask.tokens <= self._decoder.shape.tokens - len(prompt):
            return False
        self.busy = 1
        began = time.monotonic()
        said = self._say(prompt, ask.tokens)
        busy_s = time.monotonic() - began
        self.latency_s += SMOOTH * (busy_s - self.latency_s)
        self.busy = 0
        with contextlib.suppress(OSError):
            peer.send(json.dumps({"said": said.hex(), "busy_s": busy_s}).encode())
        return True

    def _say(self, prompt: bytes, tokens: int) -> bytes:
        said = b""
        fed = [*prompt]
        for place in range(len(prompt) + tokens - 1):
            token = self._decoder.step(fed[place], place, self._cache)
            if place >= len(prompt) - 1:
                said += bytes([token])
                fed.append(token)
        return said


def report(service: Service, daemon: str) -> None:
    """Tells mpsafed what has changed, on a connection of its own; a daemon that is away is told when it is back."""
    told, due = Figures(), 0.0
    with Client(daemon) as client:
        while True:
            figures = service.figures()
            if figures != told or time.monotonic() >= due:
                with contextlib.suppress(MpsafeError):
                    client.report(figures)
                    told, due = figures, time.monotonic() + AGAIN_S
            time.sleep(REPORT_S)


def main() -> int:
    """Serves one model; status 1 where CUDA fails, with its words on standard error."""
    tenant, daemon, path, shape_of = sys.argv[1:]
    shape = Shape(**json.loads(shape_of))
    try:
        with contextlib.ExitStack() as stack:
            client = stack.enter_context(Client(daemon))
            stack.enter_context(client.attach(tenant))
            driver = cuda.load()
            driver.init()
            context = stack.enter_context(cuda.Context(driver, driver.devices()[0]))
            weights = cuda.Buffer(context, shape.weight_bytes)
            weights.write(b"".join(shape.weights()))
            cache = cuda.Buffer(context, shape.slot_bytes)
            decoder = Decoder(context, shape, weights)
            service = Service(decoder, cache, shape.weight_bytes + shape.slot_bytes)
            listener = stack.enter_context(_listener(Path(path)))
            threading.Thread(target=report, args=(service, daemon), daemon=True).start()
            print("ready", os.getpid(), time.monotonic_ns(), flush=True)
            service.serve(listener)
    except MpsafeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _listener(path: Path) -> socket.socket:
    """Takes the path, whoever had it."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    listener.bind(os.fspath(fresh))
    listener.listen(64)
    fresh.rename(path)
    return listener


if __name__ == "__main__":
    # A thread may still report: nothing is to be waited for.
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
