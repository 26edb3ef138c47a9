# SPDX-License-Identifier: Apache-2.0
"""This test will replay real and made traces with every policy, and compare with what is known of them."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expert_traces import OLMOE, made
from mpsafe.errors import BadRequest
from mpsafe.experts.policies import POLICIES, Known, Policy, Routed, Shape, Step, Wishes
from mpsafe.experts.policies.finemoe import FineMoe, selected
from mpsafe.experts.replay import Outcome, replay, slots_for
from mpsafe.experts.simulation import chosen, run_policy, shape_of, simulate
from mpsafe.experts.trace import Ids, Trace, read

NAMED = {known.name: known for known in POLICIES}


@pytest.fixture(scope="module")
def olmoe() -> Trace:
    return read(OLMOE)


def outcome(trace: Trace, name: str, percent: float, *, prefetch: int = 0) -> Outcome:
    _, found = run_policy(NAMED[name], trace, shape_of(trace, percent), prefetch=prefetch, training=[])
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("percent", "lru", "lfu", "belady"),
    [(12.5, 0.434, 0.346, 0.597), (25, 0.568, 0.525, 0.765), (50, 0.785, 0.774, 0.913)],
)
def test_hit_rates_of_the_real_trace_are_the_known_ones(
    olmoe: Trace, percent: float, lru: float, lfu: float, belady: float
) -> None:
    for name, known in (("lru", lru), ("lfu", lfu), ("belady", belady)):
        assert outcome(olmoe, name, percent).hit_rate == pytest.approx(known, abs=0.005)


@pytest.mark.parametrize("percent", [12.5, 25, 50])
def test_our_evictor_beats_every_applicable_causal_one_on_the_real_trace(olmoe: Trace, percent: float) -> None:
    found = simulate(olmoe, percent, chosen("all"), prefetch=0, training=[])
    rates = {one.policy: one.hit_rate for one in found.policies if one.causal and one.hit_rate is not None}
    others = [rate for name, rate in rates.items() if "mpsafe" not in name]
    assert len(others) >= 6
    assert rates["mpsafe"] > max(others)


def test_what_needs_more_than_ids_is_not_applicable_to_them(olmoe: Trace) -> None:
    found = {one.policy: one for one in simulate(olmoe, 25, chosen("all"), prefetch=0, training=[]).policies}
    assert {name for name, one in found.items() if not one.applicable} == {
        *("gate-1", "gate-2", "gate-3", "gate-1-mpsafe", "linear", "linear-mpsafe", "finemoe", "finemoe-2", "finemoe-1")
    }
    assert all(one.hits is None and one.bytes is None for one in found.values() if not one.applicable)
    assert {name for name, one in found.items() if not one.causal} == {"oracle", "belady", "joint-oracle"}


@pytest.mark.parametrize("name", NAMED)
def test_each_policy_keeps_the_rules(name: str) -> None:
    trace, other = made(1), made(2)
    for percent, prefetch in ((25.0, 0), (25.0, 1), (50.0, 2), (100.0, 4)):
        shape = shape_of(trace, percent)
        _, found = run_policy(NAMED[name], trace, shape, prefetch=prefetch, training=[other])
        assert found is not None
        assert found.hits + found.misses == len(trace) * trace.layers * 2
        assert found.wasted <= found.prefetched <= prefetch * len(trace) * (trace.layers + 1)
        if percent == 100:
            assert found.misses + found.prefetched <= shape.total


@given(seed=st.integers(0, 1000), slots=st.integers(2, 32))
@settings(max_examples=60, deadline=None)
def test_nobody_without_prefetching_beats_belady(seed: int, slots: int) -> None:
    trace = made(seed, tokens=25)
    shape = Shape(trace.layers, trace.experts, trace.widest, slots)
    best = run_policy(NAMED["belady"], trace, shape, prefetch=0, training=[])[1]
    assert best is not None
    for name in ("lru", "lfu", "lfru", "class-lru", "least-stale", "mpsafe", "finemoe"):
        found = run_policy(NAMED[name], trace, shape, prefetch=0, training=[])[1]
        assert found is not None and found.hits <= best.hits


def test_a_causal_policy_says_the_same_whatever_comes_later() -> None:
    trace = made(3)
    half = len(trace) // 2
    first = _changed(trace, trace.ids[: half * trace.layers], lambda rows: rows[:half])
    other = [1 + (ids + 3) % 7 for ids in trace.ids[half * trace.layers :]]
    changed = _changed(
        trace, [*first.ids, *other], lambda rows: np.concatenate([rows[:half], rows[half:][::-1]]).astype(rows.dtype)
    )
    for known in POLICIES:
        if known.causal:
            shape = shape_of(trace, 25)
            seen = [_hits(known, one, shape, half) for one in (first, changed)]
            assert seen[0] == seen[1], known.name


def _changed(trace: Trace, ids: list[Ids], rows: Callable[[Any], Any]) -> Trace:
    """The trace with these ids, and everything else that is by token put through `rows`."""
    names = ("requests", "tokens", "probabilities", "ahead", "embeddings", "contexts")
    return dataclasses.replace(trace, ids=ids, **{name: rows(getattr(trace, name)) for name in names})


def _hits(known: object, trace: Trace, shape: Shape, tokens: int) -> list[int]:
    """Hits of each of the first tokens."""
    assert isinstance(known, Known)
    policy = known.make(shape)
    policy.learn([made(2)])
    found: list[int] = []
    begin, routed = policy.begin, policy.routed

    def begins(step: Step) -> None:
        found.append(0)
        begin(step)

    def counts(one: Routed) -> None:
        found[-1] += len(one.flat) - one.missing
        routed(one)

    counting = SimpleNamespace(
        begin=begins,
        routed=counts,
        **{name: getattr(policy, name) for name in ("brought", "leaving", "wishes", "worth")},
    )
    replay(trace, shape, cast("Policy", counting), prefetch=2)
    return found[:tokens]


@pytest.mark.parametrize(
    ("row", "score", "at_least", "wanted"),
    [
        ([0.1, 0.6, 0.3], 1.0, 1, [1]),  # as sure as can be: at least K
        ([0.1, 0.6, 0.3], 1.0, 2, [1, 2]),
        ([0.1, 0.6, 0.3], 0.3, 1, [1, 2]),  # delta is 0.7
        ([0.1, 0.6, 0.3], -0.5, 1, [1, 2, 0]),  # clipped to 1
        ([0.25, 0.25, 0.25, 0.25], 0.5, 1, [0, 1]),
    ],
)
def test_finemoe_selects_until_delta_and_at_least_k(
    row: list[float], score: float, at_least: int, wanted: list[int]
) -> None:
    assert selected(np.asarray(row, np.float32), score, at_least).tolist() == wanted


def test_finemoe_enqueues_only_what_was_selected() -> None:
    trace = made(4)
    shape = shape_of(trace, 50)
    policy = FineMoe(shape, distance=1)
    policy.learn([trace])
    counts: list[int] = []
    keep = policy.wishes

    def wishes() -> Wishes:
        found = keep()
        counts.append(len(found.flat))
        return found

    counting = SimpleNamespace(
        wishes=wishes, **{name: getattr(policy, name) for name in ("begin", "routed", "brought", "leaving", "worth")}
    )
    replay(trace, shape, cast("Policy", counting), prefetch=8)
    # It has seen this very trace: the similarity is 1 from the first layer on, and so K experts are enough.
    assert max(counts) == shape.used


def test_finemoe_keeps_by_likelihood_times_frequency() -> None:
    shape = Shape(1, 3, 1, 2)
    policy = FineMoe(shape, distance=1)
    policy.guide[0] = [0.5, 0.3, 0.2]
    policy.uses[:] = [1, 2, 2]
    assert np.argsort(policy.keep(np.arange(3))).tolist() == [2, 0, 1]


def test_a_full_store_has_its_most_redundant_map_overwritten() -> None:
    trace = made(5, tokens=12)
    shape = shape_of(trace, 50)
    policy = FineMoe(shape, distance=1, capacity=8)
    policy.learn([trace])
    store = policy.store
    assert store is not None and store.count == 8
    assert trace.probabilities is not None and trace.embeddings is not None
    policy.remember(trace.embeddings[3], trace.probabilities[3])
    twins = [one for one in range(8) if np.allclose(store.map(one), trace.probabilities[3], atol=0.004)]
    assert len(twins) == 1


def test_more_bytes_than_lru_are_not_moved_for_long() -> None:
    trace = made(6, tokens=600)
    lru, ours = outcome(trace, "lru", 25), outcome(trace, "mpsafe", 25, prefetch=4)
    assert ours.prefetched > 0
    assert ours.moved <= 1.1 * lru.moved


def test_what_is_always_asked_for_alone_is_never_certain_beyond_number() -> None:
    """A likelihood that rounds to 1 would have odds without a logarithm: warnings are errors here."""
    trace = dataclasses.replace(made(1, tokens=1), ids=[np.asarray([0, 1])] * 4)
    policy = NAMED["mpsafe"].over(shape := shape_of(trace, 25), trace)
    for _ in range(3000):
        replay(trace, shape, policy, prefetch=0)
    assert np.isfinite(policy.keep(np.arange(shape.total))).all()


def test_slots_are_whole_experts(olmoe: Trace) -> None:
    assert [slots_for(olmoe, percent) for percent in (12.5, 25, 0.79, 100)] == [128, 256, 8, 1024]


@pytest.mark.parametrize(("percent", "names"), [(0.7, "lru"), (25, "lru,nobody"), (25, "")])
def test_what_cannot_be_simulated_is_refused(olmoe: Trace, percent: float, names: str) -> None:
    with pytest.raises(BadRequest):
        simulate(olmoe, percent, chosen(names), prefetch=0, training=[])


def test_the_command_prints_what_the_simulation_found(olmoe: Trace) -> None:
    command = [sys.executable, "-c", "from mpsafe.cli import main; main()", "experts", "simulate", "--json"]
    options = ["--trace", os.fspath(OLMOE), "--cache", "25", "--policy", "lru,belady", "--expert-bytes", "1000"]
    done = subprocess.run([*command, *options], check=True, capture_output=True, text=True)
    told = json.loads(done.stdout)
    assert {name: told[name] for name in ("trace", "layers", "experts", "slots")} == {
        "trace": "olmoe_299.jsonl",
        "layers": 16,
        "experts": 64,
        "slots": 256,
    }
    lru = outcome(olmoe, "lru", 25)
    assert told["policies"][0] == {
        "policy": "lru",
        "hits": lru.hits,
        "misses": lru.misses,
        "hit_rate": lru.hit_rate,
        "bytes": 1000 * lru.misses,
        "wasted_prefetches": 0,
        "causal": True,
        "applicable": True,
    }
    assert told["policies"][1]["causal"] is False
