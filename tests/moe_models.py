# SPDX-License-Identifier: Apache-2.0
"""Small mixture-of-experts models of Transformers' own classes, with random weights that differ by seed."""

from typing import Any, Final

__all__ = ["CLASSES", "VOCABULARY", "make"]

VOCABULARY: Final = 256
_SIZE: Final = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_MANY: Final = {"num_experts": 16, "num_experts_per_tok": 4}
_LOCAL: Final = {"num_local_experts": 16, "num_experts_per_tok": 4}
CLASSES: Final[dict[str, dict[str, Any]]] = {
    "Olmoe": _MANY,
    "Mixtral": {"num_local_experts": 8, "num_experts_per_tok": 2},
    "Qwen2Moe": {**_MANY, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32},
    "Qwen3Moe": {**_MANY, "moe_intermediate_size": 32, "head_dim": 16},
    "Phimoe": {"num_local_experts": 16, "num_experts_per_tok": 2},
    "GptOss": {**_LOCAL, "head_dim": 16, "layer_types": ["full_attention"] * 4},
    "GraniteMoe": _LOCAL,
    "Glm4Moe": {
        "n_routed_experts": 16,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 32,
        "head_dim": 16,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
        "n_shared_experts": 1,
    },
}


def make(name: str, *, seed: int = 0, **more: Any) -> Any:
    """A causal model of that class, in evaluation."""
    import torch
    import transformers

    torch.manual_seed(seed)
    config = getattr(transformers, f"{name}Config")(**{**_SIZE, **CLASSES.get(name, {}), **more})
    model: Any = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    for parameter in model.parameters():
        if len(parameter.shape) > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    return model
