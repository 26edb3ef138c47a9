# SPDX-License-Identifier: Apache-2.0
"""python -m tools.qualify.moe SHAPE DEVICE: what offloaded experts cost, a JSON object a line for each arm.

Models of a real model's shape with random weights, in bfloat16 on a GPU: time to the first token and from token to
token with all experts resident, and with room for 12.5 and 25 % of them under several policies; on a GPU also as the
library runs the whole model. A random router asks for nothing that could be predicted, so routes are put in its place:
those of the real OLMoE trace, layer for layer, its layers over again where there are more, without a router's own
arithmetic in any arm. Latency and routes are real then, the text is not, and lookahead is always right: what gate
lookahead and mpsafe have here is the best that they could. `policy_us` and `resident_us` are per layer: what the policy
took, and what it took to act on it.
"""

import inspect
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import transformers

from mpsafe.experts.layers import moe_layers
from mpsafe.experts.offload import attach
from mpsafe.experts.trace import Trace, read

__all__ = ["SHAPES"]

OLMOE: Final = Path(__file__).parents[2] / "tests" / "data" / "expert_traces" / "olmoe_299.jsonl"
# Tokens of the prompt, and behind it; on a CPU there is nothing to measure.
TOKENS: Final = {"cuda": (32, 64), "cpu": (8, 12)}
SETTLE_TOKENS: Final = 8
POLICIES: Final = ("lru", "gate-1", "finemoe-1", "mpsafe")
# Class, configuration. olmoe is OLMoE-1B-7B, qwen3 a quarter of Qwen3-30B-A3B's layers, small what a test can wait for.
SHAPES: Final[dict[str, tuple[str, dict[str, int]]]] = {
    "olmoe": (
        "Olmoe",
        {
            "hidden_size": 2048,
            "intermediate_size": 1024,
            "num_hidden_layers": 16,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "num_experts": 64,
            "num_experts_per_tok": 8,
        },
    ),
    "qwen3": (
        "Qwen3Moe",
        {
            "hidden_size": 2048,
            "moe_intermediate_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "num_experts": 128,
            "num_experts_per_tok": 8,
        },
    ),
    "small": (
        "Olmoe",
        {
            "hidden_size": 64,
            "intermediate_size": 32,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "num_experts": 64,
            "num_experts_per_tok": 8,
        },
    ),
}
ARMS: Final = (
    ("resident", "lru", 100.0),
    *((f"{one}, {percent:g} %", one, percent) for percent in (12.5, 25.0) for one in POLICIES),
)


