# SPDX-License-Identifier: Apache-2.0
"""This test will find out what real control daemons speak, and scripted ones that speak v3 or nonsense."""

from pathlib import Path

import pytest

from control_daemons import EVERY_PROGRAM, rig, run
from control_program import ControlProgram
from mpsafe.errors import ControlFailed
from mpsafe.model import Limits
from mpsafed.mps.front_end import FrontEnd
from mpsafed.mps.probe import V2_QUESTION, probe
from mpsafed.mps.starting import start_control

COLUMNS = "name,uid,pid,status,pipe-directory,allowed-devices,context-ids"
LIST = "server list --format=csv"


@pytest.mark.parametrize("which", EVERY_PROGRAM)
def test_the_programs_that_there_are_speak_v2(which: str, place: Path) -> None:
    async def check() -> None:
        with rig(which, place) as programs:
            control = programs.control(programs.declare())
            with pytest.raises(ControlFailed, match="no MPS control daemon answers in the pipe directory"):
                await probe(control.front_end)
            await start_control(control, Limits())
            dialect = await probe(control.front_end)
            assert dialect is not None
            assert dialect.interface == "v2"

    run(check())


@pytest.mark.parametrize(
    ("answers", "interface"),
    [
        ({V2_QUESTION: "echo 37.5", LIST: "exit 1"}, "v2"),
        ({V2_QUESTION: "exit 1", LIST: f"echo {COLUMNS}"}, "v3"),
        ({V2_QUESTION: "exit 64", LIST: f"echo {COLUMNS.upper()},more"}, "v3"),
        ({V2_QUESTION: "echo usage", LIST: f"echo {COLUMNS}; echo training,1000,48201,Ready,/run/x,0,-"}, "v3"),
        ({V2_QUESTION: ":", LIST: ":"}, None),
        ({V2_QUESTION: "echo usage", LIST: "exit 1"}, None),
        ({V2_QUESTION: "echo 1e9", LIST: "echo name,uid"}, None),
        ({V2_QUESTION: "exit 1", LIST: "echo help"}, None),
    ],
)
def test_by_what_it_answers(tmp_path: Path, answers: dict[str, str], interface: str | None) -> None:
    async def check() -> None:
        dialect = await probe(FrontEnd(str(ControlProgram(tmp_path, answers).path), {}, deadline_s=60))
        assert (dialect.interface if dialect else None) == interface

    run(check())
