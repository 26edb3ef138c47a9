# SPDX-License-Identifier: Apache-2.0
"""What no table has: times from FLOPs and bytes alone, and how a time depends on the share of SMs. All "modelled".

A kernel needs max(FLOPs / peak, bytes / bandwidth). With a share s of the SMs the peak is s of it; the bandwidth is
not: a fraction of the SMs fills the memory bus. BANDWIDTH_SHARE is the share from which on it is taken to be full.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from mpsafe.operators.model import Device, Floats
from mpsafe.operators.specs import BYTES, Experts

__all__ = [
    "BANDWIDTH_SHARE",
    "REACHED",
    "Work",
    "attend",
    "attend_cached",
    "gemm",
    "mixture",
    "passes",
    "slowdown",
    "work_s",
]

# An assumption: published copy and decode-attention curves of this generation of GPUs flatten between 30 % and 60 % of
# the SMs. Nothing was measured here: `mpsafe operators profile` replaces it on a GPU.
BANDWIDTH_SHARE: Final = 0.5
REACHED: Final = 0.8  # of the nominal bandwidth, as in aiconfigurator's system files
_KERNEL_S: Final = 3e-6  # launch and drain of an element-wise kernel: the same files


@dataclass(frozen=True, slots=True)
class Work:
    """FLOPs and bytes, each a scalar or an array over sizes."""

    flops: Floats
    moved: Floats

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.moved + other.moved)

    def times(self, factor: float) -> "Work":
        return Work(self.flops * factor, self.moved * factor)


def gemm(tokens: Floats, n: float, k: float) -> Work:
    return Work(2 * tokens * n * k, BYTES * (tokens * k + n * k + tokens * n))


def attend(lengths: Floats, heads: float, kv_heads: float, head_dim: float) -> Work:
    """Causal attention of one whole prompt of each length."""
    return Work(2 * heads * head_dim * lengths**2, BYTES * 2 * (heads + kv_heads) * head_dim * lengths)


def attend_cached(tokens: Floats, context: Floats, heads: float, kv_heads: float, head_dim: float) -> Work:
    """One new token of each of `tokens` sequences against its cache."""
    return Work(4 * heads * head_dim * tokens * context, BYTES * 2 * kv_heads * head_dim * tokens * (context + 1))


def mixture(tokens: Floats, hidden: float, experts: Experts, tensor_parallel: int) -> Work:
    """Evenly routed experts; weights are read of those that any token chose."""
    matrix = 3.0 * hidden * experts.inner / tensor_parallel
    chosen = experts.count * (1 - (1 - experts.top / experts.count) ** tokens)
    moved = BYTES * (chosen * matrix + tokens * experts.top * (2 * hidden + 3 * experts.inner / tensor_parallel))
    return Work(2 * tokens * experts.top * matrix, moved)


def passes(device: Device, tokens: Floats, bytes_per_token: float, kernels: int) -> Floats:
    """Element-wise kernels, in seconds."""
    return tokens * (bytes_per_token / (device.memory_bytes_per_s * REACHED)) + kernels * _KERNEL_S


def work_s(device: Device, work: Work) -> Floats:
    """Seconds on the whole device."""
    return np.asarray(np.maximum(work.flops / device.flops, work.moved / device.memory_bytes_per_s), np.float64)


def slowdown(device: Device, work: Work, share: float) -> Floats:
    """By what a time grows where only `share` of the SMs run it."""
    compute, memory = work.flops / device.flops, work.moved / device.memory_bytes_per_s
    reached = min(1.0, share / BANDWIDTH_SHARE)
    whole = np.maximum(np.maximum(compute, memory), 1e-30)
    return np.asarray(np.maximum(compute / share, memory / reached) / whole, np.float64)