class Routes:
    """Puts a trace's ids in the place of what the routers chose, with equal weights, from token to token."""

    def __init__(self, trace: Trace, device: str, *, count: int) -> None:
        """`count`: experts of a layer; the trace's are spread over them."""
        self._layers = trace.layers
        self._token = 0
        wide = np.stack(trace.ids).reshape(len(trace), trace.layers, -1) * (count // trace.experts)
        self._ids = torch.from_numpy(wide).to(device)
        self._weights = torch.full((len(trace), wide.shape[-1]), 1 / wide.shape[-1], device=torch.device(device))
        self._logits = torch.zeros((*wide.shape[:2], count), device=device).scatter_(2, self._ids, 8.0)

    def begin(self) -> None:
        """From the trace's first token."""
        self._token = 0

    def at(self, layer: int) -> Callable[[Any], Any]:
        """In the place of a router's own. Layer 0 goes on to the next tokens."""
        place = layer % self._layers

        def routed(hidden: Any) -> Any:
            rows = hidden.reshape(-1, hidden.shape[-1]).shape[0]
            if layer == 0:
                self._token += rows
            start = (self._token - rows) % (len(self._ids) - rows)
            chosen = self._ids[start : start + rows, place]
            return self._logits[start : start + rows, place], self._weights[:rows], chosen

        return routed


def measure(shape: str, device: str) -> Iterator[dict[str, dict[str, Any]]]:
    """Each arm by its name; times in ms, by the host's clock, behind a synchronisation."""
    name, sizes = SHAPES[shape]
    model = _model(name, sizes, device)
    routes = Routes(read(OLMOE), device, count=sizes["num_experts"])
    for layer, router in enumerate(layer.router for layer in moe_layers(model)):
        object.__setattr__(router, "forward", routes.at(layer))
    for arm, policy, percent in ARMS:
        began = time.monotonic()
        with attach(model, cache_percent=percent, policy=policy, device=device) as served:
            packed_s = time.monotonic() - began
            served.fill()
            routes.begin()
            first_ms, steps_ms = _generate(model, device, *TOKENS[device.partition(":")[0]])
            seen = served.counters
            asked = max(1, seen.hits + seen.late + seen.misses)
            layers = sizes["num_hidden_layers"] * (len(steps_ms) + SETTLE_TOKENS + 1)
            measured = {
                "ttft_ms": round(first_ms, 2),
                **_tokens(steps_ms),
                "hit_rate": round(seen.hits / asked, 4),
                "late": seen.late,
                "moved_mib": seen.moved_bytes >> 20,
                "stalled_ms": round(seen.stalled_s * 1e3, 1),
                "policy_us": round(seen.policy_s * 1e6 / layers, 1),
                "resident_us": round(seen.resident_s * 1e6 / layers, 1),
                "cache_mib": served.cache_bytes >> 20,
                "packed_s": round(packed_s, 1),
                "link": served.link.name,
            }
        yield {arm: measured}
        model.to("cpu")
    if device.startswith("cuda"):
        yield {"library": _library(model, device, routes)}


def _library(model: Any, device: str, routes: Routes) -> dict[str, Any]:
    """The whole model on the device, run by Transformers' own experts function."""
    model.to(device)
    routes.begin()
    first_ms, steps_ms = _generate(model, device, *TOKENS["cuda"])
    function = model.config._experts_implementation
    return {"ttft_ms": round(first_ms, 2), **_tokens(steps_ms), "function": function}


def _tokens(steps_ms: list[float]) -> dict[str, float]:
    """From token to token."""
    ordered = sorted(steps_ms)
    return {
        "tpot_p50_ms": round(statistics.median(ordered), 2),
        "tpot_p95_ms": round(ordered[int(len(ordered) * 0.95)], 2),
    }


def _model(name: str, sizes: dict[str, int], device: str) -> Any:
    """Random weights; the experts' are the same for every expert of a layer: what is in them costs no time."""
    config = getattr(transformers, f"{name}Config")(vocab_size=32_000, eos_token_id=None, pad_token_id=0, **sizes)
    torch.set_default_dtype(torch.bfloat16 if device.startswith("cuda") else torch.float32)
    with torch.device("meta"):
        model: Any = getattr(transformers, f"{name}ForCausalLM")(config)
    model = model.to_empty(device="cpu").eval()
    for parameter in model.parameters():
        parameter.data.fill_(0.01)
    for buffer_name, buffer in list(model.named_buffers()):
        if "inv_freq" in buffer_name:
            buffer.copy_(1.0 / 10_000 ** (torch.arange(len(buffer)).float() / len(buffer)))
    return model


@torch.no_grad()
def _generate(model: Any, device: str, prompt: int, tokens: int) -> tuple[float, list[float]]:
    """Time of the prompt, and of each token behind it but the first ones."""

    # transformers before 5.20 has another name for it
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"

    def step(ids: Any, cache: Any) -> tuple[Any, float]:
        began = time.perf_counter()
        output = model(ids, use_cache=True, **{name: cache})
        output.logits[:, -1].argmax(-1).tolist()  # waits for the device
        return output[name], (time.perf_counter() - began) * 1e3

    cache, first_ms = step(torch.ones((1, prompt), dtype=torch.long, device=device), None)
    steps: list[float] = []
    for _ in range(tokens):
        cache, ms = step(torch.ones((1, 1), dtype=torch.long, device=device), cache)
        steps.append(ms)
    return first_ms, steps[SETTLE_TOKENS:]


if __name__ == "__main__":
    for arm in measure(*sys.argv[1:]):
        print(json.dumps(arm), flush=True)
