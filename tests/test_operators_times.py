# SPDX-License-Identifier: Apache-2.0
"""This test will add up what a stage's worker needs, and see how that changes with share and parallelism."""

import numpy as np
import pytest

from mpsafe.operators import specs
from mpsafe.operators.stages import stage, stages
from mpsafe.operators.times import decode_s, linear_s, prefill_s, stage_times
from operator_profiles import h200

SPEC = specs.load("qwen2-7b")


def test_a_stage_is_the_sum_of_its_operators() -> None:
    whole = stage_times(h200(), SPEC, stage(SPEC, "decode"), 1, 1.0)
    parts = [stage_times(h200(), SPEC, one, 1, 1.0) for one in stages(SPEC, "operator") if one.phases == ("decode",)]
    assert np.sum([part.linear_s for part in parts], axis=0) == pytest.approx(whole.linear_s)
    assert np.sum([part.decode_s for part in parts], axis=0) == pytest.approx(whole.decode_s)


def test_the_rate_of_prefill_is_below_the_peak_and_of_its_order() -> None:
    """2 FLOPs a weight and token on a GPU of 989 TFLOP/s: 16 k tokens have to take between one and three times that."""
    times = stage_times(h200(), SPEC, stage(SPEC, "prefill"), 1, 1.0)
    weights = sum(SPEC.weight_bytes(one) for one in SPEC.operators if one.name not in ("embed", "lm_head")) / 2
    floor = 2 * weights * 16384 / h200().device.flops
    assert floor < linear_s(times, np.array([16384.0]))[0] < 3 * floor


def test_decoding_cannot_be_faster_than_its_bytes() -> None:
    times = stage_times(h200(), SPEC, stage(SPEC, "decode"), 1, 1.0)
    moved = stage(SPEC, "decode").weight_bytes + 64 * 2048 * SPEC.kv_bytes_per_token
    seconds = linear_s(times, np.array([64.0]))[0] + decode_s(times, 64, 2048)
    assert 1.0 < seconds * h200().device.memory_bytes_per_s / moved < 2.5


def test_a_share_slows_what_computes_and_spares_what_waits_for_memory() -> None:
    """Prefill at half the SMs takes twice as long; decoding as long as with all of them, for half fill the memory
    bus."""
    long = np.array([8192.0])
    prefill = [stage_times(h200(), SPEC, stage(SPEC, "prefill"), 1, share) for share in (0.5, 1.0)]
    assert linear_s(prefill[0], long)[0] / linear_s(prefill[1], long)[0] == pytest.approx(2, rel=0.02)
    assert prefill_s(prefill[0], long)[0] / prefill_s(prefill[1], long)[0] == pytest.approx(2)
    decode = [stage_times(h200(), SPEC, stage(SPEC, "decode"), 1, share) for share in (0.25, 0.5, 1.0)]
    at = [linear_s(one, np.array([16.0]))[0] + decode_s(one, 16, 2048) for one in decode]
    assert at[1] == pytest.approx(at[2], rel=0.02) and at[0] == pytest.approx(2 * at[1], rel=0.02)
    assert [one.bandwidth_share for one in decode] == [0.5, 1, 1]
    assert prefill[1].bandwidth_share < 0.3
    assert prefill[0].source.startswith("modelled") and prefill[1].source.startswith("measured")


def test_two_gpus_are_faster_and_not_twice() -> None:
    one, two = (stage_times(h200(), SPEC, stage(SPEC, "prefill"), gpus, 1.0) for gpus in (1, 2))
    ratio = linear_s(one, np.array([4096.0]))[0] / linear_s(two, np.array([4096.0]))[0]
    assert 1.4 < ratio < 2


def test_a_prompt_passes_lm_head_with_its_last_token_only() -> None:
    times = stage_times(h200(), SPEC, stage(SPEC, "lm_head.prefill"), 1, 1.0)
    assert linear_s(times, np.array([8192.0]))[0] == linear_s(times, np.array([1.0]))[0]
    decode = stage_times(h200(), SPEC, stage(SPEC, "lm_head.decode"), 1, 1.0)
    assert linear_s(decode, np.array([1024.0]))[0] > 1.5 * linear_s(decode, np.array([64.0]))[0]


def test_grids_have_what_the_words_say() -> None:
    times = stage_times(h200(), SPEC, stage(SPEC, "model"), 1, 1.0)
    assert np.all(np.diff(times.linear_tokens) > 0) and np.all(np.diff(times.prefill_lengths) > 0)
    assert times.decode_s.shape == (len(times.decode_sequences), len(times.decode_context))
    assert times.hop_s == h200().hop_s == 1e-5
