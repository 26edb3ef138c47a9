# SPDX-License-Identifier: Apache-2.0
"""Memory that outlives its creator: what the vault rests on."""

import os
from functools import partial
from typing import Final

from tools.qualify.mps import PrivateMps
from tools.qualify.probe import Answer, Probe
from tools.qualify.stage import Actor, Broken, Reply, Stage

__all__ = ["MEMORY"]

_FIRST: Final = 0x6D707361
_SECOND: Final = 0x66650A01


def create(creator: Actor) -> Reply:
    """Exported memory that holds _FIRST; its descriptor is in the reply and is ours."""
    made = creator.ask("create", value=_FIRST)
    if made.result or made.fd < 0:
        raise Broken(f"no memory could be exported: {made.call} returned {made.result}")
    return made


def import_into(actor: Actor, made: Reply, *, access: str = "readwrite") -> Reply:
    """The same memory in another process."""
    return actor.ask("import", fd=made.fd, nbytes=made.data["bytes"], access=access)


def share(stage: Stage, answer: Answer) -> None:
    """Two living processes, and writes in both directions."""
    creator, importer = stage.open("creator"), stage.open("importer")
    made = create(creator)
    answer.outcome["import"] = import_into(importer, made).result
    os.close(made.fd)
    answer.outcome["seen_by_importer"] = importer.ask("check", value=_FIRST).correct
    answer.outcome["write"] = importer.ask("fill", value=_SECOND).result
    answer.outcome["seen_by_creator"] = creator.ask("check", value=_SECOND).correct
    answer.measured["granularity_bytes"] = made.data["bytes"]
    answer.expect(answer.outcome["seen_by_importer"], "an importer sees what the creator wrote")
    answer.expect(answer.outcome["seen_by_creator"], "the creator sees what an importer wrote")


def outlives_creator(stage: Stage, answer: Answer) -> None:
    """The descriptor alone holds it: its creator is killed before anybody else has imported it."""
    creator = stage.open("creator")
    made = create(creator)
    creator.kill()
    importer = stage.open("importer")
    answer.outcome["import"] = import_into(importer, made).result
    os.close(made.fd)
    answer.outcome["intact"] = importer.ask("check", value=_FIRST).correct
    answer.expect(answer.outcome["intact"], "memory outlives its creator, held by a descriptor")


def outlives_fault(stage: Stage, answer: Answer, *, mps: bool) -> None:
    """Its creator, which still lives and has it mapped, traps. Imported before and after that by others."""
    environment = PrivateMps(stage).environment if mps else stage.environment
    creator = stage.open("creator", environment=environment)
    holder, successor = stage.open("holder"), stage.open("successor")
    made = create(creator)
    answer.outcome["import_before"] = import_into(holder, made).result
    answer.outcome["creator"] = stage.provoke(creator, "trap").result
    answer.outcome["intact_before"] = holder.ask("check", value=_FIRST).correct
    answer.outcome["import_after"] = import_into(successor, made).result
    os.close(made.fd)
    answer.outcome["intact_after"] = successor.ask("check", value=_FIRST).correct
    answer.outcome["write_after"] = successor.ask("fill", value=_SECOND).result
    answer.outcome["shared_after"] = holder.ask("check", value=_SECOND).correct
    answer.expect(answer.outcome["creator"] != 0, "a trap is an error of the process that trapped")
    answer.expect(answer.outcome["intact_before"], "a holder outside the fault keeps the memory")
    answer.expect(answer.outcome["intact_after"], "memory can be imported after its creator has faulted")


def read_only_import(stage: Stage, answer: Answer) -> None:
    """An importer that mapped it for reading, and a kernel of it that writes."""
    creator, importer = stage.open("creator"), stage.open("importer")
    made = create(creator)
    answer.outcome["import"] = import_into(importer, made, access="read").result
    os.close(made.fd)
    answer.outcome["readable"] = importer.ask("check", value=_FIRST).correct
    answer.outcome["write"] = importer.ask("fill", value=_SECOND).result
    answer.outcome["creator_keeps_it"] = creator.ask("check", value=_FIRST).correct
    answer.expect(answer.outcome["write"] != 0, "a write through a read-only import is an error")
    answer.expect(answer.outcome["creator_keeps_it"], "a write through a read-only import changes nothing")


_AFTER_FAULT: Final = (
    "import_before",
    "creator",
    "intact_before",
    "import_after",
    "intact_after",
    "write_after",
    "shared_after",
)

MEMORY: Final = (
    Probe(
        "memory_share",
        "Does a VMM handle exported by one process work in another?",
        share,
        reproduced=("import", "seen_by_importer", "write", "seen_by_creator"),
    ),
    Probe(
        "memory_outlives_creator",
        "Does it work after its creator was killed, held by nothing but the descriptor?",
        outlives_creator,
        reproduced=("import", "intact"),
    ),
    Probe(
        "memory_read_only_import",
        "What does a write through a read-only import do?",
        read_only_import,
        reproduced=("import", "readable", "write", "creator_keeps_it"),
    ),
    Probe(
        "memory_outlives_fault",
        "Does it outlive an SM fault of its creator, outside MPS?",
        partial(outlives_fault, mps=False),
        reproduced=_AFTER_FAULT,
    ),
    Probe(
        "mps_memory_outlives_fault",
        "Does it outlive an SM fault of its creator, a client of MPS?",
        partial(outlives_fault, mps=True),
        reproduced=_AFTER_FAULT,
    ),
)
