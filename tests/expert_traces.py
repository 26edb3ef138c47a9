# SPDX-License-Identifier: Apache-2.0
"""Traces of expert routes for the tests: a real one of ids, and made ones with all that can be recorded."""

from pathlib import Path
from typing import Final

import numpy as np

from mpsafe.experts.trace import Trace

__all__ = ["OLMOE", "made"]

OLMOE: Final = Path(__file__).parent / "data" / "expert_traces" / "olmoe_299.jsonl"


def made(seed: int, *, tokens: int = 60, layers: int = 4, experts: int = 8, used: int = 2) -> Trace:
    """A trace with all that can be recorded. What is asked for follows from a hidden state that moves slowly."""
    dice = np.random.default_rng(seed)
    gates = np.random.default_rng(0).standard_normal((layers, 12, experts))
    state = np.zeros(12)
    said = np.zeros((tokens, layers, experts))
    embeddings = np.zeros((tokens, 12))
    for token in range(tokens):
        embeddings[token] = np.random.default_rng(int(dice.integers(6))).standard_normal(12)
        state = 0.5 * state + embeddings[token]
        said[token] = np.exp(np.einsum("h,lhe->le", state, gates) / 2)
    said /= said.sum(2, keepdims=True)
    ahead = np.stack([np.roll(said, -distance, axis=1) for distance in (1, 2, 3)], 2)
    ids = np.argsort(-said, axis=2)[:, :, :used].reshape(tokens * layers, used)
    return Trace(
        name=f"made-{seed}",
        layers=layers,
        experts=experts,
        ids=list(ids),
        requests=np.arange(tokens) // 20,
        tokens=np.arange(tokens),
        probabilities=said.astype(np.float32),
        ahead=ahead.astype(np.float32),
        embeddings=embeddings.astype(np.float32),
        contexts=np.roll(embeddings, 1, axis=0).astype(np.float32),
    )
