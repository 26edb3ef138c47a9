# SPDX-License-Identifier: Apache-2.0
"""This test will have several processes use the weights and caches of unchanged Transformers models in the vault."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from daemon_process import Mpsafed
from requires import requires
from vault_process import OUTSIDE, VaultProcess

pytestmark = requires("soft", "torch")

Start = Callable[[], VaultProcess]
CLASSES = ("llama", "qwen2-tied", "qwen3-moe")
TIED = "model.lm_head.weight is model.model.embed_tokens.weight"
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


def test_a_model_of_another_process_uses_the_same_bytes(start: Start) -> None:
    """The second and third have other weights of their own, or none, until they attach; the first has ended by then."""
    first, second = start(), start()
    for name in CLASSES:
        first.do(f"model = made({name!r}); expected = logits(model)")
        first.do(f"weights = tensors.hold(vault, {name!r}, model)")
        assert first.do("logits(model) == expected") == "True", name
        assert first.do(TIED) == str(name == "qwen2-tied")
    expected = {name: first.do(f"logits(made({name!r}))") for name in CLASSES}
    first.kill()
    for name in CLASSES:
        for empty in (False, True):
            second.do(f"model = made({name!r}, seed=1, empty={empty})")
            if not empty:
                assert second.do("logits(model)") != expected[name]
            second.do(f"weights = tensors.attach(vault, {name!r}, model)")
            assert second.do("logits(model)") == expected[name], (name, empty)
            assert second.do(TIED) == str(name == "qwen2-tied")
    assert second.do("{p.data_ptr() for p in model.parameters()} <= {t.data_ptr() for t in weights.tensors().values()}")


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


@pytest.mark.parametrize("name", CLASSES)
def test_a_generation_goes_on_in_another_process(start: Start, name: str) -> None:
    """What the first has committed is all that the second knows; the whole is what an undisturbed run says."""
    first, second = start(), start()
    for process, seed in ((first, 0), (second, 1)):
        process.do("from mpsafe.tensors.cache import SlotCache, slot_bytes; import transformers")
        process.do(
            f"model = made({name!r}, seed={seed}); room = slot_bytes(model.config, tokens=40, dtype=model.dtype)"
        )
    plain = first.do("greedy(model, list(PROMPT), 20, transformers.DynamicCache(config=model.config))")
    first.do("weights = tensors.hold(vault, 'weights', model); vault.claim()")
    first.do("kv = KvCache.create(vault, 'kv', slots=2, slot_bytes=room); other = kv.begin('other')")
    first.do("slot = kv.begin('mine', bytes(PROMPT))")
    first.do("past = SlotCache.of(kv, slot, model.config, dtype=model.dtype); said = list(PROMPT)")
    first.do("for _ in range(8):\n    said += greedy(model, said, 1, past)\n    past.wrote(bytes(said)); kv.commit()\n")
    first.do("said += greedy(model, said, 3, past); past.wrote(bytes(said))")
    assert first.do("past.tokens") == str(5 + 7 + 3)
    first.kill()

    second.do("vault.claim(); weights = tensors.attach(vault, 'weights', model); old = KvCache.open(vault, 'kv')")
    second.do("kv = KvCache.create(vault, 'kv', slots=2, slot_bytes=room); whole = old.copy_to(kv); kv.commit()")
    assert second.do("[e.request for e in whole]") == "['other', 'mine']"
    second.do("entry = whole[1]; past = SlotCache.of(kv, entry.slot, model.config, dtype=model.dtype)")
    second.do("said = list(entry.note)")
    assert second.do("(past.tokens, len(said))") == "(12, 13)"
    assert second.do("said[5:] + greedy(model, said, 12, past)") == plain
    second.do("odd = KvCache.create(vault, 'odd', slots=1, slot_bytes=room + 8); odd.begin('mine')")
    assert "takes" in second.fails("SlotCache.of(odd, 0, model.config, dtype=model.dtype)")
    second.do("past.wrote()")
    said = second.fails("greedy(model, said + [1] * 40, 1, past)")
    assert "the slot has room for 40 tokens" in said
