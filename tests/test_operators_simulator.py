# SPDX-License-Identifier: Apache-2.0
"""This test will hold the simulator to queues with exact solutions, and to iterations that can be added up by hand."""

import math

import numpy as np
import pytest

from mpsafe.operators.model import Floats
from mpsafe.operators.simulator.state import DECODE, DRAINING, HOME, MIXED, PREFILL, State
from operator_lines import queue, rig, times

JOBS = 40_000
RUNS = 8


def exponential(dice: np.random.Generator, mean: float) -> Floats:
    return dice.exponential(mean, JOBS)


def erlang_c(workers: int, load: float) -> float:
    terms = [load**k / math.factorial(k) for k in range(workers)]
    last = load**workers / math.factorial(workers) * workers / (workers - load)
    return last / (sum(terms) + last)


def wait_mmc(workers: int, load: float) -> float:
    """In the mean, for services of 1 s."""
    return erlang_c(workers, load) / (workers - load)


CASES = {
    "M/M/1": ([1], [0.7], wait_mmc(1, 0.7), "exponential"),
    "M/M/4": ([4], [3.2], wait_mmc(4, 3.2), "exponential"),
    "M/M/16": ([16], [13.6], wait_mmc(16, 13.6), "exponential"),
    "M/D/1": ([1], [0.7], 0.5 * wait_mmc(1, 0.7), "constant"),
    "tandem of M/M/2 and M/M/3": ([2, 3], [1.5, 1.5], wait_mmc(2, 1.5) + wait_mmc(3, 1.5), "exponential"),
}


