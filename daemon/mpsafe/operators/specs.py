# SPDX-License-Identifier: Apache-2.0
"""What a model is made of: its operators with shapes, FLOPs and bytes, from the config.json of Hugging Face."""

import importlib.resources
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal, cast

from mpsafe.errors import BadSpec

__all__ = ["BUILT_IN", "Experts", "Gemm", "Operator", "Spec", "built_in", "load", "parse"]

BUILT_IN: Final = ("qwen2-7b", "llama-3.1-8b", "qwen3-32b", "mixtral-8x7b", "qwen2-57b-a14b")
BYTES: Final = 2  # a weight, an activation and a cached value are bfloat16
_MOST: Final = 1 << 22  # no dimension of a published model comes near


@dataclass(frozen=True, slots=True)
class Gemm:
    """A product of tokens x `k` with `k` x `n`; tensor parallelism cuts the axis `split`."""

    n: int
    k: int
    split: Literal["n", "k", ""]

    def shard(self, tensor_parallel: int) -> tuple[int, int]:
        """(n, k) of one GPU's part."""
        n = self.n // tensor_parallel if self.split == "n" else self.n
        return n, self.k // tensor_parallel if self.split == "k" else self.k


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture: each token goes through `top` of `count` experts of three matrices hidden x `inner`."""

    count: int
    top: int
    inner: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One operator. `layers`: how often an iteration runs it; all other figures are of one layer. `pass_bytes`: what
    its element-wise kernels (`kernels` of them: norm, rotation, activation) move for a token; `reduced`: its outcome is
    summed over the tensor-parallel GPUs; `out_bytes`: what it hands on for a token."""

    name: str
    layers: int
    gemms: tuple[Gemm, ...] = ()
    experts: Experts | None = None
    pass_bytes: float = 0
    kernels: int = 0
    reduced: bool = False
    out_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A decoder-only transformer, bfloat16. `inner` is the width of the dense feed-forward, or of the expert that all
    tokens share (0: none)."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    vocabulary: int
    tied: bool
    experts: Experts | None

    @property
    def kv_bytes_per_token(self) -> float:
        return 2.0 * self.layers * self.kv_heads * self.head_dim * BYTES

    @property
    def operators(self) -> tuple[Operator, ...]:
        """In the order in which a token passes them."""
        return _operators(self)

    def operator(self, name: str) -> Operator:
        """Raises KeyError."""
        return {operator.name: operator for operator in self.operators}[name]

    def weight_bytes(self, operator: Operator) -> float:
        """Of all layers, on all tensor-parallel GPUs together."""
        values = sum(gemm.n * gemm.k for gemm in operator.gemms)
        if operator.experts is not None:
            values += 3 * operator.experts.count * operator.experts.inner * self.hidden
        if operator.name == "embed":
            values += self.vocabulary * self.hidden
        return float(operator.layers * values * BYTES)

    def parallelisms(self) -> tuple[int, ...]:
        """Numbers of GPUs that divide all heads and widths evenly; cached heads are repeated where there are fewer."""
        widths = [self.heads, self.inner or self.heads, *([self.experts.inner] if self.experts else [])]
        return tuple(gpus for gpus in (1, 2, 4, 8) if all(width % gpus == 0 for width in widths))


@lru_cache(maxsize=64)
def _operators(spec: Spec) -> tuple[Operator, ...]:
    hidden, wide, narrow = spec.hidden, spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    state = hidden * BYTES
    qkv = wide + 2 * narrow
    rotated = 2 * (wide + narrow) * BYTES
    up, down = Gemm(2 * spec.inner, hidden, "n"), Gemm(hidden, spec.inner, "k")
    acted = 3 * spec.inner * BYTES
    operators = [
        Operator(name="embed", layers=1, pass_bytes=2 * state, kernels=1, out_bytes=state),
        Operator(
            name="qkv",
            layers=spec.layers,
            gemms=(Gemm(qkv, hidden, "n"),),
            pass_bytes=4 * state + rotated,
            kernels=2,
            out_bytes=qkv * BYTES,
        ),
        Operator(name="attention", layers=spec.layers, out_bytes=wide * BYTES),
        Operator(name="o", layers=spec.layers, gemms=(Gemm(hidden, wide, "k"),), reduced=True, out_bytes=state),
    ]
    if spec.experts is None:
        operators += [
            Operator(
                name="gate_up",
                layers=spec.layers,
                gemms=(up,),
                pass_bytes=4 * state + acted,
                kernels=2,
                out_bytes=spec.inner * BYTES,
            ),
            Operator(name="down", layers=spec.layers, gemms=(down,), reduced=True, out_bytes=state),
        ]
    else:
        shared = spec.inner > 0
        operators += [
            Operator(
                name="router",
                layers=spec.layers,
                gemms=(Gemm(spec.experts.count, hidden, ""),),
                pass_bytes=4 * state,
                kernels=1,
                out_bytes=state + 8 * spec.experts.top,
            ),
            Operator(
                name="experts",
                layers=spec.layers,
                gemms=(up, down) if shared else (),
                experts=spec.experts,
                pass_bytes=acted if shared else 0,
                kernels=1 if shared else 0,
                reduced=True,
                out_bytes=state,
            ),
        ]
    head = Gemm(spec.vocabulary, hidden, "n")
    operators.append(Operator(name="lm_head", layers=1, gemms=(head,), pass_bytes=2 * state, kernels=1, out_bytes=8))
    return tuple(operators)


