# SPDX-License-Identifier: Apache-2.0
"""The words of mpsafe.operators: what a model is made of, what a load asks for, and what a plan says.

A *stage* is a set of operators of one or both phases that one pool of workers executes; a *granularity* is a partition
of a model into stages. One *iteration* is one pass of a batch through all layers; a worker executes its stage's share
of an iteration, all layers together.
"""

from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = [
    "GRANULARITIES",
    "Demand",
    "Device",
    "Floats",
    "Granularity",
    "Latency",
    "Phase",
    "Placed",
    "Plan",
    "PoolPlan",
    "Slo",
    "Stage",
    "StageTimes",
]

Phase: TypeAlias = Literal["prefill", "decode"]
Granularity: TypeAlias = Literal["operator", "pd", "attn-ffn", "model"]
GRANULARITIES: Final[tuple[Granularity, ...]] = ("operator", "pd", "attn-ffn", "model")

Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Slo:
    """What a request is promised: the 99th percentile of the time to its first token, and of that between two."""

    ttft_s: float
    tbt_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """A load, as a plan sees it. Lengths in tokens; `arrival_scv` is the squared coefficient of variation of the gaps
    between arrivals, `*_scv` that of the lengths. `prompts` is a sample of prompt lengths, for what is not linear in
    them (prefill attention)."""

    rate_per_s: float
    prompt_mean: float
    output_mean: float
    prompt_scv: float = 1.0
    output_scv: float = 1.0
    arrival_scv: float = 1.0
    prompts: Floats = field(default_factory=lambda: np.empty(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A GPU, from a profile's system file. Bytes, FLOP/s (dense bf16), bytes/s, watts."""

    name: str
    memory_bytes: float
    flops: float
    memory_bytes_per_s: float
    link_bytes_per_s: float
    idle_w: float
    peak_w: float
    clients_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A pool's work: the operators (names of `specs`) of these phases. `weight_bytes` of one worker before tensor
    parallelism; `kv_bytes_per_token` where it holds the cache; `out_bytes_per_token`: what it hands to the next stage,
    all layers together; `hops`: how often an iteration leaves it for another stage."""

    name: str
    operators: tuple[str, ...]
    phases: tuple[Phase, ...]
    weight_bytes: float
    kv_bytes_per_token: float
    out_bytes_per_token: float
    hops: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTimes:
    """How long a worker of a stage needs for its share of an iteration, for one parallelism and one SM share.

    An iteration with P prompt tokens, of sequences with prompts of length l_1..l_m, and n decoding sequences whose
    caches hold k tokens in the mean takes

        linear(P + n) + sum(prefill(l_i)) + decode(n, k)        seconds

    `linear_s[i]` at `linear_tokens[i]`; `prefill_s[i]` at `prefill_lengths[i]`, the attention of one whole prompt;
    `decode_s[i, j]` at `decode_sequences[i]`, `decode_context[j]`. Grids ascend and are interpolated linearly, beyond
    their end by the last two points; before the first token the first point holds. Tables of zeros where a stage has
    no such part. `source`: "measured" or "modelled", and from what.
    """

    stage: str
    tensor_parallel: int
    share: float
    linear_tokens: Floats
    linear_s: Floats
    prefill_lengths: Floats
    prefill_s: Floats
    decode_sequences: Floats
    decode_context: Floats
    decode_s: Floats
    hop_s: float
    bandwidth_share: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPlan:
    """`replicas` equal workers of a stage. `batch`: the most sequences in a decoding worker's iteration; `tokens`: the
    most prompt tokens in one iteration. `share` of a GPU's SMs in (0, 1], on each of `tensor_parallel` GPUs.
    `memory_bytes` on each of them."""

    stage: str
    replicas: int
    batch: int
    tokens: int
    tensor_parallel: int
    share: float
    memory_bytes: float


@dataclass(frozen=True, slots=True)
class Latency:
    """Expected times, in seconds."""

    ttft_mean_s: float
    ttft_p99_s: float
    tbt_mean_s: float
    tbt_p99_s: float


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a worker is: shard `shard` of replica `replica` of a stage on GPU `gpu`."""

    stage: str
    replica: int
    shard: int
    gpu: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to run. `binding`: "" or, where the promise cannot be kept, the operator or resource that it fails on, in
    words; the plan is then the nearest that there is. `bound_gpus`: no plan of these options needs fewer."""

    granularity: Granularity
    pools: tuple[PoolPlan, ...]
    placement: tuple[Placed, ...]
    gpus: int
    latency: Latency
    watts: float
    bound_gpus: float
    binding: str = ""
