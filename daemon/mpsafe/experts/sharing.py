# SPDX-License-Identifier: Apache-2.0
"""What serving processes of one host share by mpsafed: host copies of experts, a device's link, its memory.

    with Share(socket, "chat", device_uuid) as share:
        offloaded = attach(model, share=share)

Each layer's experts are published by their hash: who comes second has its own copy dropped for the one that is there.
The cache has a lease with a floor; under pressure it gives memory back between two layers, and takes it again when
there is room. Nothing of that is a call on the path of a token. A daemon that is started again is told all of it anew.
"""

import mmap
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Final, Self

import torch

from mpsafe import cuda
from mpsafe.client import Client
from mpsafe.errors import BadCudaCall
from mpsafe.experts.host import Shard
from mpsafe.experts.slots import Allocate, Block
from mpsafe.leases import HeldLease
from mpsafe.link import Link
from mpsafe.protocol.leases import Span

__all__ = ["Share", "software_memory"]

OUT_OF_MEMORY: Final = 2


class Share:
    """A tenant's process on one device. Raises what the daemon answers, or DaemonUnreachable."""

    def __init__(self, socket: str, tenant: str, device: str) -> None:
        self._socket = socket
        self._tenant = tenant
        self._device = device
        self._published: list[Shard] = []
        with ExitStack() as stack:
            self._client = Client(socket)
            stack.callback(lambda: self._client.close())
            self._client.attach(tenant).close()
            self.link: Link = stack.enter_context(self._client.link(device))
            stack.callback(self._forget)
            self._undo = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """The link's cell and the use of what was published end with the connection."""
        self._undo.close()

    def one_copy(self, shard: Shard) -> Shard:
        """The shard as the store keeps it; takes over the descriptor of the one that is given."""
        try:
            with self._client.publish(self._tenant, shard.sha256, shard.fd) as kept:
                self._published.append(replace(shard, fd=os.dup(kept.fileno())))
                return replace(shard, fd=os.dup(kept.fileno()))
        finally:
            os.close(shard.fd)

    def lease(self, memory: Span, on_pressure: Callable[[int, int], None]) -> HeldLease:
        """Device memory for a cache. NoRoom where the floor is not there."""
        return HeldLease(
            self._socket,
            self._tenant,
            self._device,
            memory=memory,
            on_pressure=on_pressure,
            on_return=self._tell_again,
        )

    def _tell_again(self) -> None:
        """To another daemon: what is published, and where this process is on the link. Called by the lease's thread."""
        self._client.close()
        client = Client(self._socket)
        try:
            client.attach(self._tenant).close()
            for shard in self._published:
                client.publish(self._tenant, shard.sha256, shard.fd).close()
            self.link.become(client.link(self._device))
        except BaseException:
            client.close()
            raise
        self._client = client

    def _forget(self) -> None:
        while self._published:
            os.close(self._published.pop().fd)


def software_memory(driver: cuda.Driver, device: cuda.Device) -> Allocate:
    """Blocks of the software GPU's memory, which counts there as this process's."""

    def allocate(nbytes: int) -> Block:
        try:
            memory = cuda.Memory.create(driver, device, nbytes)
        except BadCudaCall as error:
            if error.result != OUT_OF_MEMORY:
                raise
            raise MemoryError(str(error)) from error
        fd = memory.export()
        try:
            mapped = mmap.mmap(fd, nbytes)
        finally:
            os.close(fd)
        return Block(torch.frombuffer(mapped, dtype=torch.uint8), memory.close)

    return allocate
