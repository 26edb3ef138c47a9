# SPDX-License-Identifier: Apache-2.0
"""Equal workers, first come first served, job by job: what the formulas of `queueing` are held against."""

import numpy as np
from numba import njit

from mpsafe.operators.model import Floats

__all__ = ["departures", "present"]


@njit(cache=True)
def departures(arrivals: Floats, services: Floats, workers: int) -> Floats:
    """When each job leaves, from ascending arrivals and their services, in any one unit."""
    free = np.zeros(workers)  # a heap of when each worker is free; the earliest first
    left = np.empty(len(arrivals))
    for job in range(len(arrivals)):
        done = max(free[0], arrivals[job]) + services[job]
        left[job] = done
        place = 0
        while True:
            child = 2 * place + 1
            if child >= workers:
                break
            if child + 1 < workers and free[child + 1] < free[child]:
                child += 1
            if free[child] >= done:
                break
            free[place] = free[child]
            place = child
        free[place] = done
    return left


def present(arrivals: Floats, left: Floats) -> float:
    """The mean number of jobs over the time from the first arrival to the last departure, counted by its events."""
    times = np.concatenate([arrivals, left])
    steps = np.concatenate([np.ones(len(arrivals)), -np.ones(len(left))])
    order = np.argsort(times, kind="stable")
    held = np.cumsum(steps[order])[:-1]
    gaps = np.diff(times[order])
    return float((held * gaps).sum() / gaps.sum())
