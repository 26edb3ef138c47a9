# SPDX-License-Identifier: Apache-2.0
"""A router and its twin on one host: both without faults, then both under the same ones."""

import platform
import tempfile
from collections.abc import Callable
from pathlib import Path

from mpsafe import __version__
from mpsafe.arena.choices import names_only
from mpsafe.arena.live.host import SERVED, LiveHost, price_of
from mpsafe.arena.live.plan import Plan
from mpsafe.arena.live.record import LiveRun
from mpsafe.arena.live.runner import Trace, drive, undisturbed
from mpsafe.arena.live.state import HostState, Outstanding
from mpsafe.arena.routers import make
from mpsafe.arena.routers.aware import StateAware
from mpsafe.demo.hosts import SoftwareGpu

__all__ = ["run"]

DEVICE = "software GPU (no silicon): no figure here is a GPU's"


def run(router: str, plan: Plan, *, tell: Callable[[str], None] = lambda _: None) -> LiveRun:
    """Runs all of it on a software GPU in a directory of its own. `router`: as `routers.make` has it, but untrained."""
    make(router, names_only(list(SERVED)), seed=plan.seed)  # one that there is not is refused before anything starts
    traces: list[Trace] = []
    with tempfile.TemporaryDirectory(prefix="mpsafe-live-") as name:
        tell("the host, mpsafed and the models start")
        with LiveHost(SoftwareGpu(Path(name) / "gpu", inject=True), Path(name)) as live:
            expected = undisturbed(live)
            for faulted in (False, True) if plan.faults else (False,):
                for aware in (False, True):
                    words = f"{router}, {'state-aware' if aware else 'health-blind'}"
                    tell(f"{words}, {plan.seconds:g} s {'with' if faulted else 'without'} faults")
                    traces.append(_one(live, router, plan, expected, aware=aware, faulted=faulted))
    return LiveRun(
        router=router,
        device=DEVICE,
        machine=f"{platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}",
        version=__version__,
        prices={name: price_of(shape) for name, shape in SERVED.items()},
        plan=plan,
        traces=traces,
    )


def _one(
    live: LiveHost, router: str, plan: Plan, expected: dict[tuple[str, str], str], *, aware: bool, faulted: bool
) -> Trace:
    """One of the four, with a base router that begins anew."""
    base = make(router, names_only(list(SERVED)), seed=plan.seed)
    outstanding = Outstanding()
    with HostState(live.daemon.socket, outstanding) as state:
        chosen = StateAware(base, list(SERVED), state.look) if aware else base
        return drive(live, chosen, plan, expected, outstanding, name=router, faulted=faulted)
