# SPDX-License-Identifier: Apache-2.0
"""Transformers models over the vault, on a real device where there is one, else on the software GPU.

python check_tensors.py      prints one line a check: name, a tab, "ok" or what was wrong

A daemon and an MPS of its own are started for it; the models' processes are outside MPS.
"""

import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from mpsafe.client import Client
from mpsafe.demo.hosts import GpuHost, Host, SoftwareGpu
from mpsafe.demo.scenario import daemon
from vault_process import OUTSIDE, VaultProcess

CLASSES: Final = ("llama", "qwen2-tied", "qwen3-moe")
TIED: Final = "model.lm_head.weight is model.model.embed_tokens.weight"
BEGIN: Final = """
import torch, transformers
from mpsafe import tensors
from mpsafe.tensors.cache import SlotCache, slot_bytes
from mpsafe.tensors.view import device_of
from tensor_models import *
device = device_of(context)
"""
FEW: Final = """
for _ in range(8):
    said += greedy(model, said, 1, past)
    past.wrote(bytes(said))
    kv.commit()
said += greedy(model, said, 3, past)
past.wrote(bytes(said))
"""

Start = Callable[[], VaultProcess]


def weights_are_shared_to_the_bit(start: Start) -> None:
    first, second = start(), start()
    for name in CLASSES:
        first.do(f"plain = made({name!r}).to(device); expected = logits(plain); model = made({name!r})")
        first.do(f"weights = tensors.hold(vault, {name!r}, model)")
        assert first.do("logits(model) == expected") == "True", name
        assert first.do(TIED) == str(name == "qwen2-tied"), name
    expected = {name: first.do(f"logits(made({name!r}).to(device))") for name in CLASSES}
    first.kill()
    for name in CLASSES:
        for empty in (False, True):
            second.do(f"model = made({name!r}, seed=1, empty={empty})")
            second.do(f"weights = tensors.attach(vault, {name!r}, model)")
            assert second.do("logits(model)") == expected[name], (name, empty)
            assert second.do(TIED) == str(name == "qwen2-tied"), name


def the_device_holds_the_weights_once(start: Start) -> None:
    one = start()
    one.do("model = made('llama'); logits(made('llama').to(device)); free = context.free_bytes()")
    one.do("weights = tensors.hold(vault, 'weights', model)")
    taken = int(one.do("free - context.free_bytes()"))
    assert taken == int(one.do("weights.region.nbytes")), taken


def a_generation_goes_on_in_another_process(start: Start) -> None:
    for name in CLASSES:
        first, second = start(), start()
        for process, seed in ((first, 0), (second, 1)):
            process.do(f"model = made({name!r}, seed={seed})")
            process.do("room = slot_bytes(model.config, tokens=40, dtype=model.dtype)")
        first.do("weights = tensors.hold(vault, 'weights', model); vault.claim()")
        plain = first.do("greedy(model, list(PROMPT), 20, transformers.DynamicCache(config=model.config))")
        first.do("kv = KvCache.create(vault, 'kv', slots=2, slot_bytes=room); slot = kv.begin('mine', bytes(PROMPT))")
        first.do("past = SlotCache.of(kv, slot, model.config, dtype=model.dtype); said = list(PROMPT)")
        first.do(FEW)
        first.kill()
        second.do("vault.claim(); weights = tensors.attach(vault, 'weights', model); old = KvCache.open(vault, 'kv')")
        second.do("kv = KvCache.create(vault, 'kv', slots=2, slot_bytes=room); (entry,) = old.copy_to(kv); kv.commit()")
        second.do("past = SlotCache.of(kv, entry.slot, model.config, dtype=model.dtype); said = list(entry.note)")
        assert second.do("(past.tokens, len(said))") == "(12, 13)"
        assert second.do("said[5:] + greedy(model, said, 12, past)") == plain, name
        second.kill()


CHECKS: Final = (
    weights_are_shared_to_the_bit,
    the_device_holds_the_weights_once,
    a_generation_goes_on_in_another_process,
)


def outcome(check: Callable[[Start], None]) -> str:
    """What came of one check, with a host and a daemon of its own: "ok", or where it failed."""
    make: Callable[[Path], Host] = GpuHost if Path("/dev/nvidia0").exists() else SoftwareGpu
    with ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="check-tensors-"))
        host = stack.enter_context(make(Path(name, "gpu")))
        host.start_mps()
        socket = stack.enter_context(daemon(host, Path(name), []))
        stack.callback(drained, socket)

        def start() -> VaultProcess:
            process = stack.enter_context(VaultProcess(host, "chat", socket, environment=OUTSIDE))
            process.do(BEGIN)
            return process

        try:
            check(start)
        except AssertionError as error:
            at = error.__traceback__.tb_next if error.__traceback__ else None
            return f"line {at.tb_lineno if at else 0}: {error}"
        return "ok"


def drained(socket: str) -> None:
    """Leaves nothing in the vault, which would be held for ever."""
    with Client(socket) as client:
        client.drain()


def main() -> int:
    """Runs them all."""
    for check in CHECKS:
        sys.stdout.write(f"{check.__name__}\t{outcome(check)}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
