# SPDX-License-Identifier: Apache-2.0
"""What a standby costs: contexts in memory and time, and mapping what the vault holds."""

import os
import statistics
import time
from collections.abc import Mapping
from typing import Final

from tools.qualify.finding import Json
from tools.qualify.mps import PrivateMps
from tools.qualify.probe import Answer, Probe
from tools.qualify.stage import Actor, Broken, Stage

__all__ = ["COSTS"]

MIB: Final = 1 << 20
# Bytes of an allocation, and how many at most.
SIZES: Final = ((2 * MIB, 512), (64 * MIB, 64), (1024 * MIB, 16), (16384 * MIB, 3))
_LEFT: Final = 0.8
LOOK_S: Final = 0.8
BUSY_S: Final = 1.2


def contexts(stage: Stage, answer: Answer) -> None:
    """Device memory that goes with a context, and how long it takes to be made: outside MPS, in it, in a second MPS."""
    observer = stage.open("observer")
    before = _free(observer)
    outside = _another(stage, answer, observer, "outside", stage.environment)
    answer.measured["all_contexts_at_rest_mib"] = (before - _free(observer)) / MIB
    outside.end()
    first = PrivateMps(stage)
    _another(stage, answer, observer, "mps_first", first.environment)
    _another(stage, answer, observer, "mps_second", first.environment)
    second = PrivateMps(stage, name="mps-beside")
    _another(stage, answer, observer, "mps_beside", second.environment)
    answer.outcome["costs_memory"] = answer.measured["outside"]["mib"] > 0
    answer.expect(bool(answer.outcome["costs_memory"]), "a context has memory of its own")


def _another(stage: Stage, answer: Answer, observer: Actor, role: str, environment: Mapping[str, str]) -> Actor:
    """One more context, and what it took."""
    before = _free(observer)
    actor = stage.start(role, environment=environment)
    reply = actor.ask("open", uuid=stage.target.uuid)
    if reply.result:
        raise Broken(f"{role} got no context: {reply.call} returned {reply.result}")
    steps = {name: reply.data[name] for name in ("init_ms", "context_ms", "kernels_ms")}
    answer.measured[role] = steps | {"mib": (before - _free(observer)) / MIB}
    return actor


def imports(stage: Stage, answer: Answer) -> None:
    """What it costs to map memory that another process made: by number and by size of the allocations."""
    creator, importer = stage.open("creator"), stage.open("importer")
    for nbytes, most in SIZES:
        count = min(most, int(_free(creator) * _LEFT) // nbytes)
        steps: list[Json] = []
        for _ in range(count):
            made = creator.ask("reserve", nbytes=nbytes)
            if made.result:
                raise Broken(f"{nbytes} bytes could not be made: {made.call} returned {made.result}")
            taken = importer.ask("take_timed", fd=made.fd, nbytes=nbytes)
            os.close(made.fd)
            if taken.result:
                raise Broken(f"{nbytes} bytes could not be imported: {taken.call} returned {taken.result}")
            steps.append(taken.data)
        if steps:
            medians = {name: round(statistics.median(step[name] for step in steps), 1) for name in steps[0]}
            total_ms = sum(sum(step.values()) for step in steps) / 1e3
            answer.measured[f"{nbytes // MIB}_mib"] = medians | {"count": count, "total_ms": round(total_ms, 3)}
        for actor in (importer, creator):
            actor.ask("drop")
    answer.outcome["sizes"] = len(answer.measured)
    answer.expect(bool(answer.measured), "something could be mapped")


def neighbours(stage: Stage, answer: Answer) -> None:
    """A small kernel's time in a client of MPS, beside nothing, a warm standby, one that serves, and another client."""
    mps = PrivateMps(stage)
    neighbour = stage.open("neighbour", environment=mps.environment)
    neighbour.ask("latency", seconds=LOOK_S / 4)

    def look(name: str, beside: Actor | None) -> None:
        if beside is not None:
            beside.begin("busy", seconds=BUSY_S)
            time.sleep(BUSY_S - LOOK_S)
        answer.measured[name] = neighbour.ask("latency", seconds=LOOK_S).data
        if beside is not None:
            answer.measured[name] |= beside.receive().data

    look("alone", None)
    client = stage.open("client", environment=mps.environment)
    look("beside_an_idle_client", None)
    look("beside_a_busy_client", client)
    client.end()
    standby = stage.open("standby")
    look("beside_a_warm_standby", None)
    look("beside_a_serving_standby", standby)
    answer.outcome["looks"] = len(answer.measured)


def link(stage: Stage, answer: Answer) -> None:
    """Copies between host memory and the device, by size; 12 MiB is an expert of OLMoE."""
    actor = stage.open("copier")
    for mib, count in ((1, 50), (12, 20), (16, 20), (256, 5)):
        answer.measured[f"{mib}_mib"] = actor.ask("copies", nbytes=mib * MIB, count=count).data
    answer.outcome["sizes"] = len(answer.measured)


def _free(observer: Actor) -> int:
    return int(observer.ask("free").data["bytes"])


COSTS: Final = (
    Probe("context_cost", "What does a context cost, outside MPS, in it, and in a second MPS?", contexts),
    Probe("neighbour_cost", "What does a standby outside MPS cost the clients in it?", neighbours),
    Probe("link", "How fast are copies between the host's memory, page-locked and sealed, and the device?", link),
    Probe("import_cost", "What does it cost to map memory that another process made?", imports),
)
