# SPDX-License-Identifier: Apache-2.0
"""The workers of a simulated fleet: started, drained and stopped so that they become what a plan says.

A worker's share and parallelism never change: another is started, and the old one drains when it is up. Its room for
caches does, as far as its GPU's memory allows. A GPU is on from its first worker's start to its last worker's end.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from mpsafe.operators.model import Device, Plan, PoolPlan, Stage, StageTimes
from mpsafe.operators.simulator.gpus import Gpus, Need
from mpsafe.operators.simulator.routes import Routes
from mpsafe.operators.simulator.state import DRAINING, GONE, HOME, MIXED, PREFILL, STARTING, UP, State

__all__ = ["Fleet", "Life", "Times"]

Times: TypeAlias = Callable[[Stage, int, float], StageTimes]
_Key: TypeAlias = tuple[str, int, float]

GATHER_S: Final = 10.0  # from one GPU that is emptied to the next


@dataclass(slots=True)
class Life:
    """A worker, from its start on."""

    slot: int
    stage: str
    key: _Key
    need: Need
    gpus: tuple[int, ...]
    begin_s: float
    end_s: float = float("inf")
    busy_s: float = 0.0
    leaves: bool = False


class Fleet:
    """`start_s`: how long a worker of a stage needs until it is up. `devices`: the most GPUs."""

    def __init__(
        self,
        state: State,
        device: Device,
        stage: Callable[[str], Stage],
        times: Times,
        start_s: Callable[[Stage], float],
        *,
        devices: int,
        process_bytes: float = 0.0,
    ) -> None:
        self.state = state
        self.gpus = Gpus(device, devices)
        self.routes = Routes(state, stage, device.link_bytes_per_s, process_bytes)
        self.lives: list[Life] = []
        self.changes = 0
        self._times = times
        self._start_s = start_s
        self._live: dict[int, Life] = {}
        self._kinds: dict[_Key, list[Life]] = {}
        self._settled: Plan | None = None
        self._free = list(range(len(state.workers)))[::-1]
        self._tables: dict[_Key, tuple[int, float]] = {}
        self._gathered_s = 0.0
        self._spent_s = 0.0
        self._weights = np.zeros(len(state.workers))

    @property
    def busy_s(self) -> float:
        """GPU seconds in service, by shares, of all workers so far."""
        return self._spent_s + float(self.state.workers.busy @ self._weights)

    @property
    def waiting(self) -> int:
        """Requests that no prefill worker has begun."""
        prefill = np.isin(self.state.stages.kind, (PREFILL, MIXED))
        return int(self.state.stages.waiting[prefill].sum())

    def replicas(self) -> dict[str, int]:
        """Workers of each stage that are up."""
        stages = self.routes.stages
        return {name: int(self.state.stages[number].up) for name, number in stages.items()}

    def follow(self, plan: Plan, *, cap: int, at_once: bool = False) -> None:
        """Towards the plan, by `cap` workers at most; `at_once`: they are up now, as before the first request."""
        if plan is self._settled:
            return
        route = self.routes.of(plan)
        wanted = {(pool.stage, pool.tensor_parallel, pool.share): pool for pool in plan.pools}
        left = cap
        for key, pool in sorted(wanted.items(), key=lambda item: -item[1].share):
            self.routes.limit(pool)
            self._room(key, pool)
            for _ in range(pool.replicas - len(self._workers(key, STARTING, UP))):
                if left == 0 or not self._add(key, pool, at_once=at_once):
                    break
                left -= 1
        if self.routes.ready(route):
            for worker in self.routes.activate(route):
                self.state.wake(worker)
            self._shrink(wanted)
            self._gather(plan, wanted)
        self.reap()
        there = all(len(self._kinds.get(key, ())) == pool.replicas for key, pool in wanted.items())
        calm = there and self.gpus.on <= plan.gpus and len(self._live) == sum(pool.replicas for pool in plan.pools)
        self._settled = plan if calm and self._is_calm() else None

    def reap(self) -> None:
        """Workers that have drained are gone."""
        for slot, life in list(self._live.items()):
            worker = self.state.workers[slot]
            if worker.state == DRAINING and self._done(slot):
                self._end(life)
            elif worker.state == DRAINING and not worker.active:
                self.state.wake(slot)

    def finish(self) -> None:
        """The lives of those who are still there."""
        for life in list(self._live.values()):
            self._end(life)

    def _workers(self, key: _Key, *states: int) -> list[Life]:
        workers = self.state.workers
        return [life for life in self._kinds.get(key, ()) if int(workers[life.slot].state) in states]

    def _is_calm(self) -> bool:
        return all(self.state.workers[slot].state == UP for slot in self._live)

    def _table(self, key: _Key) -> tuple[int, float]:
        if key not in self._tables:
            stage = self.routes.stage(key[0])
            times = self._times(stage, key[1], key[2])
            self._tables[key] = self.state.add_table(times, stage.hops), times.bandwidth_share
        return self._tables[key]

    def _add(self, key: _Key, pool: PoolPlan, *, at_once: bool, without: int = -1) -> bool:
        """One more worker: one that drains goes on, or a new one starts. False: there is no room."""
        if without < 0 and (draining := self._workers(key, DRAINING)):
            draining[-1].leaves = False
            self._up(draining[-1].slot)
            self.changes += 1
            return True
        table, bandwidth = self._table(key)
        need = Need(pool.share, min(1.0, bandwidth), pool.memory_bytes)
        gpus = self.gpus.place(need, pool.tensor_parallel, without=without)
        if not gpus or not self._free:
            return False
        slot = self._free.pop()
        life = Life(slot, pool.stage, key, need, gpus, self.state.now_s)
        self._live[slot] = life
        self._kinds.setdefault(key, []).append(life)
        self.gpus.take(gpus, need)
        self.routes.enlist(slot, pool.stage, table, gpus[0], pool.share * pool.tensor_parallel)
        self.state.workers[slot].cache = self.routes.cache(pool)
        if at_once:
            self._up(slot)
        else:
            self.state.start(slot, self.state.now_s + self._start_s(self.routes.stage(pool.stage)))
        self._weights[slot] = need.share * len(gpus)
        self.changes += 1
        return True

    def _up(self, slot: int) -> None:
        worker = self.state.workers[slot]
        worker.state = UP
        self.state.stages[worker.stage].up += 1
        self.state.on_gpu[worker.gpu, worker.stage] += 1
        self.state.wake(slot)

    def _room(self, key: _Key, pool: PoolPlan) -> None:
        """Memory for caches follows the plan, as far as what is promised and the GPU allow."""
        if self.state.stages[self.routes.number(pool.stage)].kind not in (HOME, MIXED):
            return
        wanted = self.routes.cache(pool)
        for life in self._workers(key, STARTING, UP):
            worker = self.state.workers[life.slot]
            if worker.cache == wanted:
                continue
            each = self.routes.cached_bytes(pool.stage) / len(life.gpus)
            most = min(self.gpus.free_bytes(gpu) for gpu in life.gpus) + 1.0
            target = max(wanted, int(worker.cached))
            more = (target - int(worker.cache)) * each
            if more > most:
                target = int(worker.cache) + int(most / each)
                more = (target - int(worker.cache)) * each
            self.gpus.give(life.gpus, life.need)
            life.need = Need(life.need.share, life.need.bandwidth, life.need.memory_bytes + more)
            self.gpus.take(life.gpus, life.need)
            worker.cache = target

    def _shrink(self, wanted: dict[_Key, PoolPlan]) -> None:
        """What is too many drains, once no worker of its stage is on its way."""
        starting = {life.stage for life in self._live.values() if self.state.workers[life.slot].state == STARTING}
        for key in [key for key, lives in self._kinds.items() if lives]:
            most = wanted[key].replicas if key in wanted else 0
            there = self._workers(key, STARTING, UP)
            surplus = len(there) - most
            moving = any(life.leaves for life in there) and surplus <= sum(life.leaves for life in there)
            if surplus <= 0 or (key[0] in starting and (moving or key not in wanted)):
                continue
            there.sort(key=self._worth)
            for life in there[:surplus]:
                self._drain(life)

    def _worth(self, life: Life) -> tuple[bool, bool, float]:
        """Who leaves first: who was replaced, who is not up yet, who is on the emptiest GPU."""
        up = bool(self.state.workers[life.slot].state == UP)
        return not life.leaves, up, self.gpus.share(life.gpus[0])

    def _drain(self, life: Life) -> None:
        worker = self.state.workers[life.slot]
        self.changes += 1
        if worker.state == STARTING:
            self._end(life)
            return
        worker.state = DRAINING
        self.state.stages[worker.stage].up -= 1
        self.state.on_gpu[worker.gpu, worker.stage] -= 1

    def _gather(self, plan: Plan, wanted: dict[_Key, PoolPlan]) -> None:
        """Where more GPUs are on than the plan needs, the emptiest one's workers move to the others."""
        now = self.state.now_s
        if self.gpus.on <= plan.gpus or now - self._gathered_s < GATHER_S or not self._is_calm():
            return
        self._gathered_s = now
        gpu = self.gpus.emptiest()
        for life in list(self._on(gpu)):
            if life.key not in wanted or not self._add(life.key, wanted[life.key], at_once=False, without=gpu):
                return
            life.leaves = True

    def _on(self, gpu: int) -> Iterator[Life]:
        return (life for life in self._live.values() if gpu in life.gpus)

    def _done(self, slot: int) -> bool:
        worker = self.state.workers[slot]
        if worker.active or worker.n or worker.joins >= 0 or worker.part >= 0:
            return False
        return self.state.stages[worker.stage].up > 0 or not self.routes.in_use(int(worker.stage))

    def _end(self, life: Life) -> None:
        worker = self.state.workers[life.slot]
        life.end_s, life.busy_s = self.state.now_s, float(worker.busy)
        worker.state = GONE
        self._spent_s += life.busy_s * float(self._weights[life.slot])
        self._weights[life.slot] = 0.0
        self.routes.discharge(life.slot)
        self.gpus.give(life.gpus, life.need)
        del self._live[life.slot]
        self._kinds[life.key].remove(life)
        self.lives.append(life)
        self._free.append(life.slot)
