# SPDX-License-Identifier: Apache-2.0
"""Small Transformers models of several classes, with weights by a fixed seed, for the processes of test_tensors.py."""

from inspect import signature
from typing import Any

import torch
import transformers
from torch import nn

__all__ = ["MODELS", "PROMPT", "config", "greedy", "logits", "made"]

SIZES: dict[str, object] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 61,
    "max_position_embeddings": 64,
}
MOE: dict[str, object] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
MODELS: dict[str, tuple[Any, Any, dict[str, object]]] = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM, SIZES),
    "qwen2-tied": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM, {**SIZES, "tie_word_embeddings": True}),
    "qwen3-moe": (transformers.Qwen3MoeConfig, transformers.Qwen3MoeForCausalLM, {**SIZES, **MOE, "head_dim": 8}),
}
PROMPT = (3, 14, 15, 9, 26)


def config(name: str) -> Any:
    """Its configuration."""
    kind, _, sizes = MODELS[name]
    return kind(**sizes)


def made(name: str, *, seed: int = 0, empty: bool = False) -> nn.Module:
    """A model of that class; an empty one has its parameters on the meta device, and waits for others."""
    torch.manual_seed(seed)
    model: nn.Module = MODELS[name][1](config(name)).eval()
    if empty:
        gone = {id(parameter): nn.Parameter(parameter.to("meta")) for parameter in model.parameters()}
        for module in model.modules():
            for key, parameter in module._parameters.items():
                module._parameters[key] = gone.get(id(parameter))
    return model


def logits(model: nn.Module) -> bytes:
    """What a model says of the prompt, to the bit."""
    device = next(model.parameters()).device
    with torch.no_grad():
        said = model(torch.tensor([PROMPT], device=device)).logits.cpu()
    return bytes(said.view(torch.uint8).flatten().tolist())


def greedy(model: nn.Module, tokens: list[int], count: int, past: Any) -> list[int]:
    """The next tokens, one at a time; `past` has all but the last of `tokens` already, or nothing."""
    device = next(model.parameters()).device
    said = list(tokens)
    keyword = "cache" if "cache" in signature(model.forward).parameters else "past_key_values"
    with torch.no_grad():
        for _ in range(count):
            fresh = torch.tensor([said[past.get_seq_length() :]], device=device)
            said.append(int(model(fresh, **{keyword: past}).logits[0, -1].argmax()))
    return said[len(tokens) :]
