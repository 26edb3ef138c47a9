# SPDX-License-Identifier: Apache-2.0
"""A decoder as a service whose state outlives it: weights in an immutable region, the cache in a durable one.

    python -m mpsafe.demo.serving primary|standby|restarted TENANT SOCKET PATH [SHAPE]

Requests are packets on the Unix socket PATH (SOCK_SEQPACKET), JSON: {"id", "prompt": hexadecimal, "tokens": how many,
"seen": how many of them the asker has}. Answers: {"id", "at", "token"}, one for each token from `seen` on. Who is cut
off connects again and says what it has seen. Tokens are published before they are sent, but for those that a promoted
standby says until it has a region of its own: whoever would follow it computes them again from what was published.

The primary claims the tenant's epoch. The standby waits: its context is made, weights and cache are mapped, the kernels
have run once, and memory for a cache of its own is there. When it is promoted it copies what was published, checks it,
takes the socket's path, and serves. One that is restarted does all of that when it starts: what a standby is compared
with.
"""

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from mpsafe import cuda
from mpsafe.client import Client
from mpsafe.demo.decoder import Decoder, Shape
from mpsafe.errors import EpochHeld, UnknownRegion
from mpsafe.protocol.standby import Awaited
from mpsafe.vault import KvCache, Vault

__all__ = ["SLOTS", "Service", "main", "prepare_weights"]

SLOTS: Final = 8
PACKET_MAX: Final = 64 << 10
WEIGHTS: Final = "weights"
CACHE: Final = "kv"
# How long an idle service looks away from what is done beside it.
BESIDE_S: Final = 0.005


class Ask(msgspec.Struct):
    """One request."""

    id: str
    prompt: str
    tokens: int
    seen: int = 0


class Progress(msgspec.Struct):
    """What is known of a request, besides its keys and values: what was asked, and every token so far."""

    prompt: bytes
    tokens: int
    said: bytes = b""


@dataclass
class _Open:
    """One request that is being answered. `listener` is None while nobody listens."""

    slot: int
    progress: Progress
    sent: int = 0
    listener: socket.socket | None = None
    done: bool = field(default=False)

    @property
    def answered(self) -> bool:
        """Whether all of it was said and sent."""
        return self.done and self.sent >= len(self.progress.said)

    @property
    def place(self) -> int:
        """How many tokens are in the cache: all but the last that was said."""
        return len(self.progress.prompt) + max(0, len(self.progress.said) - 1)


class Service:
    """Answers on `path`, a step of every open request at a time."""

    def __init__(self, decoder: Decoder, cache: KvCache, path: Path, *, publish: bool = True) -> None:
        self.decoder = decoder
        self.cache = cache
        self.publishes = publish
        self.steps = 0
        self._path = path
        self._open: dict[str, _Open] = {}
        self._selector = selectors.DefaultSelector()

    def resume(self) -> None:
        """Takes up the requests that are in the cache."""
        for entry in self.cache.open_entries():
            progress = msgspec.msgpack.decode(entry.note, type=Progress)
            self._open[entry.request] = _Open(entry.slot, progress, done=len(progress.said) >= progress.tokens)

    def listen(self) -> None:
        """Takes the path, whoever had it."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        fresh = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        listener.bind(os.fspath(fresh))
        listener.listen(64)
        fresh.rename(self._path)
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)

    def turn(self, wait_s: float = 0.0) -> bool:
        """Takes in what is asked, and computes a token for each open request; whether there were any."""
        # Twice: who has just connected has asked already, as a rule.
        for look_s in (0 if self._busy() else wait_s, 0):
            for key, _ in self._selector.select(look_s):
                assert isinstance(key.fileobj, socket.socket)
                if key.data is None:
                    with contextlib.suppress(BlockingIOError):
                        peer, _ = key.fileobj.accept()
                        self._selector.register(peer, selectors.EVENT_READ, "peer")
                else:
                    self._take(key.fileobj)
        working = self._busy()
        for one in working:
            self._step(one)
        if working and self.publishes:
            self.cache.commit()
        for name, one in self._open.items():
            self._tell(name, one)
        self.steps += len(working)
        return bool(working)

    def _busy(self) -> list[_Open]:
        return [one for one in self._open.values() if not one.done]

    def _take(self, peer: socket.socket) -> None:
        try:
            data = peer.recv(PACKET_MAX)
            ask = msgspec.json.decode(data, type=Ask) if data else None
            prompt = bytes.fromhex(ask.prompt) if ask is not None else b""
        except (OSError, ValueError):
            ask, prompt = None, b""
        if ask is None or not prompt or not 0 < ask.tokens <= self.decoder.shape.tokens - len(prompt):
            self._hang_up(peer)
            return
        one = self._open.get(ask.id)
        if one is None and len(self._open) >= self.cache.slots:
            self._forget_answered()
            if len(self._open) >= self.cache.slots:
                self._hang_up(peer)
                return
        if one is None:
            one = self._open[ask.id] = _Open(self.cache.begin(ask.id), Progress(prompt, ask.tokens))
        one.listener, one.sent = peer, ask.seen
        self._tell(ask.id, one)

    def _hang_up(self, peer: socket.socket) -> None:
        self._selector.unregister(peer)
        peer.close()

    def _forget_answered(self) -> None:
        """Makes room: who asks for one of these again has it computed again."""
        for name in [name for name, one in self._open.items() if one.answered]:
            self.cache.finish(self._open.pop(name).slot)
        if self.publishes:
            self.cache.commit()

    def _step(self, one: _Open) -> None:
        """One more token: of a new request the whole prompt is read first."""
        span = self.cache.span(one.slot)
        progress = one.progress
        first = 0 if not progress.said else one.place
        fed = [*progress.prompt] if not progress.said else [progress.said[-1]]
        token = 0
        for place, given in enumerate(fed, first):
            token = self.decoder.step(given, place, span)
        self.cache.wrote(one.slot, len(fed) * self.decoder.shape.token_bytes)
        progress.said += bytes([token])
        one.done = len(progress.said) >= progress.tokens
        self.cache.note(one.slot, msgspec.msgpack.encode(progress))

    def _tell(self, name: str, one: _Open) -> None:
        """What was published and is not sent yet."""
        while one.listener is not None and one.sent < len(one.progress.said):
            token = one.progress.said[one.sent]
            try:
                one.listener.send(json.dumps({"id": name, "at": one.sent, "token": token}).encode())
            except OSError:
                one.listener = None
                return
            one.sent += 1


def prepare_weights(vault: Vault, shape: Shape) -> cuda.Span:
    """The tenant's weights, made where they are not there yet."""
    with contextlib.suppress(UnknownRegion):
        return vault.open(WEIGHTS, verify=False)
    region = vault.create(WEIGHTS, "immutable", shape.weight_bytes)
    offset = 0
    for part in shape.weights():
        region.write(part, offset=offset)
        offset += len(part)
    region.commit()
    return region


