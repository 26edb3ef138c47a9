# SPDX-License-Identifier: Apache-2.0
"""This test will serve unmodified Transformers models with most of their experts in host memory."""

import fcntl
import mmap
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe_models import CLASSES, VOCABULARY, make
from mpsafe.errors import BadRequest, LeaseTooSmall, NotMixture, ShardDamaged
from requires import requires

pytestmark = requires("torch")

FAST = 20e9
LIBRARY_TOLERANCE = 2e-5


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tokens(seed: int, length: int = 12) -> Any:
    import torch

    return torch.tensor(np.random.default_rng(seed).integers(VOCABULARY, size=(1, length)))


def answer(model: Any, asked: Any) -> tuple[Any, Any]:
    """Logits of the prompt, and what is generated from it."""
    import torch

    with torch.no_grad():
        return model(asked).logits, model.generate(asked, max_new_tokens=10, do_sample=False)


def offload(model: Any, **more: Any) -> Any:
    from mpsafe.experts.links import EmulatedLink
    from mpsafe.experts.offload import attach

    more = {"link": lambda: EmulatedLink(FAST), "granule_bytes": 1, **more}
    return attach(model, **more)


@pytest.mark.parametrize("name", CLASSES)
def test_the_output_is_the_same_to_the_bit_whatever_is_resident(name: str) -> None:
    import torch

    model, asked = make(name), tokens(1)
    with torch.no_grad():
        library = model(asked).logits
    with offload(model, cache_percent=100) as whole:
        wanted = answer(model, asked)
        assert whole.counters.late + whole.counters.misses <= whole.shape.total
    for policy, percent in (("mpsafe", 50), ("lru", 50), ("finemoe-1", 60), ("gate-1", 75)):
        with offload(model, cache_percent=percent, policy=policy) as part:
            got = answer(model, asked)
            assert part.counters.misses > 0
            assert torch.equal(got[0], wanted[0]) and torch.equal(got[1], wanted[1]), policy
    assert float((library - wanted[0]).abs().max()) < LIBRARY_TOLERANCE


def test_the_model_is_as_it_was_afterwards() -> None:
    import torch

    model, asked = make("Olmoe"), tokens(2)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    implementation = model.config._experts_implementation
    wanted = answer(model, asked)
    with offload(model, cache_percent=50):
        assert not [name for name in model.state_dict() if ".experts." in name]
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], one) for name, one in before.items())
    assert model.config._experts_implementation == implementation
    assert not [module for module in model.modules() if module._forward_hooks]
    assert torch.equal(answer(model, asked)[0], wanted[0])


def test_a_prompt_that_needs_more_experts_than_there_are_slots_is_served() -> None:
    import torch

    model, asked = make("Olmoe"), tokens(3, length=64)
    with offload(model, cache_percent=100):
        wanted = answer(model, asked)
    with offload(model, cache_percent=12.5) as served:
        assert served.slots == 8 < served.shape.experts
        got = answer(model, asked)
    assert torch.equal(got[0], wanted[0]) and torch.equal(got[1], wanted[1])


def test_only_what_is_asked_for_is_loaded() -> None:
    model, asked = make("Olmoe"), tokens(4)
    with offload(model, cache_percent=25, prefetch=0) as served:
        answer(model, asked[:, :1])
        counters = served.counters
        assert counters.hits + counters.misses + counters.late == counters.tokens * 4 * 4
        assert counters.moved_bytes == counters.misses * served.slot_bytes
        assert served.cache_bytes == served.slots * served.slot_bytes


def test_a_cache_that_was_filled_has_all_that_it_has_room_for() -> None:
    import torch

    model, asked = make("Olmoe"), tokens(4)
    with offload(model, cache_percent=100, prefetch=0) as served:
        served.fill()
        wanted = answer(model, asked)
        assert (served.counters.misses, served.counters.late, served.counters.moved_bytes) == (0, 0, 0)
    with offload(model, cache_percent=50) as served:
        served.fill()
        got = answer(model, asked)
        assert 0 < served.counters.misses < served.counters.hits
    assert torch.equal(got[1], wanted[1])


def test_what_is_expected_is_brought_before_it_is_asked_for() -> None:
    model, asked = make("Olmoe"), tokens(4)
    with offload(model, cache_percent=50, policy="gate-1", prefetch=4) as served:
        answer(model, asked)
        counters = served.counters
        assert counters.prefetched > counters.wasted
        assert counters.moved_bytes == (counters.misses + counters.prefetched) * served.slot_bytes


def test_a_cache_shrinks_and_grows_in_the_middle_of_an_answer() -> None:
    import torch

    model, asked = make("Qwen3Moe"), tokens(5)
    with offload(model, cache_percent=100), torch.no_grad():
        wanted = model.generate(asked, max_new_tokens=60, do_sample=False)
    with offload(model, cache_percent=75) as served:
        stop, seen = threading.Event(), set[int]()

        def press() -> None:
            dice = np.random.default_rng(1)
            while not stop.wait(0.002):
                served.resize(int(dice.integers(8, 64)))
                seen.add(served.cache_bytes)

        thread = threading.Thread(target=press)
        thread.start()
        with torch.no_grad():
            got = model.generate(asked, max_new_tokens=60, do_sample=False)
        stop.set()
        thread.join()
        assert torch.equal(got, wanted)
        assert len(seen) > 3
        served.resize(16)
        assert served.cache_bytes == 16 * served.slot_bytes


