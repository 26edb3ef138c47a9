# SPDX-License-Identifier: Apache-2.0
"""What NVML's event set tells of a fault, and how much later than the kernel log."""

from functools import partial
from importlib.util import find_spec
from typing import Final

from tools.qualify.finding import Json
from tools.qualify.probe import Answer, Probe
from tools.qualify.stage import NotRun, Stage

__all__ = ["EVENTS"]

_FIRST_S: Final = 5.0
_NEXT_S: Final = 1.5


def events(stage: Stage, answer: Answer, *, kind: str) -> None:
    """One process faults outside MPS; another waits for NVML's events."""
    if find_spec("pynvml") is None:
        raise NotRun("no pynvml in this Python")
    watcher = stage.start("NVML watcher", module="nvml_watch")
    ready = watcher.receive()
    answer.outcome["register"] = ready.result
    answer.measured["event_types"] = hex(ready.data["types"])
    if ready.result:
        answer.wrong.append(f"events could not be registered: {ready.result}")
        return
    offender = stage.open("offender")
    fault = stage.provoke(offender, kind)
    launched_ns = int(fault.data["launched_ns"])
    answer.outcome["offender"] = fault.result
    seen: list[Json] = []
    try:
        while True:
            event = watcher.receive(limit_s=_NEXT_S if seen else _FIRST_S).data
            event["after_launch_ms"] = round((event.pop("seen_ns") - launched_ns) / 1e6, 3)
            seen.append(event)
    except TimeoutError:
        answer.measured["events"] = seen
    answer.outcome["event_xids"] = [event["xid"] for event in seen if event["xid"] is not None]
    outcome, measured, raw = stage.xid_facts(launched_ns, [offender])
    answer.outcome |= outcome
    answer.measured |= measured
    answer.raw |= raw


EVENTS: Final = tuple(
    Probe(
        f"nvml_events_{kind}",
        f"Which NVML events does {kind.replace('_', ' ')} give, and when?",
        partial(events, kind=kind),
        reproduced=("register", "offender", "event_xids", "xids"),
    )
    for kind in ("trap", "wild_write")
)
