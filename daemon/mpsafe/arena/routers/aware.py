# SPDX-License-Identifier: Apache-2.0
"""A router that looks at the host before it sends anything, around any router that does not."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from typing_extensions import override

from mpsafe.arena.routers.base import Query, Router

__all__ = ["AGE_MAX_S", "ModelState", "Seen", "StateAware"]

AGE_MAX_S: Final = 3.0
OUTSTANDING_MAX: Final = 6
SILENT_MAX_S: Final = 0.5
FAILED_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class ModelState:
    """What is known of one model. `resident`: its weights are on the device, as it says itself; `queue`: requests that
    it has, from anybody; `outstanding`: those of this router; `silent_s`: for how long it has owed this router an
    answer and given none; `failed_s`: how long ago the last request to this generation failed, None where one was
    answered since.
    """

    healthy: bool
    resident: bool
    generation: int
    queue: int
    outstanding: int
    silent_s: float
    failed_s: float | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """One reading of the host. `epoch` is another one for each start of mpsafed; `sequence`: its last event;
    `age_s`: how old the reading was when it was looked at.
    """

    models: Mapping[str, ModelState]
    epoch: int
    sequence: int
    age_s: float

    @property
    def stale(self) -> bool:
        """Too old to be believed: then every model is as good as any other."""
        return self.age_s > AGE_MAX_S


class StateAware(Router):
    """Takes what `base` picks, unless that is known not to answer: then the least busy of those that may. Where all
    are busy or silent, of those that are up by what the host says; where that is nobody, of those that have not failed.

    `models`: all of them, the cheapest first, which is taken of equally busy ones. `look` reads the host; `seen` is
    what was looked at last.
    """

    def __init__(self, base: Router, models: Sequence[str], look: Callable[[], Seen]) -> None:
        self._base = base
        self._models = models
        self._look = look
        self.seen: Seen | None = None

    @override
    def route(self, query: Query) -> str:
        wanted = self._base.route(query)
        seen = self.seen = self._look()
        up = [model for model in self._models if _up(seen, model)]
        known = [model for model in self._models if model in seen.models]
        may = [model for model in up if _answers(seen.models[model])]
        may = may or up or [model for model in known if _answers(seen.models[model])]
        if wanted in may or not may:
            return wanted
        return min(may, key=lambda model: _busy(seen, model))


def _up(seen: Seen, model: str) -> bool:
    """As the host says, if it says anything that can be believed."""
    state = seen.models.get(model)
    return state is not None and (seen.stale or (state.healthy and state.resident))


def _answers(state: ModelState) -> bool:
    """By this router's own requests: what is silent or has just failed is left alone for a while."""
    if state.outstanding >= OUTSTANDING_MAX or state.silent_s > SILENT_MAX_S:
        return False
    return state.failed_s is None or state.failed_s >= FAILED_S


def _busy(seen: Seen, model: str) -> int:
    state = seen.models[model]
    return state.outstanding if seen.stale else max(state.queue, state.outstanding)
