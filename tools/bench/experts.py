# SPDX-License-Identifier: Apache-2.0
"""The policies for a cache of experts: hits on recorded and on real traces, and what a policy costs.

A small model is trained on this machine, once (tools/moe; build/moe), and recorded on documents that it has not seen:
five samples of 24 documents, 96 tokens of each; what policies learn from before is recorded on documents that it was
trained on. All policies meet the same. No figure here is a GPU's.
"""

import functools
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from rich.progress import Progress

from mpsafe.experts.comparison import Comparison, compare
from mpsafe.experts.core import bfloat16
from mpsafe.experts.maps import MapStore, Trajectory
from mpsafe.experts.policies import POLICIES
from mpsafe.experts.policies.ours import Mpsafe
from mpsafe.experts.replay import replay
from mpsafe.experts.report import page, verdict
from mpsafe.experts.simulation import chosen, shape_of, simulate
from mpsafe.experts.trace import Floats, Trace, read, write
from tools.bench.rows import DIRECTORY, Row, report

__all__ = ["main"]

MODEL: Final = Path("build/moe")
OLMOE: Final = Path("tests/data/expert_traces/olmoe_299.jsonl")
MINUTES: Final = 6.0
SAMPLES: Final = 5
DOCUMENTS: Final = 24
TRAINING_DOCUMENTS: Final = 80
TOKENS: Final = 96
SIZES: Final = (12.5, 25.0)
PREFETCH: Final = 2
LINK_BYTES_S: Final = 25e9
# Maps, and microseconds for one layer's search over them.
SEARCHES: Final = ((1_000, 10.0), (10_000, 80.0), (100_000, 150.0))
PLAN_US: Final = 30.0
GAP_TARGET: Final = 0.30


def main() -> None:
    """Trains or finds the model, compares, and prints."""
    rows = [*_on_the_real_trace(), *_searches()]
    traces = sorted(MODEL.glob("test*.npz"))
    if len(traces) < SAMPLES:
        traces = _recorded()
    training = MODEL / "train.npz"
    workers = len(os.sched_getaffinity(0))
    with Progress(transient=True) as progress:
        task = progress.add_task("policies", total=len(SIZES) * len(POLICIES))
        found = compare(
            traces,
            [training],
            SIZES,
            prefetch=PREFETCH,
            link_bytes_s=LINK_BYTES_S,
            workers=workers,
            done=lambda: progress.advance(task),
        )
    for one in found:
        rows += _compared(one)
    rows += _costs(read(traces[0]), read(training))
    report("experts", "no GPU: traces replayed on the CPU", rows)
    about = (
        f"{found[0].requests} held-out documents, {found[0].tokens} tokens, of a small model trained on this machine"
    )
    out = DIRECTORY / "experts.html"
    out.write_text(page(found, about=about, link=f"a link of {LINK_BYTES_S / 1e9:g} GB/s"), encoding="utf-8")
    for one in found:
        print("\n".join(verdict(one)))
    print(f"the page: {out}")


def _recorded() -> list[Path]:
    """Trains the model and records it. Documents are split before the training, by their names."""
    from mpsafe.experts.record import record
    from mpsafe.experts.recording import load
    from tools.moe.text import documents, held_out
    from tools.moe.train import Recipe, train

    if not (MODEL / "training.json").exists():
        print(train(MODEL, Recipe(minutes=MINUTES)))
    model, tokenizer = load(MODEL)
    texts = documents()

    def sample(number: int, seed: int, *, unseen: bool) -> list[list[int]]:
        among = [one for one in texts if held_out(one) == unseen]
        taken = random.Random(seed).sample(among, number)
        return [tokenizer(one.text[: TOKENS * 8])["input_ids"][:TOKENS] for one in taken]

    for seed in range(SAMPLES):
        write(MODEL / f"test{seed}.npz", record(model, sample(DOCUMENTS, seed, unseen=True), name=f"test{seed}"))
    write(MODEL / "train.npz", record(model, sample(TRAINING_DOCUMENTS, 99, unseen=False), name="train"))
    return sorted(MODEL.glob("test*.npz"))


