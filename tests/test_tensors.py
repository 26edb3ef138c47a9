# SPDX-License-Identifier: Apache-2.0
"""This test will have several processes use the weights and caches of unchanged Transformers models in the vault."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from contract.check_tensors import CHECKS, outcome
from daemon_process import Mpsafed
from requires import requires
from vault_process import OUTSIDE, VaultProcess

pytestmark = requires("soft", "torch")

Start = Callable[[], VaultProcess]
WORDS = "import torch; from mpsafe import tensors; from tensor_models import *"


@pytest.fixture
def start(mpsafed: Mpsafed) -> Iterator[Start]:
    """Starts processes of the tenant chat with torch and the models at hand."""
    with ExitStack() as stack:

        def started() -> VaultProcess:
            process = VaultProcess(mpsafed.host, "chat", mpsafed.socket, environment=OUTSIDE)
            stack.enter_context(process)
            process.do(WORDS)
            return process

        yield started


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_software_gpu_keeps_the_contract(check: Callable[[Start], None]) -> None:
    """What an H100 was asked too: tools/qualify/results, contract_tensors."""
    assert outcome(check) == "ok"


def test_weights_take_the_device_once_and_nobody_writes_them(mpsafed: Mpsafed, start: Start) -> None:
    one = start()
    one.do("model = made('llama'); free = context.free_bytes(); weights = tensors.hold(vault, 'weights', model)")
    assert one.do("free - context.free_bytes() == weights.region.nbytes") == "True"
    one.begin("with torch.no_grad(): model.lm_head.weight.zero_()")
    assert one.process.wait(60) == -11, "the software GPU's memory is the host's: there it is SIGSEGV"
    other = start()
    other.do("model = made('llama', empty=True); weights = tensors.attach(vault, 'weights', model)")


def test_safetensors_files_go_straight_into_a_region(start: Start, tmp_path: Path) -> None:
    one = start()
    one.do("from safetensors.torch import save_file; model = made('llama'); state = model.state_dict()")
    one.do("halves = [dict(list(state.items())[i::2]) for i in (0, 1)]")
    one.do(f"files = [{str(tmp_path)!r} + f'/{{i}}.safetensors' for i in (0, 1)]")
    one.do("[save_file(half, file) for half, file in zip(halves, files)]")
    one.do("weights = tensors.load(vault, 'weights', files)")
    one.do("other = made('llama', seed=1); expected = logits(model)")
    one.do("again = tensors.attach(vault, 'weights', other)")
    assert one.do("logits(other) == expected") == "True"
    one.do("low = {k: t.bfloat16() for k, t in state.items()}; save_file(low, files[0])")
    one.do("weights = tensors.load(vault, 'low', files[:1], progress=True)")
    one.do("other = made('llama', empty=True); again = tensors.attach(vault, 'low', other)")
    assert one.do("{p.dtype for p in other.parameters()}") == "{torch.bfloat16}"

    said = one.fails("tensors.load(vault, 'twice', files)")
    assert said.startswith("BadTensorFile") and "which another file has" in said
    (tmp_path / "no.safetensors").write_bytes(b"no tensors")
    said = one.fails(f"tensors.load(vault, 'none', [{str(tmp_path / 'no.safetensors')!r}])")
    assert said.startswith("BadTensorFile") and "no.safetensors" in said
    assert one.fails(f"tensors.load(vault, 'none', [{str(tmp_path / 'absent')!r}])").startswith("BadTensorFile")
    assert one.fails("tensors.load(vault, 'none', [])").startswith("BadTensorFile")
    assert one.do("sorted(r.name for r in vault.regions())") == "['low', 'weights']", "what failed has left nothing"


def test_a_model_that_differs_is_refused_and_stays_as_it_was(start: Start) -> None:
    one = start()
    one.do("model = made('llama'); weights = tensors.hold(vault, 'weights', model)")
    one.do("other = made('qwen2-tied', seed=1); before = logits(other)")
    said = one.fails("tensors.attach(vault, 'weights', other)")
    assert said.startswith("ModelDiffers") and "region weights, tensor" in said
    assert one.do("logits(other) == before") == "True"
    one.do("other = made('llama').double()")
    said = one.fails("tensors.attach(vault, 'weights', other)")
    assert "the model has float64 of shape [61, 32], the region float32 of shape [61, 32]" in said
    assert "meta device" in one.fails("tensors.hold(vault, 'none', made('llama', empty=True))")
    one.do("plain = vault.create('plain', 'immutable', 4096, layout=b'{}'); plain.commit()")
    assert one.fails("tensors.attach(vault, 'plain', other)").startswith("ContentsChanged")
    one.do(LIAR)
    assert one.fails("tensors.attach(vault, 'liar', other)").startswith("ContentsChanged")
    assert one.do("sorted(r.name for r in vault.regions())") == "['liar', 'plain', 'weights']"


LIAR = """
layout = b'{"tensors": {"lm_head.weight": {"dtype": "float32", "shape": [1000000], "offset": 0}}}'
liar = vault.create("liar", "immutable", 4096, layout=layout)
liar.commit()
"""


def test_a_slot_has_room_for_whole_tokens_of_its_model(start: Start) -> None:
    one = start()
    one.do("from mpsafe.tensors.cache import SlotCache, slot_bytes; model = made('llama'); vault.claim()")
    one.do("room = slot_bytes(model.config, tokens=10, dtype=model.dtype)")
    one.do("kv = KvCache.create(vault, 'kv', slots=2, slot_bytes=room); slot = kv.begin('mine')")
    one.do(
        "past = SlotCache.of(kv, slot, model.config, dtype=model.dtype); said = greedy(model, list(PROMPT), 1, past)"
    )
    assert "the slot has room for 10 tokens" in one.fails("greedy(model, list(PROMPT) + said + [1] * 10, 1, past)")
    one.do("odd = KvCache.create(vault, 'odd', slots=1, slot_bytes=room + 8); odd.begin('mine')")
    assert "takes" in one.fails("SlotCache.of(odd, 0, model.config, dtype=model.dtype)")
    one.do("spare = KvCache.scratch(vault, slots=1, slot_bytes=room); spare.begin('mine')")
    assert "in no region" in one.fails("SlotCache.of(spare, 0, model.config, dtype=model.dtype)")
