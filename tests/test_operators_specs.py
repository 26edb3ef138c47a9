# SPDX-License-Identifier: Apache-2.0
"""This test will read models' config files, count their weights, and cut them into stages."""

import json
from pathlib import Path

import pytest

from mpsafe.errors import BadSpec
from mpsafe.operators import specs
from mpsafe.operators.model import GRANULARITIES
from mpsafe.operators.stages import cut, groups, stage, stages

# Parameters as the models' own pages state them.
PUBLISHED = {
    "qwen2-7b": 7.62e9,
    "llama-3.1-8b": 8.03e9,
    "qwen3-32b": 32.8e9,
    "mixtral-8x7b": 46.7e9,
    "qwen2-57b-a14b": 57.4e9,
}
CONFIG: dict[str, object] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 100,
}


@pytest.mark.parametrize("name", specs.BUILT_IN)
def test_weights_are_as_many_as_published(name: str) -> None:
    spec = specs.load(name)
    weights = sum(spec.weight_bytes(operator) for operator in spec.operators) / 2
    assert weights == pytest.approx(PUBLISHED[name], rel=0.005)


def test_a_cached_token_of_qwen2_7b_is_56_kib() -> None:
    assert specs.load("qwen2-7b").kv_bytes_per_token == 56 * 1024


@pytest.mark.parametrize("name", specs.BUILT_IN)
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_stages_hold_each_operator_once_in_each_phase(name: str, granularity: str) -> None:
    spec = specs.load(name)
    found = stages(spec, granularity)  # type: ignore[arg-type] # pytest's parameters are of type str
    for phase in ("prefill", "decode"):
        members = [operator for one in found if phase in one.phases for operator in one.operators]
        assert sorted(members) == sorted(operator.name for operator in spec.operators)
    assert all(stage(spec, one.name) == one for one in found)
    assert sum(one.kv_bytes_per_token for one in found if "decode" in one.phases) == spec.kv_bytes_per_token


def test_hops_are_one_for_each_layer_that_is_left() -> None:
    spec = specs.load("qwen2-7b")
    hops = {one.name: one.hops for one in cut(spec, groups(spec, "operator"), groups(spec, "attn-ffn"))}
    assert hops["embed.prefill"] == 1 and hops["lm_head.prefill"] == 1
    assert hops["qkv.prefill"] == hops["down.prefill"] == spec.layers
    assert hops["attn.decode"] == spec.layers
    assert stages(spec, "model")[0].hops == 0
    assert {one.name: one.hops for one in stages(spec, "pd")} == {"prefill": 1, "decode": 0}


def test_tied_embeddings_are_held_once_where_both_ends_are() -> None:
    tied = specs.parse(CONFIG | {"tie_word_embeddings": True}, "small", "small")
    apart = specs.parse(CONFIG, "small", "small")
    table = 2 * 100 * 64
    assert stages(apart, "model")[0].weight_bytes - stages(tied, "model")[0].weight_bytes == table
    assert cut(tied, groups(tied, "operator"), groups(tied, "pd"))[0].weight_bytes == table


def test_a_path_is_read_and_a_directory_too(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert specs.load(str(tmp_path)) == specs.load(str(tmp_path / "config.json"))
    assert specs.load(str(tmp_path)).kv_heads == 4


def test_the_decoder_of_a_model_of_several_modalities() -> None:
    assert specs.parse({"text_config": CONFIG, "vision_config": {"hidden_size": 1}}, "m", "m").hidden == 64


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"hidden_size": None}, "hidden_size must be a whole number"),
        ({"hidden_size": 0}, "hidden_size must not be 0"),
        ({"hidden_size": "64"}, "hidden_size must be a whole number"),
        ({"num_hidden_layers": 1e99}, "num_hidden_layers must be a whole number"),
        ({"num_hidden_layers": -1}, "num_hidden_layers must be a whole number"),
        ({"num_key_value_heads": 3}, "num_key_value_heads is 3, which does not divide 4 heads"),
        ({"torch_dtype": "float8_e4m3fn"}, "torch_dtype is 'float8_e4m3fn'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config names quantised weights"),
        ({"kv_lora_rank": 512}, "kv_lora_rank names latent attention"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types mixes kinds of attention"),
        ({"num_experts": 4, "num_experts_per_tok": 5}, "num_experts_per_tok is 5, more than the 4 experts"),
        ({"num_experts": 4, "num_experts_per_tok": 2, "decoder_sparse_step": 2}, "decoder_sparse_step mixes"),
    ],
)
def test_what_cannot_be_planned_for_is_said_in_a_sentence(change: dict[str, object], says: str) -> None:
    with pytest.raises(BadSpec) as refused:
        specs.parse(CONFIG | change, "m", "m.json")
    assert str(refused.value).startswith(f"m.json: {says}")


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_file_that_is_no_config(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(BadSpec):
        specs.load(str(tmp_path / "config.json"))


def test_a_name_that_is_neither_built_in_nor_a_file() -> None:
    with pytest.raises(BadSpec, match=r"qwen9 is neither one of qwen2-7b, .* nor readable"):
        specs.load("qwen9")
