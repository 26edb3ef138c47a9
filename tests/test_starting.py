# SPDX-License-Identifier: Apache-2.0
"""This test will start control daemons in sessions of their own, and as units through a systemctl of its own."""

import os
import subprocess
from pathlib import Path

import psutil
import pytest

from contract.mps_rig import NOBODY
from control_daemons import EVERY_PROGRAM, rig, run
from mpsafe.errors import ControlFailed, NotOurs
from mpsafe.model import Limits
from mpsafed.declared import Declared
from mpsafed.mps import starting
from mpsafed.mps.control import Control
from mpsafed.mps.starting import start_control
from requires import requires
from supervised import supervised

DEVICE = "GPU-74d43ed3-cdf7-e667-3644-bf5b4f46ed65"
PARTITIONED = Limits(partitions={DEVICE: [4]})

# Starts the unit's program as its user, as systemd does: with the environment file, and not as our child.
SYSTEMCTL = """#!/bin/sh
echo "$@" >>'{directory}/asked'
test "$1 $2" = 'start mpsafe-mps@0.service' || exit 5
set -a
. '{directory}/mps-0.env'
exec '{program}' -d $MPS_ARGUMENTS
"""


@pytest.mark.parametrize("which", EVERY_PROGRAM)
def test_a_session_of_its_own(which: str, place: Path) -> None:
    """It is neither our child nor in our session: our end is not its."""

    async def check() -> None:
        with rig(which, place) as programs:
            control = programs.control(programs.declare())
            await start_control(control, Limits())
            found = control.identity()
            assert found is not None
            assert os.getsid(found.pid) != os.getsid(0)
            assert psutil.Process(found.pid).ppid() != os.getpid()
            with pytest.raises(ControlFailed, match="'-d': it ended with status 1: An instance"):
                await start_control(control, Limits())
            assert control.identity() == found

    run(check())


@pytest.mark.parametrize("which", EVERY_PROGRAM)
def test_a_unit(which: str, place: Path) -> None:
    async def check() -> None:
        with rig(which, place) as programs:
            one = programs.declare(how="systemd")
            systemctl = place / "systemctl"
            systemctl.write_text(SYSTEMCTL.format(directory=place, program=one.program))
            systemctl.chmod(0o755)
            async with supervised(programs, one) as life:
                found = await life.running()
                assert (found.starts, found.trouble) == (1, "")
                assert (place / "asked").read_text() == "start mpsafe-mps@0.service\n"
                await life.supervisor.stop("one", force=False)
                await life.supervisor.start("one")
                assert life.one().starts == 2

    run(check())


@pytest.mark.parametrize("which", EVERY_PROGRAM)
def test_a_unit_that_counts_as_started_and_is_silent_is_restarted(which: str, place: Path) -> None:
    """As one whose control daemon crashed and whose servers live: to start it does nothing."""

    async def check() -> None:
        with rig(which, place) as programs:
            control = programs.control(programs.declare(how="systemd"))
            systemctl = place / "systemctl"
            script = SYSTEMCTL.replace("exit 5\n", "exit 0\n").replace("= 'start mps", "= 'restart mps")
            systemctl.write_text(script.format(directory=place, program=control.declared.program))
            systemctl.chmod(0o755)
            await start_control(control, Limits(), run_directory=place, systemctl=str(systemctl))
            assert control.identity() is not None
            asked = (place / "asked").read_text().splitlines()
            assert asked == ["start mpsafe-mps@0.service", "restart mpsafe-mps@0.service"]

    run(check())


@pytest.mark.parametrize(
    ("protocol", "uid", "limits", "arguments"),
    [
        (2, None, Limits(50.0), ""),
        (2, None, PARTITIONED, "-S"),
        (2, None, Limits(partitions={DEVICE: []}), ""),
        (3, None, PARTITIONED, "-p 3 -m"),
        (3, os.geteuid(), Limits(), "-p 3"),
    ],
)
def test_what_a_unit_is_told(
    place: Path, monkeypatch: pytest.MonkeyPatch, protocol: int, uid: int | None, limits: Limits, arguments: str
) -> None:
    """A shell reads the file as systemd does."""
    monkeypatch.setattr(starting, "ANSWER_SECONDS", 0.01)  # nobody will answer
    pipes, logs = place / 'a "quoted" $HOME' / "pipes", place / "logs" / "one"
    pipes.parent.mkdir()
    one = Declared("one", uid, "program", pipes, logs, "systemd", 3 if protocol == 3 else 2)

    async def check() -> None:
        await start_control(Control(one, os.environ), limits, run_directory=place, systemctl="true")

    run(check())
    shell = f". '{place}/mps-{uid or 0}.env'; " + 'printf "%s\\n" "$MPS_ARGUMENTS" "$CUDA_MPS_PIPE_DIRECTORY"'
    said = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == [arguments, str(pipes)]


def test_a_unit_that_does_not_start(place: Path) -> None:
    one = Declared("one", None, "program", place / "pipes" / "one", place / "logs" / "one", "systemd")
    control = Control(one, os.environ)

    async def check() -> None:
        unit = "systemctl start mpsafe-mps@0.service"
        with pytest.raises(ControlFailed, match=f"'{unit}': it ended with status 1"):
            await start_control(control, Limits(), run_directory=place, systemctl="false")
        with pytest.raises(ControlFailed, match=r"/nonexistent/mps-0\.env cannot be written: No such file"):
            await start_control(control, Limits(), run_directory=Path("/nonexistent"), systemctl="true")

    run(check())


def test_one_that_is_not_ours_is_not_started(place: Path) -> None:
    one = Declared("one", None, "program", place / "pipes" / "one", place / "logs" / "one", "adopt")

    async def check() -> None:
        with pytest.raises(NotOurs):
            await start_control(Control(one, os.environ), Limits())

    run(check())
    assert not one.pipe_directory.exists()


@requires("root")
def test_only_root_starts_another_users(place: Path) -> None:
    one = Declared("one", NOBODY - 1, "program", place / "pipes" / "one", place / "logs" / "one", "session")

    async def check() -> None:
        os.seteuid(NOBODY)
        try:
            with pytest.raises(ControlFailed, match=f"a control daemon of uid {NOBODY - 1} wants root to start it"):
                await start_control(Control(one, os.environ), Limits())
        finally:
            os.seteuid(0)

    run(check())
