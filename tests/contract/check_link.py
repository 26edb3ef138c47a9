# SPDX-License-Identifier: Apache-2.0
"""Experts on their way from sealed host memory to a device, over any libcuda.so.1; torch has to be there.

python -m contract.check_link [LIBRARY]      prints one line a check: name, a tab, "ok" or what was wrong
"""

import gc
import struct
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Final

import torch

from contract.check_cuda import Rig, outcomes
from moe_models import make
from mpsafe import cuda
from mpsafe.cuda._cuda import ffi
from mpsafe.experts.cuda_link import CudaLink
from mpsafe.experts.host import HostExperts, layout_of, pack
from mpsafe.experts.layers import moe_layers
from mpsafe.experts.links import Transfer

__all__ = ["CHECKS"]

_PATIENCE_S: Final = 20.0


@contextmanager
def _linked(rig: Rig) -> Generator[tuple[CudaLink, HostExperts, cuda.Stream]]:
    """A link to the rig's device, with experts of a small model, and the stream that computes."""
    layers = moe_layers(make("Olmoe"))
    layout = layout_of(layers[0])
    with (
        HostExperts([pack(layer, layout) for layer in layers], layout, count=layers[0].count) as host,
        cuda.Stream(rig.context) as compute,
    ):
        handle = int(ffi.cast("uintptr_t", compute.handle))
        link = CudaLink(cuda.Context(rig.driver, rig.device), host, compute=lambda: handle)
        try:
            yield link, host, compute
        finally:
            link.close()
            rig.context.make_current()


def _at(buffer: cuda.Buffer) -> Any:
    """Device memory where the link looks for a tensor's."""
    return SimpleNamespace(data_ptr=lambda: buffer.address)


def experts_arrive_byte_for_byte(rig: Rig) -> None:
    with _linked(rig) as (link, host, compute):
        assert "through the driver" not in link.name, link.name
        for expert in (0, 3):
            record = host.record(1, expert)
            with cuda.Buffer(rig.context, len(record)) as slot:
                link.computed()
                link.wait([link.send(record, _at(slot), urgent=expert == 0)])
                compute.synchronize()
                assert slot.read() == bytes(record.numpy())


def a_copy_waits_for_what_is_computed_with_its_slot(rig: Rig) -> None:
    with _linked(rig) as (link, host, compute), cuda.Buffer(rig.context, len(host.record(0, 0))) as slot:
        slot.fill(7)
        rig.a.write(bytes(4))
        rig.module.kernel("endless").launch(cuda.U64(rig.a.address), stream=compute)
        link.computed()
        copy = link.send(host.record(0, 0), _at(slot), urgent=True)
        time.sleep(0.05)
        assert not copy.arrived
        rig.a.write(struct.pack("I", 1))
        link.abandon(copy)
        assert copy.arrived
        assert slot.read() == bytes(host.record(0, 0).numpy())


def what_is_computed_next_waits_for_the_copy(rig: Rig) -> None:
    """The next in the computing stream reads what the copy has brought."""
    with _linked(rig) as (link, host, compute), cuda.Buffer(rig.context, len(host.record(0, 1))) as slot:
        for expert in range(1, 4):
            record = host.record(0, expert)
            words = len(record) // 4
            rig.b.write(bytes(8))
            compute.synchronize()
            link.computed()
            link.wait([link.send(record, _at(slot), urgent=False)])
            arguments = (cuda.U64(slot.address), cuda.U64(words), cuda.U64(0), cuda.U64(rig.b.address))
            rig.module.kernel("checksum").launch(*arguments, threads=64, block=32, stream=compute)
            compute.synchronize()
            mixed = [(word + 1) * (i + 1) * 0x9E3779B97F4A7C15 % 2**64 for i, word in enumerate(_words(record))]
            assert struct.unpack("Q", rig.b.read(8)) == (sum(x ^ x >> 32 for x in mixed) % 2**64,)


def what_has_arrived_costs_nothing_any_more(rig: Rig) -> None:
    """Many copies, and few events; the host's memory can be registered by another afterwards."""
    with _linked(rig) as (link, host, compute):
        with cuda.Buffer(rig.context, len(host.record(0, 0))) as slot:
            for _ in range(200):
                link.computed()
                copy = link.send(host.record(0, 0), _at(slot), urgent=True)
                link.wait([copy])
                _until(copy)
            assert sum(isinstance(one, cuda.Event) for one in gc.get_objects()) < 8
            compute.synchronize()
        address, nbytes = host.maps()[0]
        again = rig.driver.result("cuMemHostRegister_v2", ffi.cast("void *", address), nbytes, 8)
        assert again == 712, again
        link.close()
        rig.context.make_current()
        cuda.Registration(rig.driver, address, nbytes, read_only=True).close()


def _until(copy: Transfer) -> None:
    end = time.monotonic() + _PATIENCE_S
    while not copy.arrived:
        assert time.monotonic() < end
        time.sleep(0.0005)


def _words(record: torch.Tensor) -> tuple[int, ...]:
    content = bytes(record.numpy())
    return struct.unpack(f"{len(content) // 4}I", content)


CHECKS: Final[tuple[Callable[[Rig], None], ...]] = (
    experts_arrive_byte_for_byte,
    a_copy_waits_for_what_is_computed_with_its_slot,
    what_is_computed_next_waits_for_the_copy,
    what_has_arrived_costs_nothing_any_more,
)


def main() -> int:
    """Checks the library given, or the one that `cuda.load` finds; 1 if anything is wrong."""
    found = outcomes(cuda.load(*sys.argv[1:2]), CHECKS)
    for name, outcome in found.items():
        sys.stdout.write(f"{name}\t{outcome}\n")
    return 0 if set(found.values()) == {"ok"} else 1


if __name__ == "__main__":
    raise SystemExit(main())
