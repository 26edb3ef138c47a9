# SPDX-License-Identifier: Apache-2.0
"""This test will play transcripts of MPS v3, as NVIDIA documents it, to our side of it."""

from pathlib import Path

import pytest

from control_daemons import run
from control_program import ControlProgram
from mpsafe.errors import ControlFailed, NotSupported
from mpsafe.model import Limits
from mpsafed.mps.front_end import FrontEnd
from mpsafed.mps.v3 import V3

TRANSCRIPTS = Path(__file__).parent / "data" / "mps_v3"
SERVER, OTHER = 48201, 48300
DEVICE = "GPU-74d43ed3-cdf7-e667-3644-bf5b4f46ed65"


class Played:
    """A program that answers as a transcript says, and fails where it says nothing."""

    def __init__(self, directory: Path, name: str) -> None:
        answers: dict[str, str] = {}
        for number, part in enumerate((TRANSCRIPTS / name).read_text().split("$ ")[1:]):
            command, _, answer = part.partition("\n")
            (directory / f"answer-{number}").write_text(answer)
            answers[command] = f"cat '{directory}/answer-{number}'"
        self._program = ControlProgram(directory, answers | {"*": "echo no such command; exit 1"}, protocol=3)
        self.v3 = V3(FrontEnd(str(self._program.path), {}, deadline_s=60))

    def changes(self) -> list[str]:
        """The commands that were not questions."""
        return [command for command in self._program.commands() if command.split()[1] not in ("list", "get")]


def test_servers(tmp_path: Path) -> None:
    played = Played(tmp_path, "servers")

    async def check() -> None:
        assert await played.v3.servers() == [SERVER, OTHER], "one that has no process yet is none"
        assert await played.v3.limited() == [SERVER, OTHER]
        assert await played.v3.server_state(SERVER) == "active"
        assert await played.v3.server_state(OTHER) == "initializing"
        assert await played.v3.server_state(1) == "gone"
        assert await played.v3.clients(1) == []

    run(check())


def test_a_server_is_made_again_as_it_was(tmp_path: Path) -> None:
    played = Played(tmp_path, "servers")

    async def check() -> None:
        await played.v3.shutdown_server(SERVER)
        await played.v3.shutdown_server(1)
        await played.v3.start_server(1000)
        await played.v3.start_server(1003)

    run(check())
    assert played.changes() == [
        "server delete training --force",
        "server create training --uid=1000 --allowed-devices=GPU-abcd-1234,GPU-efgh-5678",
        "server create --uid=1003",
    ]


def test_a_client_cannot_name_another_by_its_command(tmp_path: Path) -> None:
    """The third row is the second client's command: a line feed and the rest of a row. It is asked after."""
    played = Played(tmp_path, "clients")

    async def check() -> None:
        assert await played.v3.clients(SERVER) == [51023, 51087]

    run(check())


def test_clients_as_seen_on_615(tmp_path: Path) -> None:
    played = Played(tmp_path, "clients_615")

    async def check() -> None:
        assert await played.v3.clients(3165000) == [3167082, 3165259]

    run(check())


def test_no_answer_proves_that_work_has_stopped(tmp_path: Path) -> None:
    """Not even the 0 that is v2's proof: nothing says that it means the same."""
    played = Played(tmp_path, "clients")

    async def check() -> None:
        assert await played.v3.terminate_client(SERVER, 51023, deadline_s=60) is False
        with pytest.raises(ControlFailed, match="no such command"):
            await played.v3.terminate_client(SERVER, 1, deadline_s=60)

    run(check())
    assert played.changes() == ["client terminate 51023", "client terminate 1"]


def test_limits(tmp_path: Path) -> None:
    played = Played(tmp_path, "limits")

    async def check() -> None:
        assert await played.v3.limits(SERVER, ["all"]) == Limits(50.0, 1, {"all": 10240})
        await played.v3.set_limits(SERVER, Limits(37.5, 0, {"all": 1500}))
        await played.v3.set_limits(SERVER, Limits())
        with pytest.raises(NotSupported, match="for one device wants MPS v2"):
            await played.v3.set_limits(SERVER, Limits(pinned_mib={"0": 1024}))
        with pytest.raises(NotSupported, match="taking a limit of pinned memory away"):
            await played.v3.set_limits(SERVER, Limits(pinned_mib={"all": 0}))
        with pytest.raises(ControlFailed, match="server 1 is gone"):
            await played.v3.limits(1, [])

    run(check())
    assert played.changes() == [
        "server set shared --active-thread-percentage=37.5 --client-priority=0 --pinned-memory-limit=1500M"
    ]


def test_partitions(tmp_path: Path) -> None:
    played = Played(tmp_path, "partitions")

    async def check() -> None:
        assert await played.v3.partitions() == {DEVICE: [4, 2]}
        await played.v3.partition(DEVICE, [2, 3])

    run(check())
    assert played.changes() == [
        f"sm-partition delete large --server=training --device={DEVICE}",
        f"sm-partition create mpsafe_1 --server=training --device={DEVICE} --chunks=3",
    ]


def test_partitions_want_one_server(tmp_path: Path) -> None:
    played = Played(tmp_path, "servers")

    async def check() -> None:
        with pytest.raises(NotSupported, match="exactly one server, and this control daemon has 3"):
            await played.v3.partition(DEVICE, [2])

    run(check())


def test_it_does_not_end_clients_unless_it_is_forced(tmp_path: Path) -> None:
    program = ControlProgram(
        tmp_path,
        {
            "server list --format=csv,noheader": "echo s,0,48201,Ready,/run/s,-,-",
            "client list*": "echo 51023,s,0,default,python",
            "client get*": "echo s",
            "-q": ":",
        },
        protocol=3,
    )
    v3 = V3(FrontEnd(str(program.path), {}, deadline_s=60))

    async def check() -> None:
        with pytest.raises(NotSupported, match="a stop that waits for its clients wants MPS v2"):
            await v3.quit(force=False)
        assert "-q" not in program.commands()
        await v3.quit(force=True)

    run(check())
    assert program.commands()[-1] == "-q"


@pytest.mark.parametrize(
    "row", ["training", "a,b,c,d,e,f,g", "Training,0,1,Ready,/run/x,-,-", ",,,,,,", "\\377,0,1,r,p,-,-"]
)
def test_a_list_that_is_none_is_refused(tmp_path: Path, row: str) -> None:
    program = ControlProgram(tmp_path, {"server list*": f"printf '{row}'"}, protocol=3)

    async def check() -> None:
        with pytest.raises(ControlFailed, match="expected name, uid, pid, status and more, got"):
            await V3(FrontEnd(str(program.path), {}, deadline_s=60)).servers()

    run(check())
