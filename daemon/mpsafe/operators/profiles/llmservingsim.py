# SPDX-License-Identifier: Apache-2.0
"""The tables of LLMServingSim: <gpu>/<organisation>/<model>/bf16/tp<N>/{dense,attention,per_sequence,moe}.csv.

Times are in µs, of one decoder layer of one model, up to 2,048 tokens in an iteration and 256 sequences. There is no
table of what passes between GPUs, so no parallelism but one can be planned from them.
"""

from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from typing_extensions import override

from mpsafe.errors import BadProfile, NotMeasured
from mpsafe.operators.curves import along, surface
from mpsafe.operators.model import Floats
from mpsafe.operators.profiles.csv_table import curve, rows
from mpsafe.operators.profiles.datasheets import DATASHEETS, HOP_S
from mpsafe.operators.profiles.profile import Profile
from mpsafe.operators.specs import Operator, Spec

__all__ = ["LlmServingSim"]

# Which rows are an operator; the norm after attention is as long as that before it.
_DENSE: Final = {
    "embed": ("embedding",),
    "qkv": ("layernorm", "qkv_proj", "qk_norm", "rotary_emb"),
    "o": ("o_proj",),
    "gate_up": ("layernorm", "gate_up_proj", "act_fn"),
    "down": ("down_proj",),
    "router": ("layernorm",),
    "lm_head": ("final_layernorm",),
}
_OPTIONAL: Final = ("qk_norm",)
# Layers, hidden, heads, cached heads and experts of the models whose tables there are.
_MODELS: Final = {
    "Llama-3.1-8B": (32, 4096, 32, 8, 0),
    "Qwen3-32B": (64, 5120, 64, 8, 0),
    "Qwen3-30B-A3B-Instruct-2507": (48, 2048, 32, 4, 128),
}


@dataclass(eq=False)
class LlmServingSim(Profile):
    """One GPU and model: the folder that has tp1."""

    model: str

    @staticmethod
    def open(path: Path) -> "LlmServingSim":
        """Raises BadProfile."""
        names = [part.name for part in (path.resolve(), *path.resolve().parents)]
        model = next((name for name in names if name in _MODELS), None)
        gpu = next((name for name in names if name in DATASHEETS), None)
        if model is None or gpu is None:
            raise BadProfile(str(path), "is not under <gpu>/<organisation>/<model> of LLMServingSim")
        return LlmServingSim(path, DATASHEETS[gpu], HOP_S, model)

    @property
    @override
    def name(self) -> str:
        return f"llmservingsim/{self.device.name}/{self.model}"

    def _file(self, spec: Spec, tensor_parallel: int, table: str, what: str) -> Path:
        experts = spec.experts.count if spec.experts else 0
        if (spec.layers, spec.hidden, spec.heads, spec.kv_heads, experts) != _MODELS[self.model]:
            raise NotMeasured(self.name, what, f"its tables are of {self.model}, not of {spec.name}")
        file = self.path / f"tp{tensor_parallel}" / f"{table}.csv"
        if not file.is_file():
            raise NotMeasured(self.name, what, f"there is no tp{tensor_parallel}/{table}.csv")
        return file

    @override
    def linear(self, spec: Spec, operator: Operator, tensor_parallel: int, tokens: Floats) -> Floats:
        if operator.name == "attention":
            return np.zeros_like(tokens)
        seconds = np.zeros_like(tokens)
        if operator.name == "experts":
            return self._experts(spec, tensor_parallel, tokens)
        dense = _layers(self._file(spec, tensor_parallel, "dense", operator.name), "tokens")
        for layer in _DENSE[operator.name]:
            if layer in dense:
                seconds = seconds + along(tokens, *dense[layer])
            elif layer not in _OPTIONAL:
                raise NotMeasured(self.name, operator.name, f"there are no rows of {layer}")
        if operator.name == "lm_head":
            heads = _layers(self._file(spec, tensor_parallel, "per_sequence", operator.name), "sequences")
            seconds = seconds + along(tokens, *heads["lm_head"])
        self.notes.say("dense operators: measured up to 2048 tokens, carried on straight beyond")
        return seconds

    def _experts(self, spec: Spec, tensor_parallel: int, tokens: Floats) -> Floats:
        """At as many experts as evenly routed tokens activate in the mean."""
        assert spec.experts is not None
        points = defaultdict[float, list[tuple[float, float]]](list)
        for row, _ in rows(
            self._file(spec, tensor_parallel, "moe", "experts"), ("tokens", "activated_experts", "time_us")
        ):
            points[row["tokens"]].append((row["activated_experts"], row["time_us"] / 1e6))
        count, top = spec.experts.count, spec.experts.top
        active = count * (1 - (1 - top / count) ** tokens)
        table = surface(tokens, active, {at: curve(measured) for at, measured in points.items()})
        return np.array([float(table[at, at]) for at in range(len(tokens))])

    @override
    def prefill(self, spec: Spec, tensor_parallel: int, lengths: Floats) -> Floats:
        prompts, _ = _attention(self._file(spec, tensor_parallel, "attention", "prefill attention"))
        longest = prompts[0][-1]
        self.notes.say(f"prefill attention: measured to {longest:.0f} tokens, as the square of the length beyond")
        beyond = np.maximum(1.0, lengths / longest) ** 2
        return np.asarray(along(np.minimum(lengths, longest), *prompts) * beyond, np.float64)

    @override
    def decode(self, spec: Spec, tensor_parallel: int, sequences: Floats, context: Floats) -> Floats:
        _, cached = _attention(self._file(spec, tensor_parallel, "attention", "decode attention"))
        return surface(sequences, context, cached)

    @override
    def reduce(self, gpus: int, moved: Floats) -> Floats:
        raise NotMeasured(self.name, "all-reduce", "LLMServingSim has no such table")


@lru_cache(maxsize=64)
def _layers(file: Path, places: str) -> dict[str, tuple[Floats, Floats]]:
    """By layer, seconds over tokens or sequences."""
    points = defaultdict[str, list[tuple[float, float]]](list)
    for row, (layer,) in rows(file, (places, "time_us"), ("layer",)):
        points[layer].append((row[places], row["time_us"] / 1e6))
    return {layer: curve(measured) for layer, measured in points.items()}


@lru_cache(maxsize=64)
def _attention(file: Path) -> tuple[tuple[Floats, Floats], dict[float, tuple[Floats, Floats]]]:
    """Seconds of whole prompts by length, and of decoding by sequences and cached tokens."""
    prompts, cached = list[tuple[float, float]](), defaultdict[float, list[tuple[float, float]]](list)
    for row, _ in rows(file, ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us")):
        seconds = row["time_us"] / 1e6
        if row["n_decode"] == 0 and row["kv_prefill"] == 0:
            prompts.append((row["prefill_chunk"], seconds))
        elif row["prefill_chunk"] == 0 and row["n_decode"] > 0:
            cached[row["n_decode"]].append((row["kv_decode"], seconds))
    if not prompts or not cached:
        raise BadProfile(str(file), "has no rows of prompts alone, or of decoding alone")
    return curve(prompts), {at: curve(points) for at, points in cached.items()}
