# SPDX-License-Identifier: Apache-2.0
"""Stages and routes of a simulation by number: which pools a request goes through, and which of them is active.

Plans of different cuts are different routes. A new one becomes active when each of its stages has a worker that is up;
what waits for its first stage comes along, what is further on stays where it is.
"""

from collections.abc import Callable
from typing import TypeAlias

from mpsafe.operators.model import Plan, PoolPlan, Stage
from mpsafe.operators.simulator.state import DECODE, HOME, MIXED, PREFILL, UP, State

__all__ = ["Routes"]

_Route: TypeAlias = tuple[tuple[str, ...], tuple[str, ...]]


class Routes:
    """`find`: a stage by its name. `process_bytes`: of a worker's memory on each GPU, what is not weights or cache."""

    def __init__(
        self, state: State, find: Callable[[str], Stage], link_bytes_per_s: float, process_bytes: float
    ) -> None:
        self.stages: dict[str, int] = {}
        self._state = state
        self._find = find
        self._link = link_bytes_per_s
        self._process_bytes = process_bytes
        self._known: dict[str, Stage] = {}
        self._routes: dict[_Route, int] = {}
        self._active = -1

    def stage(self, name: str) -> Stage:
        """Raises KeyError."""
        if name not in self._known:
            self._known[name] = self._find(name)
        return self._known[name]

    def number(self, name: str) -> int:
        """Of a stage; a new one for a new stage."""
        if name in self.stages:
            return self.stages[name]
        stage, number = self.stage(name), len(self.stages)
        self.stages[name] = number
        record = self._state.stages[number]
        record.kind = PREFILL
        if "decode" in stage.phases:
            record.kind = DECODE if stage.kv_bytes_per_token == 0 else HOME if len(stage.phases) == 1 else MIXED
        record.link = stage.out_bytes_per_token / self._link
        record.move = stage.kv_bytes_per_token / self._link
        return number

    def of(self, plan: Plan) -> int:
        """The number of a plan's route."""
        stages = [self.stage(name) for name in dict.fromkeys(pool.stage for pool in plan.pools)]
        key = tuple(tuple(stage.name for stage in stages if phase in stage.phases) for phase in ("prefill", "decode"))
        prefill, decode = ([self.number(name) for name in names] for names in key)
        if (prefill_names := key[0], decode_names := key[1]) in self._routes:
            return self._routes[prefill_names, decode_names]
        number = len(self._routes)
        self._routes[prefill_names, decode_names] = number
        self._state.prefill_route[number, : len(prefill)] = prefill
        self._state.decode_route[number, : len(decode)] = decode
        record = self._state.routes[number]
        record.prefills, record.decodes = len(prefill), len(decode)
        record.home = next(one for one in decode if self._state.stages[one].kind in (HOME, MIXED))
        return number

    def limit(self, pool: PoolPlan) -> None:
        """The batch and the tokens of an iteration."""
        record = self._state.stages[self.number(pool.stage)]
        record.batch = max(1, min(pool.batch, self._state.core.batch))
        record.tokens = max(1, pool.tokens)

    def cached_bytes(self, name: str) -> float:
        """A token's cache."""
        return self.stage(name).kv_bytes_per_token

    def cache(self, pool: PoolPlan) -> int:
        """For how many tokens a worker of the pool has room."""
        stage = self.stage(pool.stage)
        if stage.kv_bytes_per_token == 0:
            return 0
        room = (pool.memory_bytes - self._process_bytes) * pool.tensor_parallel - stage.weight_bytes
        return max(0, int(room / stage.kv_bytes_per_token))

    def ready(self, route: int) -> bool:
        """Whether each of its stages has somebody who is up."""
        record = self._state.routes[route]
        used = {
            *self._state.prefill_route[route, : record.prefills],
            *self._state.decode_route[route, : record.decodes],
        }
        return all(self._state.stages[stage].up > 0 for stage in used)

    def activate(self, route: int) -> list[int]:
        """From now on requests take it. Returns the workers that are to look for what came along."""
        before, self._active = self._active, route
        if before == route:
            return []
        self._state.core.route = route
        self._state.stages[self._state.routes[route].home].route = route
        if before < 0:
            return []
        old, new = (int(self._state.prefill_route[one, 0]) for one in (before, route))
        self._move(old, new, route)
        members = self._state.members[new, : self._state.stages[new].count]
        return [int(worker) for worker in members if self._state.workers[worker].state == UP]

    def _move(self, old: int, new: int, route: int) -> None:
        """What waits for the first stage takes the new route."""
        state, request = self._state, int(self._state.stages[old].head)
        while request >= 0:
            record = state.requests[request]
            state.routes[record.route].present -= 1
            state.routes[route].present += 1
            record.route = route
            request = int(record.link)
        if old == new:
            return
        source, target = state.stages[old], state.stages[new]
        if source.head < 0:
            return
        if target.head < 0:
            target.head = source.head
        else:
            state.requests[target.tail].link = source.head
        target.tail = source.tail
        target.waiting += source.waiting
        target.waiting_tokens += source.waiting_tokens
        source.head = source.tail = -1
        source.waiting = source.waiting_tokens = 0

    def in_use(self, stage: int) -> bool:
        """Whether a request is on a route that leads there."""
        for route in self._routes.values():
            record = self._state.routes[route]
            if record.present == 0 and route != self._active:
                continue
            prefill, decode = self._state.prefill_route[route], self._state.decode_route[route]
            if stage in prefill[: record.prefills] or stage in decode[: record.decodes]:
                return True
        return False

    def enlist(self, slot: int, name: str, table: int, gpu: int, weight: float) -> None:
        """A worker that starts."""
        number = self.number(name)
        worker, stage = self._state.workers[slot], self._state.stages[number]
        worker.stage, worker.table, worker.gpu, worker.weight = number, table, gpu, weight
        worker.state = worker.busy = worker.iteration = worker.context = worker.cached = 0
        self._state.members[number, stage.count] = slot
        stage.count += 1

    def discharge(self, slot: int) -> None:
        """A worker that is gone leaves its stage's lists."""
        state, stage = self._state, self._state.stages[self._state.workers[slot].stage]
        number = int(state.workers[slot].stage)
        members = state.members[number, : stage.count]
        kept = members[members != slot]
        state.members[number, : len(kept)] = kept
        stage.count = len(kept)
        before, at = -1, int(stage.idle)
        while at >= 0 and at != slot:
            before, at = at, int(state.workers[at].idle)
        if at == slot:
            following = state.workers[slot].idle
            if before < 0:
                stage.idle = following
            else:
                state.workers[before].idle = following
        state.workers[slot].idle = -2
