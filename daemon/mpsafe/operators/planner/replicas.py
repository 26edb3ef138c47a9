# SPDX-License-Identifier: Apache-2.0
"""Workers that hold whole sequences by themselves: replicas of the model, and decoders that nothing else serves.

A closed loop: the sequences in decoding are what arrives in the time that they need, and that time grows with their
number. A replica of the model mixes prompts into its iterations, at most `budget` tokens in each.
"""

import math
from typing import Final

import numpy as np
from numba import njit

from mpsafe.operators.model import Floats
from mpsafe.operators.queueing import BUSIEST, RARE, erlang_c, path_p99_s, read, wait_quantile_s

__all__ = ["BUDGETS", "Z99", "decoders", "replicas"]

BUDGETS: Final[Floats] = np.array([512, 1024, 2048, 4096, 8192, 16384], np.float64)
Z99 = 2.33  # of a normal distribution: what a sum of many sequences is
_MOST = 1 << 20  # workers


@njit(cache=True)
def _decoder(count: float, tokens_per_s: float, sizes: Floats, iteration: Floats) -> tuple[float, float, float, float]:
    """Of so many workers: group in the mean and at the 99th percentile, seconds between tokens the same."""
    each = tokens_per_s / count
    group = 1.0
    for _ in range(100):
        there = max(1.0, each * read(group, sizes, iteration))
        if abs(there - group) < 1e-3 * group:
            break
        group = 0.5 * (group + there)
        if group > 64.0 * sizes[-1]:
            break
    there = tokens_per_s * read(group, sizes, iteration)
    most = max(1.0, math.ceil((there + Z99 * math.sqrt(there)) / count))
    return group, most, read(group, sizes, iteration), read(most, sizes, iteration)


@njit(cache=True)
def decoders(iteration: Floats, sizes: Floats, tokens_per_s: float, room: Floats, tbt_s: float) -> Floats:
    """The fewest workers that keep the promise, for each option: their number (infinite: none do), group in the mean
    and at the 99th percentile, mean and 99th percentile of the time between tokens. `iteration` seconds by option and
    group size; `room`: sequences that fit."""
    options = len(iteration)
    found = np.full((options, 5), np.inf)
    for j in range(options):
        if room[j] < 1.0 or iteration[j, 0] > tbt_s:
            continue
        low, high = 0, 1
        while high < _MOST:
            _, most, _, late = _decoder(float(high), tokens_per_s, sizes, iteration[j])
            if most <= room[j] and late <= tbt_s:
                break
            low, high = high, 2 * high
        if high >= _MOST:
            continue
        while high - low > 1:
            middle = (low + high) // 2
            _, most, _, late = _decoder(float(middle), tokens_per_s, sizes, iteration[j])
            if most <= room[j] and late <= tbt_s:
                high = middle
            else:
                low = middle
        group, most, mean, late = _decoder(float(high), tokens_per_s, sizes, iteration[j])
        found[j, 0], found[j, 1], found[j, 2], found[j, 3], found[j, 4] = high, group, most, mean, late
    return found


