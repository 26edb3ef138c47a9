# SPDX-License-Identifier: Apache-2.0
"""A demand as the planner's formulas want it: prompt lengths at 32 equal parts of the requests, and bounds on
moments."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import gammaincinv

from mpsafe.errors import BadDemand
from mpsafe.operators.model import Demand, Floats, Slo
from mpsafe.operators.planner.tables import at_all
from mpsafe.operators.times import LENGTHS, TOKENS

__all__ = ["Load", "checked", "load_of"]

PARTS: Final[Floats] = (np.arange(32) + 0.5) / 32
_RARE: Final = 0.99
# Burstier arrivals are not a renewal process any more but a rate that changes, which a forecast has to follow.
_SCV_MOST: Final = 20.0


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """`lengths` of prompts by equal parts of the requests, `long` that only 1 % exceed; `context`: tokens that a
    sequence in decoding holds in the mean; `tokens_per_s` to be decoded. `in_tokens`, `in_lengths`: weights by which
    tables over TOKENS and LENGTHS are read at all `lengths`."""

    rate_per_s: float
    prompt: float
    lengths: Floats
    long: float
    tokens_per_s: float
    output: float
    context: float
    arrival_scv: float
    in_tokens: Floats
    in_lengths: Floats


def checked(demand: Demand, slo: Slo) -> None:
    """Raises BadDemand."""
    for field, value in (("rate", demand.rate_per_s), ("prompt tokens", demand.prompt_mean)):
        if not (np.isfinite(value) and value > 0):
            raise BadDemand(field, f"must be a positive number, and is {value:g}")
    if not (np.isfinite(demand.output_mean) and demand.output_mean >= 1):
        raise BadDemand("output tokens", f"must be at least 1, and is {demand.output_mean:g}")
    for field, value in (("ttft_ms", slo.ttft_s), ("tbt_ms", slo.tbt_s)):
        if not (np.isfinite(value) and value > 0):
            raise BadDemand(field, f"must be a positive number, and is {value * 1e3:g}")


def load_of(demand: Demand) -> Load:
    """A gamma distribution of that mean and variation stands for prompts of which there is no sample."""
    points = np.append(PARTS, _RARE)
    if len(demand.prompts):
        lengths = np.quantile(demand.prompts, points)
    elif demand.prompt_scv > 1e-6:
        lengths = gammaincinv(1 / demand.prompt_scv, points) * demand.prompt_scv * demand.prompt_mean
    else:
        lengths = np.full(len(points), demand.prompt_mean)
    lengths = np.maximum(1.0, lengths * (demand.prompt_mean / max(1.0, lengths[:-1].mean())))
    return Load(
        rate_per_s=demand.rate_per_s,
        prompt=float(lengths[:-1].mean()),
        lengths=lengths[:-1],
        long=float(max(lengths[-1], lengths[-2])),
        tokens_per_s=demand.rate_per_s
        * max(0.0, demand.output_mean - 1.0),  # the first comes of the prompt's iteration
        output=demand.output_mean,
        # A sequence met at a random moment is a longer one, and half done.
        context=demand.prompt_mean + 0.5 * demand.output_mean * (1 + min(_SCV_MOST, demand.output_scv)),
        arrival_scv=float(np.clip(demand.arrival_scv, 0.1, _SCV_MOST)),
        in_tokens=at_all(TOKENS, lengths[:-1]),
        in_lengths=at_all(LENGTHS, lengths[:-1]),
    )