@pytest.mark.parametrize(("workers", "loads", "exact", "law"), CASES.values(), ids=CASES.keys())
def test_mean_wait_is_the_exact_one(workers: list[int], loads: list[float], exact: float, law: str) -> None:
    """The interval of independent runs, three standard errors, has it, and is at most 15 % of it to each side."""
    means: list[float] = []
    for seed in range(RUNS):
        dice = np.random.default_rng(seed)
        arrivals = np.cumsum(exponential(dice, 1 / loads[0]))
        services = [exponential(dice, 1.0) if law == "exponential" else np.ones(JOBS) for _ in workers]
        means.append(float(queue(arrivals, services, workers)[JOBS // 20 :].mean()))
    error = np.std(means, ddof=1) / math.sqrt(RUNS)
    assert abs(np.mean(means) - exact) < 3 * error < 0.15 * exact


def test_share_that_waits_is_erlangs() -> None:
    dice = np.random.default_rng(5)
    waits = queue(np.cumsum(exponential(dice, 1 / 3.2)), [exponential(dice, 1.0)], [4])
    assert float((waits > 1e-9).mean()) == pytest.approx(erlang_c(4, 3.2), rel=0.03)


def one(pool: State) -> State:
    pool.advance(math.inf)
    return pool


def test_prompts_are_taken_whole_up_to_the_budget() -> None:
    """40 + 50 fit into 100 tokens, 30 more do not; 250 are alone, in chunks of 100, 100 and 50."""
    linear = times(linear=((1, 1001), (0.5, 10.5)), prefill=((0, 1000), (0.0, 1.0)))
    prompts = np.array([10, 40, 50, 30, 250])
    state = one(
        rig(
            np.array([0, 0.1, 0.1, 0.1, 0.1]),
            prompts,
            np.ones(5, np.int64),
            [(PREFILL, 1, linear)],
            prefill=[0],
            tokens=100,
        )
    )
    first = 0.5 + 0.09 + 0.01
    second = first + (0.5 + 0.89) + 0.09
    third = second + (0.5 + 0.29) + 0.03
    fourth = third + 2 * (0.5 + 0.99) + (0.5 + 0.49) + 0.25
    assert state.requests.first == pytest.approx([first, second, second, third, fourth])
    assert state.requests.end == pytest.approx(state.requests.first)


def test_decoding_in_a_group_with_growing_caches() -> None:
    """Two sequences on one worker: each iteration costs 1 ms a token in all caches; the second joins at a boundary."""
    home = times(linear=((1,), (0.0,)), decode=((1, 2), (0, 1000), ((0, 1.0), (0, 2.0))))
    prefill = times(prefill=((1, 1000), (0.001, 1.0)))
    pools = [(PREFILL, 2, prefill), (HOME, 1, home)]
    state = one(rig(np.array([0.0, 0.0]), np.array([100, 200]), np.array([4, 3]), pools, prefill=[0], decode=[1]))
    assert state.requests.first == pytest.approx([0.1, 0.2])
    # Alone from 0.1 s with 101 tokens: to 0.201 s, when the second, there since 0.2 s, joins: 102 + 201, 103 + 202.
    assert state.requests.end == pytest.approx([0.201 + 0.303 + 0.305, 0.201 + 0.303 + 0.305])
    gaps = np.array([0.101, 0.303, 0.304, 0.305, 0.305])
    assert state.gap_mean_s == pytest.approx(gaps.mean())
    assert [state.gap_s(share) for share in (0.1, 0.5, 0.99)] == pytest.approx([0.101, 0.304, 0.305], rel=0.007)


def test_cache_bounds_who_is_let_in() -> None:
    """Room for one whole sequence at a time: the others come after it, in order."""
    home = times(linear=((1,), (0.5,)))
    pools = [(PREFILL, 1, times(prefill=((1,), (0.001,)))), (HOME, 1, home)]
    outputs = np.array([3, 3, 3])
    state = one(rig(np.zeros(3), np.full(3, 100), outputs, pools, prefill=[0], decode=[1], cache=150))
    assert state.requests.end == pytest.approx(0.001 + np.array([1.0, 2.0, 3.0]))
    free = one(rig(np.zeros(3), np.full(3, 100), outputs, pools, prefill=[0], decode=[1], cache=309))
    assert free.requests.end == pytest.approx(0.001 + np.array([1.0, 1.5, 1.5]), abs=0.003)


def test_mixed_worker_chunks_prompts_around_decoding() -> None:
    """Budget 100: the first prompt alone; then one token of it beside 99, 99 and 2 of the second's."""
    table = times(linear=((1, 101), (0.01, 1.01)), prefill=((0, 200), (0.0, 0.2)), decode=((1,), (0,), ((0.005,),)))
    state = one(
        rig(
            np.array([0, 0.3]),
            np.array([50, 200]),
            np.array([5, 1]),
            [(MIXED, 1, table)],
            prefill=[0],
            decode=[0],
            tokens=100,
        )
    )
    first = 0.5 + 0.05
    full = 1.0 + 0.099 + 0.005
    last = 0.03 + 0.002 + 0.005
    assert state.requests.first == pytest.approx([first, first + 2 * full + last])
    assert state.requests.end == pytest.approx([first + 2 * full + last + 0.015, first + 2 * full + last])


@pytest.mark.parametrize(("batch", "ends"), [(2, [1.1, 2.1, 2.1]), (1, [1.1, 2.1, 3.1])])
def test_groups_share_a_worker_where_they_fit(batch: int, ends: list[float]) -> None:
    """Two groups reach the other stage while a third one is there: they are taken together, if its batch allows."""
    other = times(linear=((1,), (1.0,)))
    pools = [(PREFILL, 3, times()), (HOME, 3, times(linear=((1,), (0.1,)))), (DECODE, 1, other)]
    arrivals, lengths = np.array([0.0, 0.05, 0.06]), np.full(3, 10)
    state = rig(arrivals, lengths, np.full(3, 2), pools, prefill=[0], decode=[1, 2], tokens=20, batch=batch)
    assert one(state).requests.end == pytest.approx(ends)


def test_hops_cost_time_and_no_worker() -> None:
    pools = [(PREFILL, 1, times(linear=((1,), (0.2,)), hop_s=0.01)), (PREFILL, 1, times(linear=((1,), (0.3,))))]
    state = one(rig(np.zeros(2), np.ones(2, np.int64), np.ones(2, np.int64), pools, prefill=[0, 1], hops=28))
    assert state.requests.end == pytest.approx([0.2 + 0.28 + 0.3, 0.2 + 0.28 + 0.3 + 0.3])
    assert state.workers.busy == pytest.approx([0.4, 0.6])


def test_worker_that_drains_brings_its_sequences_to_an_end() -> None:
    pools = [(PREFILL, 1, times(prefill=((1,), (0.1,)))), (HOME, 2, times(linear=((1,), (0.1,))))]
    state = rig(np.array([0.0, 0.0, 2.0]), np.full(3, 10), np.full(3, 11), pools, prefill=[0], decode=[1])
    state.advance(0.5)
    assert state.workers.n.tolist() == [0, 1, 1]
    state.workers[1].state = DRAINING
    state.stages[1].up -= 1
    state.advance(math.inf)
    assert state.requests.end == pytest.approx([1.1, 1.2, 3.1])
    assert state.workers.n.tolist() == [0, 0, 0]


def fleet_of(repeat: int, seed: int, rate: float) -> State:
    """A split model of `repeat` layers: prompts, then attention with caches and feed-forward, in pools of three and
    two. Hops of 20 us."""
    dice = np.random.default_rng(seed)
    count = 3000
    arrivals = np.cumsum(dice.exponential(1 / rate, count))
    prompts, outputs = dice.integers(100, 2000, count), dice.integers(20, 200, count)

    def part(seconds: float) -> float:
        return seconds / repeat

    attention = times(
        linear=((1, 1000), (part(0.002), part(0.006))),
        decode=((1, 64), (0, 4000), ((0, part(0.001)), (0, part(0.060)))),
        hop_s=20e-6 * 28 / repeat,
    )
    forward = times(linear=((1, 64, 1000), (part(0.005), part(0.006), part(0.04))), hop_s=20e-6 * 28 / repeat)
    prompt = times(linear=((1, 8192), (0.005, 0.4)), prefill=((0, 2000, 4000), (0, 0.02, 0.08)))
    pools = [(PREFILL, 2, prompt), (HOME, 3, attention), (DECODE, 2, forward)]
    return one(rig(arrivals, prompts, outputs, pools, prefill=[0], decode=[1, 2] * repeat, tokens=4096, batch=128))


@pytest.mark.parametrize(("rate", "most"), [(4.0, 0.01), (12.0, 0.01)])
def test_aggregating_layers_errs_little(rate: float, most: float) -> None:
    """One visit for all layers, against a visit for each of 28: mean and 99th percentile between two tokens."""
    whole, layers = fleet_of(1, 7, rate), fleet_of(28, 7, rate)
    assert whole.core.gaps_count == layers.core.gaps_count
    assert whole.gap_mean_s == pytest.approx(layers.gap_mean_s, rel=most)
    assert whole.gap_s(0.99) == pytest.approx(layers.gap_s(0.99), rel=3 * most)
    assert whole.requests.first == pytest.approx(layers.requests.first)


def test_equal_runs_are_equal() -> None:
    assert np.array_equal(fleet_of(1, 3, 10.0).requests.end, fleet_of(1, 3, 10.0).requests.end)
