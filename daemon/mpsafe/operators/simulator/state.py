# SPDX-License-Identifier: Apache-2.0
"""The memory of ffi/operators/, as arrays of records with the fields that its structures have."""

import math
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from mpsafe.operators.model import Floats, StageTimes
from mpsafe.operators.simulator._core import ffi, lib

__all__ = ["DECODE", "DRAINING", "GONE", "HOME", "MIXED", "PREFILL", "STARTING", "UP", "Ints", "Records", "State"]

Ints: TypeAlias = npt.NDArray[np.int64]
Records: TypeAlias = Any  # np.recarray: the checkers do not know the types of its fields

PREFILL: Final = lib.PREFILL
DECODE: Final = lib.DECODE
HOME: Final = lib.HOME
MIXED: Final = lib.MIXED
STARTING: Final = lib.STARTING
UP: Final = lib.UP
DRAINING: Final = lib.DRAINING
GONE: Final = lib.GONE

_LISTS: Final = {
    "request": ("link",),
    "worker": ("link", "list", "joins", "fresh", "part"),
    "stage": ("head", "tail", "groups", "groups_tail", "idle"),
}


def _records(struct: str, size: int) -> Records:
    kind = ffi.typeof(f"struct {struct}")
    formats = ["f8" if field.type.cname == "double" else "i8" for _, field in kind.fields]
    names = [name for name, _ in kind.fields]
    layout = np.dtype(
        {
            "names": names,
            "formats": formats,
            "offsets": [field.offset for _, field in kind.fields],
            "itemsize": ffi.sizeof(f"struct {struct}"),
        }
    )
    found: Records = np.zeros(size, layout).view(np.recarray)
    for name in _LISTS.get(struct, ()):
        found[name] = -1
    return found


class State:
    """A fleet without workers, before the first request. `visits`: the most stages in a route; `batch`: the most
    sequences on a worker."""

    def __init__(
        self,
        arrivals_s: Floats,
        prompts: Ints,
        outputs: Ints,
        *,
        workers: int,
        batch: int,
        stages: int,
        routes: int,
        visits: int,
    ) -> None:
        self.requests = _records("request", len(arrivals_s))
        self.requests.arrival, self.requests.prompt, self.requests.output = arrivals_s, prompts, outputs
        self.requests.first = self.requests.end = math.inf
        self.workers = _records("worker", workers)
        self.workers.state, self.workers.idle = GONE, lib.NOT_LISTED
        self.stages = _records("stage", stages)
        self.routes = _records("route", routes)
        self.events = _records("event", len(arrivals_s) + 4 * workers + 16)
        self.tables = _records("table", 0)
        self._ends = np.zeros((workers, batch), np.int64)
        self._enders = np.zeros((workers, batch), np.int64)
        self.members = np.zeros((stages, workers), np.int64)
        self.on_gpu = np.zeros((workers, stages), np.int64)
        self.prefill_route = np.zeros((routes, visits), np.int64)
        self.decode_route = np.zeros((routes, visits), np.int64)
        self.grid = np.zeros(0)
        self.gaps = np.zeros(lib.GAP_BINS)
        sizes = {"requests_count": len(arrivals_s), "workers_count": workers, "stages_count": stages}
        self.core = ffi.new("struct simulation *", {**sizes, "batch": batch, "visits": visits})
        self._point()

    def _point(self) -> None:
        for struct, records in (
            ("event", self.events),
            ("request", self.requests),
            ("worker", self.workers),
            ("stage", self.stages),
            ("route", self.routes),
            ("table", self.tables),
        ):
            setattr(self.core, f"{struct}s", ffi.from_buffer(f"struct {struct}[]", records))
        for name, integers in (
            ("ends", self._ends),
            ("enders", self._enders),
            ("members", self.members),
            ("on_gpu", self.on_gpu),
            ("prefill_route", self.prefill_route),
            ("decode_route", self.decode_route),
        ):
            setattr(self.core, name, ffi.from_buffer("int64_t[]", integers))
        self.core.grid = ffi.from_buffer("double[]", self.grid)
        self.core.gaps = ffi.from_buffer("double[]", self.gaps)

    def add_table(self, times: StageTimes, hops: int) -> int:
        """The number of a table. `hops`: how often an iteration leaves the stage."""
        parts = [
            times.linear_tokens,
            times.linear_s,
            times.prefill_lengths,
            times.prefill_s,
            times.decode_sequences,
            times.decode_context,
            times.decode_s.ravel(),
        ]
        begins = len(self.grid) + np.cumsum([0, *(len(part) for part in parts)])
        table = _records("table", 1)
        table["hop"] = hops * times.hop_s
        for name, at in (("linear", 0), ("prefill", 2), ("sequences", 4), ("context", 5)):
            table[name], table[f"{name}_size"] = begins[at], len(parts[at])
        self.tables = np.concatenate((self.tables, table)).view(np.recarray)
        self.grid = np.concatenate((self.grid, *parts))
        self._point()
        return len(self.tables) - 1

    @property
    def now_s(self) -> float:
        return self.core.now

    def advance(self, until_s: float) -> None:
        """All that happens up to that time; to the end, where it is infinite."""
        lib.simulation_advance(self.core, until_s)

    def start(self, worker: int, at_s: float) -> None:
        """The worker, which is STARTING, will be up at that time."""
        lib.simulation_start(self.core, at_s, worker)

    def wake(self, worker: int) -> None:
        """A worker looks for work."""
        lib.simulation_wake(self.core, worker)

    def linear_s(self, table: int, tokens: float) -> float:
        """Seconds for so many tokens, attention left out."""
        return lib.simulation_linear(self.core, table, tokens)

    def decode_s(self, table: int, sequences: float, context: float) -> float:
        """Seconds for the attention of a token each of so many sequences."""
        return lib.simulation_decode(self.core, table, sequences, context)

    @property
    def gap_mean_s(self) -> float:
        """Between two tokens; 0 where there were none."""
        return self.core.gaps_s / self.core.gaps_count if self.core.gaps_count else 0.0

    def gap_s(self, share: float) -> float:
        """The time between two tokens that `share` of them keep, within 0.7 %."""
        total: Floats = np.cumsum(self.gaps)
        if total[-1] == 0:
            return 0.0
        return lib.simulation_gap(float(np.searchsorted(total, share * float(total[-1]))) + 0.5)