@njit(cache=True)
def _replica(
    count: float,
    budget: float,
    demand: tuple[float, float, float, float],
    lengths: Floats,
    room: float,
    tokens: Floats,
    linear: Floats,
    attended: tuple[float, float],
    sizes: Floats,
    decode: Floats,
) -> tuple[float, float, float, float, float, float]:
    """TTFT mean and 99th percentile, TBT the same, group at the 99th percentile, utilisation, of `count` replicas.
    `demand`: requests a second, tokens of each that are decoded, twice the scv that waits follow, the long prompt;
    `attended`: seconds of attention of a prompt in the mean, and of the long one."""
    worst = (math.inf, math.inf, math.inf, math.inf, 0.0, 1.0)
    rate_per_s, output, scv, long = demand
    each, length = rate_per_s / count, 0.0
    for prompt in lengths:
        length += prompt / len(lengths)
    group, between, full, own = 1.0, 0.0, 0.0, 0.0
    for _ in range(60):
        cached = read(group, sizes, decode)
        alone = read(group, tokens, linear) + cached
        full = read(group + budget, tokens, linear) + attended[0] * budget / length + cached
        own = each * (full - alone) * length / budget  # of the time is what prompts add to iterations
        if own >= BUSIEST or group > room:
            return worst
        between = alone / (1.0 - own)
        there = max(1.0, each * output * between)
        if abs(there - group) < 1e-3 * group:
            group = there
            break
        group = there
    effective = full * length / budget
    load = rate_per_s * effective
    if load >= BUSIEST * count:
        return worst
    everywhere = rate_per_s * output * between
    most = max(1.0, math.ceil((everywhere + Z99 * math.sqrt(everywhere)) / count))
    if most > room:
        return worst
    cached = read(group, sizes, decode)
    service = attended[0]
    for prompt in lengths:
        whole = max(1.0, prompt / budget)
        service += whole * (read(group + min(prompt, budget), tokens, linear) + cached) / len(lengths)
    cached = read(most, sizes, decode)
    longest = max(1.0, long / budget) * (read(most + min(long, budget), tokens, linear) + cached) + attended[1]
    # A request is sent to the replica with the fewest sequences, whatever prompts wait there: better than a queue
    # before each, worse than one before all. Halfway is on the safe side of what a simulated fleet does.
    busy, together = load / count, erlang_c(int(count), load)
    waits = 0.5 * (together + busy)
    wait = 0.25 * scv * effective * (together / (count - load) + busy / (1.0 - busy))
    more = max(0.0, wait_quantile_s(waits, wait, RARE) - wait)
    ttft = service + wait + 0.5 * between  # half an iteration goes by before a prompt can join one
    ttft_p99 = path_p99_s(ttft, longest - service, more * more + (0.5 * between) ** 2)
    mixed = 0.0
    part = min(1.0, each * between * max(1.0, length / budget))  # of the gaps between tokens have a prompt in them
    if part > RARE:
        place = min(len(lengths) - 1, int((1.0 - RARE / part) * len(lengths)))
        mixed = min(budget, lengths[place] + load / count * budget)
    # The mean has the rare gap with a prompt in it, which may be longer than the 99th percentile.
    tbt_p99 = max(between, read(most + mixed, tokens, linear) + cached + attended[0] * mixed / length)
    return ttft, ttft_p99, between, tbt_p99, most, max(own, min(1.0, each * output * between))


@njit(cache=True)
def replicas(
    demand: tuple[float, float, float, float],
    lengths: Floats,
    ttft_s: float,
    tbt_s: float,
    room: Floats,
    budgets: Floats,
    tokens: Floats,
    linear: Floats,
    points: Floats,
    prefill: Floats,
    sizes: Floats,
    decode: Floats,
) -> Floats:
    """The fewest replicas that keep both promises, for each option: their number (infinite: none do), the tokens of an
    iteration, the group at the 99th percentile, TTFT mean and 99th percentile, TBT the same, and utilisation. Of token
    budgets that need as few, the one with the shortest TTFT."""
    options = len(linear)
    found = np.full((options, 8), np.inf)
    for j in range(options):
        if room[j] < 1.0:
            continue
        mean = 0.0
        for prompt in lengths:
            mean += read(prompt, points, prefill[j]) / len(lengths)
        attended = (mean, read(demand[3], points, prefill[j]))
        for k in range(len(budgets)):
            # What is already known to do, or the first that can at all; then the fewest.
            high = found[j, 0] if np.isfinite(found[j, 0]) else 1.0
            low = 0.0
            while True:
                one = _replica(
                    high, budgets[k], demand, lengths, room[j], tokens, linear[j], attended, sizes, decode[j]
                )
                if one[1] <= ttft_s and one[3] <= tbt_s:
                    break
                low = high
                high = 2.0 * high
                if np.isfinite(found[j, 0]) or high > 64.0 * (1.0 + demand[0]):
                    high = np.inf
                    break
            if not np.isfinite(high):
                continue
            better = one[1] < found[j, 4] or not np.isfinite(found[j, 0])
            if high < 2.0:
                low = 0.0
            elif np.isfinite(found[j, 0]):
                fewer = _replica(
                    high - 1.0, budgets[k], demand, lengths, room[j], tokens, linear[j], attended, sizes, decode[j]
                )
                if not (fewer[1] <= ttft_s and fewer[3] <= tbt_s):
                    low = high - 1.0
            while high - low > 1.0:
                middle = math.floor(0.5 * (low + high))
                trial = _replica(
                    middle, budgets[k], demand, lengths, room[j], tokens, linear[j], attended, sizes, decode[j]
                )
                if trial[1] <= ttft_s and trial[3] <= tbt_s:
                    high, one, better = middle, trial, True
                else:
                    low = middle
            if better:
                found[j, 0], found[j, 1], found[j, 2] = high, budgets[k], one[4]
                found[j, 3], found[j, 4], found[j, 5], found[j, 6], found[j, 7] = one[0], one[1], one[2], one[3], one[5]
    return found