def test_a_cache_that_finds_no_memory_stays_as_it_is() -> None:
    import torch

    from mpsafe.experts.slots import Block, of_torch

    left = [20]

    def scarce(nbytes: int) -> Block:
        left[0] -= 1
        if left[0] < 0:
            raise MemoryError(f"no {nbytes} bytes are left")
        return of_torch("cpu")(nbytes)

    model, asked = make("Olmoe"), tokens(6)
    with offload(model, cache_percent=25, allocate=scarce) as served:
        wanted = answer(model, asked)
        with pytest.raises(MemoryError):
            served.resize(64)
        assert served.slots == 16
        assert torch.equal(answer(model, asked)[1], wanted[1])


def test_a_lease_below_what_a_layer_needs_changes_nothing() -> None:
    import torch

    model, asked = make("Olmoe"), tokens(6)
    with offload(model, cache_percent=50) as served:
        wanted = answer(model, asked)
        with pytest.raises(LeaseTooSmall, match=r"room for 7 experts is too little: a layer and .* need 8"):
            served.resize(7)
        assert served.slots == 32
        assert torch.equal(answer(model, asked)[0], wanted[0])


@pytest.mark.parametrize(("more", "error"), [({"cache_percent": 5}, "at least 12.5"), ({"policy": "nobody"}, "nobody")])
def test_what_cannot_be_served_is_refused_and_the_model_untouched(more: dict[str, Any], error: str) -> None:
    import torch

    model, asked = make("Olmoe"), tokens(7)
    wanted = answer(model, asked)
    with pytest.raises(BadRequest, match=error):
        offload(model, **more)
    assert torch.equal(answer(model, asked)[0], wanted[0])


def test_a_model_without_experts_is_refused() -> None:
    with pytest.raises(NotMixture, match="LlamaForCausalLM: it has no layer of experts"):
        offload(make("Llama"))


def test_a_shard_is_sealed_and_its_damage_is_seen() -> None:
    from mpsafe.experts.host import SEALS, HostExperts, Shard, layout_of, pack
    from mpsafe.experts.layers import moe_layers

    layers = moe_layers(make("Olmoe"))
    layout = layout_of(layers[0])
    shard = pack(layers[0], layout)
    assert fcntl.fcntl(shard.fd, fcntl.F_GET_SEALS) == SEALS
    with pytest.raises(PermissionError):
        mmap.mmap(shard.fd, shard.nbytes, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    with HostExperts([shard], layout, count=16) as host:
        host.check()
    damaged = os.memfd_create("damaged")
    os.write(damaged, bytes(shard.nbytes))
    with (
        HostExperts([Shard(damaged, shard.nbytes, shard.sha256)], layout, count=16) as host,
        pytest.raises(ShardDamaged, match=f"layer 0 .* not {shard.sha256}"),
    ):
        host.check()


def test_a_trace_is_recorded_of_what_the_model_did(tmp_path: Path) -> None:
    import torch

    from mpsafe.experts.record import record
    from mpsafe.experts.trace import read, write

    model = make("Qwen2Moe")
    texts = [tokens(8, 20)[0].tolist(), tokens(9, 7)[0].tolist()]
    trace = record(model, texts, name="made")
    assert (len(trace), trace.layers, trace.experts, trace.widest) == (27, 4, 16, 4)
    assert trace.requests.tolist() == [0] * 20 + [1] * 7
    assert trace.tokens.tolist() == texts[0] + texts[1]
    assert trace.probabilities is not None and trace.ahead is not None
    assert trace.embeddings is not None and trace.contexts is not None
    with torch.no_grad():
        seen = model(torch.tensor([texts[0]]), output_router_logits=True, output_hidden_states=True)
    for layer, logits in enumerate(seen.router_logits):
        said = torch.softmax(logits.float(), -1)
        assert np.allclose(trace.probabilities[:20, layer], said.numpy(), atol=1e-6)
        chosen = [sorted(trace.ids[token * 4 + layer].tolist()) for token in range(20)]
        assert chosen == np.sort(said.topk(4).indices.numpy(), 1).tolist()
    assert not trace.ahead[:, 3].any() and np.allclose(trace.ahead[:, :3, 0].sum(2), 1, atol=1e-5)
    assert np.allclose(trace.contexts[1:20], seen.hidden_states[-1][0, :-1].numpy(), atol=1e-5)
    assert not trace.contexts[0].any() and not trace.contexts[20].any()
    write(tmp_path / "made.npz", trace)
    assert np.allclose(np.asarray(read(tmp_path / "made.npz").probabilities), trace.probabilities, atol=1e-3)


def test_one_token_at_a_time_is_routed_as_the_whole_text_was() -> None:
    """What makes a recorded text the trace of a request that was decoded."""
    from mpsafe.experts.policies import Routed
    from mpsafe.experts.record import record

    model = make("Olmoe")
    text = tokens(10, 14)[0].tolist()
    trace = record(model, [text], name="made")
    seen: list[Routed] = []
    with offload(model, cache_percent=100, policy="mpsafe") as served:
        routed = served.policy.routed

        def sees(one: Routed) -> None:
            seen.append(one)
            routed(one)

        served.policy.routed = sees
        cache = None
        for token in text:
            cache = model(tokens(0)[:, :1] * 0 + token, cache=cache, use_cache=True).cache
    assert trace.probabilities is not None and trace.ahead is not None
    for number, one in enumerate(seen):
        token, layer = divmod(number, 4)
        assert one.layer == layer and one.probabilities is not None and one.ahead is not None
        assert sorted(one.flat - layer * 16) == sorted(trace.ids[number].tolist())
        assert np.allclose(one.probabilities, trace.probabilities[token, layer], atol=1e-5)
        assert np.allclose(one.ahead, trace.ahead[token, layer, : len(one.ahead)], atol=1e-5)