def _on_the_real_trace() -> list[Row]:
    """Our evictor against the best causal one, without prefetching, on OLMoE's ids."""
    trace = read(OLMOE)
    rows: list[Row] = []
    for percent in (12.5, 25.0, 50.0):
        found = simulate(trace, percent, chosen("all"), prefetch=0, training=[]).policies
        rates = {one.policy: one.hit_rate for one in found if one.causal and one.hit_rate is not None}
        ours = rates["mpsafe"]
        best = max((name for name in rates if "mpsafe" not in name), key=lambda name: rates[name])
        metric = f"OLMoE, no prefetch, {percent:g} %: hit rate"
        rows.append(Row(metric, ours, "", f"best causal, {best}", rates[best], more_is_better=True))
    return rows


def _compared(found: Comparison) -> list[Row]:
    ours, best = found.arm("mpsafe"), found.arm(found.best)
    size = f"trained model, {found.percent:g} %"
    closed = found.closed.mean
    return [
        Row(f"{size}: hit rate", ours.hit_rate, "", f"best causal, {best.policy}", best.hit_rate, more_is_better=True),
        Row(f"{size}: bytes moved", ours.bytes_ratio, "of LRU's", "bound", 1.05),
        Row(f"{size}: bytes moved", ours.bytes_ratio, "of LRU's", best.policy, best.bytes_ratio),
        Row(f"{size}: gap to the joint oracle closed", closed, "", "bound", GAP_TARGET, more_is_better=True),
    ]


def _searches() -> list[Row]:
    """One layer's search, 64 experts, from the second layer on; of 100,000 maps a shortlist."""
    dice = np.random.default_rng(1)
    rows: list[Row] = []
    for maps, bound in SEARCHES:
        store = MapStore(4, 64, width=128, capacity=maps)
        store.count = maps
        for layer in range(store.layers):
            store.maps[layer] = bfloat16(dice.random(store.maps.shape[1:], np.float32))
        store.norms[:] = 1
        store.keys[:] = bfloat16(dice.random(store.keys.shape, np.float32))
        row = dice.random(64, np.float32)
        scores = store.semantic(dice.random(128, np.float32))

        measure = functools.partial(_search, store, row, scores)
        rows.append(Row(f"search of {maps:,} maps, a layer", _median(measure), "us", "bound", bound))
    return rows


def _search(store: MapStore, row: Floats, scores: Floats) -> float:
    walk = Trajectory(store, scores)
    began = time.perf_counter()
    for _ in range(store.layers):
        walk.extend(row).argmax()
    return (time.perf_counter() - began) / store.layers * 1e6


def _costs(trace: Trace, training: Trace) -> list[Row]:
    """What the policy takes for one layer, with all that it learns, and to name who leaves."""
    shape = shape_of(trace, 25)
    policy = Mpsafe(shape)
    policy.learn([training])
    whole = replay(trace, shape, policy, prefetch=PREFETCH)
    candidates = np.arange(0, shape.total, 4)

    def evict() -> float:
        began = time.perf_counter()
        int(policy.keep(candidates).argmin())
        return (time.perf_counter() - began) * 1e6

    plain = replay(trace, shape, POLICIES[0].over(shape, trace), prefetch=0)
    us = whole.seconds / whole.events * 1e6
    return [
        Row("mpsafe: who leaves", _median(evict), "us", "bound", PLAN_US),
        Row("mpsafe: all that it does, a layer", us, "us", "bound", PLAN_US),
        Row("mpsafe: all that it does, a layer", us, "us", "LRU", plain.seconds / plain.events * 1e6),
    ]


def _median(measure: Callable[[], float]) -> float:
    return statistics.median(measure() for _ in range(400))