def primary(vault: Vault, shape: Shape, path: Path) -> None:
    """Serves from the start; where another one serves already, it stands by for that."""
    try:
        vault.claim()
    except EpochHeld:
        standby(vault, shape, path)
        return
    decoder = Decoder(vault.context, shape, prepare_weights(vault, shape))
    cache = KvCache.create(vault, CACHE, slots=SLOTS, slot_bytes=shape.slot_bytes)
    _serve(Service(decoder, cache, path))


def standby(vault: Vault, shape: Shape, path: Path) -> None:
    """Waits, and goes on where the other one was cut off."""
    decoder = Decoder(vault.context, shape, prepare_weights(vault, shape))
    spare = KvCache.scratch(vault, slots=SLOTS, slot_bytes=shape.slot_bytes)
    decoder.step(0, 0, spare.span(0))
    old = KvCache.open(vault, CACHE)
    resident = shape.weight_bytes + SLOTS * shape.slot_bytes
    with _Aside(vault) as aside:
        event = _promoted(vault.client.stand_by(vault.tenant, resident_bytes=resident))
        aside.progress(event, received_ns=time.time_ns())
        service = _taken_up(decoder, old, spare, path)
        aside.progress(event, serving_ns=time.time_ns())
        _go_on(aside, shape, service, old, spare)


def restarted(vault: Vault, shape: Shape, path: Path) -> None:
    """Started when the other one was lost."""
    vault.claim()
    decoder = Decoder(vault.context, shape, prepare_weights(vault, shape))
    spare = KvCache.scratch(vault, slots=SLOTS, slot_bytes=shape.slot_bytes)
    with _Aside(vault) as aside:
        old = KvCache.open(vault, CACHE)
        _go_on(aside, shape, _taken_up(decoder, old, spare, path), old, spare)


class _Aside:
    """A thread with a connection of its own: what mpsafed takes its time for is done beside the serving."""

    def __init__(self, vault: Vault) -> None:
        self._vault = Vault(Client(vault.client.socket), vault.context, vault.tenant)
        self._pool = ThreadPoolExecutor(1, initializer=vault.context.make_current)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def progress(self, event: int, **stamps: int) -> None:
        """For the timeline, soon."""
        self._pool.submit(self._vault.client.progress, event, **stamps)

    def cache(self, shape: Shape) -> "Future[KvCache]":
        """A new durable cache, when it is held."""
        return self._pool.submit(KvCache.create, self._vault, CACHE, slots=SLOTS, slot_bytes=shape.slot_bytes)


def _taken_up(decoder: Decoder, old: KvCache, spare: KvCache, path: Path) -> Service:
    """Serves what was published, from memory of its own: nobody else can write there, whatever becomes of the proof."""
    old.copy_to(spare)
    service = Service(decoder, spare, path, publish=False)
    service.resume()
    service.listen()
    service.turn()
    return service


def _go_on(aside: _Aside, shape: Shape, service: Service, old: KvCache, spare: KvCache) -> None:
    """Serves, and publishes as soon as there is a region of its own epoch; the old one can wait until then."""
    _say("serving")
    making = aside.cache(shape)
    while not making.done():
        service.turn(wait_s=BESIDE_S)
    durable = making.result()
    spare.move_to(durable)
    service.cache, service.publishes = durable, True
    durable.commit()
    old.close()
    _serve(service, listening=True)


def _promoted(words: Iterator[Awaited]) -> int:
    """Waits until this process is promoted; the event that tells why."""
    for word in words:
        if word.phase != "warm":
            return word.event
        _say("warm")
    raise EOFError


def _serve(service: Service, *, listening: bool = False) -> None:
    if not listening:
        service.listen()
        _say("serving")
    while True:
        service.turn(wait_s=60.0)


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def main() -> None:
    """Runs one of the two, until it is ended."""
    role, tenant, daemon, path, *rest = sys.argv[1:]
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    options: dict[str, Any] = json.loads(rest[0]) if rest else {}
    driver = cuda.load()
    driver.init()
    with cuda.Context(driver, driver.devices()[0]) as context, Client(daemon) as client, client.attach(tenant):
        vault = Vault(client, context, tenant)
        {"primary": primary, "standby": standby, "restarted": restarted}[role](vault, Shape(**options), Path(path))


if __name__ == "__main__":
    main()
