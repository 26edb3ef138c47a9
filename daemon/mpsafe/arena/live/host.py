# SPDX-License-Identifier: Apache-2.0
"""The host of a live run: a device, MPS, mpsafed, and models that are started again when they end."""

import contextlib
import json
import os
import time
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

from mpsafe.demo.daemon import Daemon
from mpsafe.demo.decoder import Shape
from mpsafe.demo.hosts import Host
from mpsafe.demo.supervisor import Supervisor
from mpsafe.errors import DemoCannotRun

__all__ = ["OUTSIDE", "SERVED", "LiveHost", "Served", "price_of"]

# Three sizes of the same decoder, the cheapest first.
SERVED: Final[Mapping[str, Shape]] = {
    "small": Shape(layers=1, dim=16, heads=2, hidden=32),
    "medium": Shape(),
    "large": Shape(layers=4, dim=64, heads=4, hidden=128),
}
# No clients of MPS, so that what ends its server leaves somebody to route to.
OUTSIDE: Final = ("large",)
NO_MPS: Final = {"CUDA_MPS_PIPE_DIRECTORY": "/nonexistent"}
READY_S: Final = 60.0
POLL_S: Final = 0.02
# A nominal price, since nobody sells these: 100 dollars for 10^12 multiplications, in dollars for one.
NOMINAL: Final = 1e-10


def price_of(shape: Shape) -> float:
    """Nominal dollars a token: by the size of the weights, each of which is multiplied once."""
    return NOMINAL * sum(shape.arrays().values())


@dataclass(frozen=True, slots=True)
class Served:
    """One model as it runs. `path`: where it answers; `log`: what it says of itself; `supervisor` has its pids."""

    name: str
    path: Path
    log: Path
    supervisor: Supervisor

    @property
    def pid(self) -> int:
        """Its newest process."""
        return self.supervisor.pids[-1]

    def ready(self) -> list[tuple[int, int]]:
        """The pid of each of its processes that began to answer, and when (CLOCK_MONOTONIC, ns)."""
        try:
            words = [line.split() for line in self.log.read_text(errors="replace").splitlines()]
        except FileNotFoundError:
            return []
        return [(int(line[1]), int(line[2])) for line in words if len(line) == 3 and line[0] == "ready"]


class LiveHost:
    """Runs with its `with`: `host` is entered, MPS and mpsafed started on it, and a process for each of SERVED."""

    def __init__(self, host: Host, directory: Path) -> None:
        self.host = host
        self.models: dict[str, Served] = {}
        self.ended_ns: dict[str, list[int]] = {name: [] for name in SERVED}
        self.daemon = Daemon(host, directory, list(SERVED))
        self._directory = directory
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.host)
            self.host.start_mps()
            stack.enter_context(self.daemon)
            for name, shape in SERVED.items():
                self.models[name] = stack.enter_context(self._served(name, shape))
            self.until_ready()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def until_ready(self) -> None:
        """Waits until a process of every model answers. DemoCannotRun if one does not in time."""
        deadline = time.monotonic() + READY_S
        while lacking := [one for one in self.models.values() if not self._answers(one)]:
            if time.monotonic() > deadline:
                said = lacking[0].log.read_text(errors="replace").rstrip().rpartition("\n")[2]
                raise DemoCannotRun(f"the model {lacking[0].name} does not answer within {READY_S:g} s: {said}")
            time.sleep(POLL_S)

    def _answers(self, one: Served) -> bool:
        """Whether its newest process has begun to, and has not ended."""
        pids, ready = one.supervisor.pids, {pid for pid, _ in one.ready()}
        return len(self.ended_ns[one.name]) < len(pids) and pids[-1] in ready

    @contextlib.contextmanager
    def _served(self, name: str, shape: Shape) -> Generator[Served]:
        path, log = self._directory / f"{name}.sock", self._directory / f"{name}.log"
        words = ["mpsafe.arena.live.model", name, self.daemon.socket, os.fspath(path), json.dumps(asdict(shape))]

        def ended(_: int) -> None:
            self.ended_ns[name].append(time.monotonic_ns())

        environment = {**self.host.environment, **(NO_MPS if name in OUTSIDE else {})}
        with Supervisor(words, environment, log, ended) as supervisor:
            yield Served(name, path, log, supervisor)