def built_in(name: str) -> Spec:
    """One of BUILT_IN. Raises KeyError."""
    if name not in BUILT_IN:
        raise KeyError(name)
    text = importlib.resources.files("mpsafe.operators").joinpath("models", f"{name}.json").read_text()
    return parse(json.loads(text), name, name)


def load(spec: str) -> Spec:
    """A built-in name, or the path of a config.json or of the directory that holds it. Raises BadSpec."""
    if spec in BUILT_IN:
        return built_in(spec)
    path = Path(spec)
    path = path / "config.json" if path.is_dir() else path
    try:
        with path.open("rb") as file:
            config = json.loads(file.read(1 << 20))
    except OSError as error:
        raise BadSpec(spec, "", f"is neither one of {', '.join(BUILT_IN)} nor readable: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BadSpec(spec, "", "is not JSON") from error
    return parse(config, path.parent.name or spec, spec)


def parse(config: object, name: str, file: str) -> Spec:
    """From what json.loads made of a config.json. Raises BadSpec."""
    if not isinstance(config, dict):
        raise BadSpec(file, "", "is not a JSON object")
    fields = dict(cast("dict[str, object]", config))
    inner = fields.get("text_config")
    if isinstance(inner, dict):  # a model of several modalities: its decoder
        fields |= cast("dict[str, object]", inner)
    for field, why in _UNLIKE.items():
        if fields.get(field) not in (None, [], 0, False):
            raise BadSpec(file, field, why)
    if fields.get("layer_types") is not None and set(map(str, _list(fields["layer_types"]))) != {"full_attention"}:
        raise BadSpec(file, "layer_types", "mixes kinds of attention, which the planner does not model")
    kind = fields.get("dtype") or fields.get("torch_dtype") or "bfloat16"
    if kind not in ("bfloat16", "float16"):
        raise BadSpec(file, "torch_dtype", f"is {kind!r}, and the tables that are read are of bfloat16")

    def number(*names: str, default: int | None = None) -> int:
        field = next((one for one in names if fields.get(one) is not None), names[0])
        value = fields.get(field, default)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MOST:
            raise BadSpec(file, field, f"must be a whole number up to {_MOST}, and is {value!r}")
        if value == 0 and default != 0:
            raise BadSpec(file, field, "must not be 0")
        return value

    heads, hidden = number("num_attention_heads"), number("hidden_size")
    kv_heads = number("num_key_value_heads", default=heads)
    if heads % kv_heads:
        raise BadSpec(file, "num_key_value_heads", f"is {kv_heads}, which does not divide {heads} heads")
    experts = None
    if count := number("num_experts", "num_local_experts", "n_routed_experts", default=0):
        if number("decoder_sparse_step", default=1) != 1:
            raise BadSpec(
                file, "decoder_sparse_step", "mixes dense and sparse layers, which the planner does not model"
            )
        experts = Experts(count, number("num_experts_per_tok"), number("moe_intermediate_size", "intermediate_size"))
        if experts.top > count:
            raise BadSpec(file, "num_experts_per_tok", f"is {experts.top}, more than the {count} experts")
    return Spec(
        name=name,
        layers=number("num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=number("head_dim", default=max(1, hidden // heads)),
        inner=number("intermediate_size") if experts is None else number("shared_expert_intermediate_size", default=0),
        vocabulary=number("vocab_size"),
        tied=bool(fields.get("tie_word_embeddings")),
        experts=experts,
    )


def _list(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else []


_UNLIKE: Final = {
    "quantization_config": "names quantised weights, and the tables that are read are of bfloat16",
    "kv_lora_rank": "names latent attention, which no table that is read has measured",
    "mlp_only_layers": "mixes dense and sparse layers, which the planner does not model",
}
