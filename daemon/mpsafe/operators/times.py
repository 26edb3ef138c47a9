# SPDX-License-Identifier: Apache-2.0
"""How long a stage's worker needs, for one parallelism and one SM share: a profile's points summed over operators."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from mpsafe.operators import roofline
from mpsafe.operators.curves import along
from mpsafe.operators.model import Device, Floats, Stage, StageTimes
from mpsafe.operators.profiles import Profile
from mpsafe.operators.specs import Operator, Spec

__all__ = ["CONTEXT", "LENGTHS", "SEQUENCES", "SHARES", "TOKENS", "decode_s", "linear_s", "prefill_s", "stage_times"]

SHARES: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_POWERS: Final = np.array([1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024], np.float64)
TOKENS: Final[Floats] = np.array([*_POWERS, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768], np.float64)
LENGTHS: Final[Floats] = np.array(
    [1, 64, 128, 256, 512, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 65536, 131072],
    np.float64,
)
SEQUENCES: Final[Floats] = _POWERS
CONTEXT: Final[Floats] = np.array([16, 128, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072], np.float64)
_HEADS_AT_ONCE: Final = 256  # the most tokens of an iteration that go through lm_head, where prompts are in it too
_BUSY_TOKENS: Final = 2048.0  # a prefill worker's iteration at which its use of the memory bus is stated


@dataclass(frozen=True, slots=True)
class _Part:
    """Seconds on the whole device, and the work that says how they grow with a smaller share."""

    seconds: Floats
    work: roofline.Work

    def at(self, device: Device, share: float) -> Floats:
        return self.seconds * roofline.slowdown(device, self.work, share)


@lru_cache(maxsize=4096)
def stage_times(profile: Profile, spec: Spec, stage: Stage, tensor_parallel: int, share: float) -> StageTimes:
    """All layers together. Raises NotMeasured."""
    device = profile.device
    linear = np.zeros_like(TOKENS)
    busy = 0.0
    for name in stage.operators:
        part = _linear(profile, spec, spec.operator(name), stage, tensor_parallel)
        linear = linear + part.at(device, share)
        if stage.phases == ("prefill",):
            busy += float(np.interp(_BUSY_TOKENS, TOKENS, part.work.moved))
    prefill, decode = np.zeros_like(LENGTHS), np.zeros((len(SEQUENCES), len(CONTEXT)))
    if "attention" in stage.operators and "prefill" in stage.phases:
        prefill = _prefill(profile, spec, tensor_parallel).at(device, share)
    if "attention" in stage.operators and "decode" in stage.phases:
        decode = _decode(profile, spec, tensor_parallel).at(device, share)
    reached = min(1.0, share / roofline.BANDWIDTH_SHARE)
    if stage.phases == ("prefill",):
        seconds = float(np.interp(_BUSY_TOKENS, TOKENS, linear) + np.interp(_BUSY_TOKENS, LENGTHS, prefill))
        reached = min(reached, busy / max(seconds, 1e-12) / device.memory_bytes_per_s)
    return StageTimes(
        stage=stage.name,
        tensor_parallel=tensor_parallel,
        share=share,
        linear_tokens=TOKENS,
        linear_s=linear,
        prefill_lengths=LENGTHS,
        prefill_s=prefill,
        decode_sequences=SEQUENCES,
        decode_context=CONTEXT,
        decode_s=decode,
        hop_s=profile.hop_s,
        bandwidth_share=reached,
        source=f"{'measured' if share == 1 else 'modelled share of what was measured'}: {profile.name}",
    )


def linear_s(times: StageTimes, tokens: Floats) -> Floats:
    """Of iterations with so many tokens."""
    return along(tokens, times.linear_tokens, times.linear_s)


def prefill_s(times: StageTimes, lengths: Floats) -> Floats:
    """Of the attention of whole prompts."""
    return along(lengths, times.prefill_lengths, times.prefill_s)


def decode_s(times: StageTimes, sequences: float, context: float) -> float:
    """Of the attention of one token of each sequence."""
    column = np.array([along(np.array([context]), times.decode_context, row)[0] for row in times.decode_s])
    return float(along(np.array([sequences]), times.decode_sequences, column)[0])


@lru_cache(maxsize=1024)
def _linear(profile: Profile, spec: Spec, operator: Operator, stage: Stage, gpus: int) -> _Part:
    tokens = TOKENS
    if operator.name == "lm_head" and "prefill" in stage.phases:
        # Of a prompt only the last token goes through it; few prompts or many, reading its weights is what it costs.
        tokens = np.minimum(TOKENS, _HEADS_AT_ONCE if "decode" in stage.phases else 1)
    seconds = profile.linear(spec, operator, gpus, tokens)
    work = roofline.Work(np.zeros_like(tokens), tokens * operator.pass_bytes / gpus)
    for gemm in operator.gemms:
        work = work + roofline.gemm(tokens, *gemm.shard(gpus))
    if operator.experts is not None:
        work = work + roofline.mixture(tokens, spec.hidden, operator.experts, gpus)
    if gpus > 1 and operator.reduced:
        seconds = seconds + profile.reduce(gpus, tokens * operator.out_bytes)
    return _Part(seconds * operator.layers, work.times(operator.layers))


@lru_cache(maxsize=64)
def _prefill(profile: Profile, spec: Spec, gpus: int) -> _Part:
    work = roofline.attend(LENGTHS, spec.heads / gpus, max(1, spec.kv_heads / gpus), spec.head_dim)
    return _Part(profile.prefill(spec, gpus, LENGTHS) * spec.layers, work.times(spec.layers))


@lru_cache(maxsize=64)
def _decode(profile: Profile, spec: Spec, gpus: int) -> _Part:
    rows, columns = SEQUENCES[:, np.newaxis], CONTEXT[np.newaxis, :]
    work = roofline.attend_cached(rows, columns, spec.heads / gpus, max(1, spec.kv_heads / gpus), spec.head_dim)
    return _Part(profile.decode(spec, gpus, SEQUENCES, CONTEXT) * spec.layers, work.times(spec.layers))
