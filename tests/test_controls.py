# SPDX-License-Identifier: Apache-2.0
"""This test will ask several control daemons at once, of which some do not answer."""

from pathlib import Path

import pytest

from control_daemons import run
from control_program import ControlProgram
from mpsafe.errors import UnknownControl
from mpsafed.mps.control import Control
from mpsafed.mps.controls import Controls


def daemon(place: Path, name: str, answers: dict[str, str]) -> Control:
    (place / name).mkdir()
    return ControlProgram(place / name, answers).control(name=name)


def test_who_has_a_server_or_a_client(tmp_path: Path) -> None:
    silent = daemon(tmp_path, "silent", {"*": "exit 1"})
    first = daemon(tmp_path, "first", {"get_server_list": "echo 11", "get_client_list 11": "echo 21; echo 22"})
    second = daemon(tmp_path, "second", {"get_server_list": "echo 12; echo 13", "get_client_list 13": "echo 23"})
    controls = Controls([silent, first, second])

    async def check() -> None:
        assert [await controls.of(pid) for pid in (11, 13, 14)] == [first, second, None]
        assert await controls.server_of(22) == (first, 11)
        assert await controls.server_of(23) is None, "one whose first server is lost does not answer"
        assert await controls.server_of(24) is None

    run(check())


def test_by_name_in_order(tmp_path: Path) -> None:
    one, two = daemon(tmp_path, "one", {}), daemon(tmp_path, "two", {})
    controls = Controls([one, two])
    assert list(controls) == [one, two]
    assert controls["two"] is two
    with pytest.raises(UnknownControl, match="there is no MPS control daemon named 'three'"):
        controls["three"]


def test_none_are_declared() -> None:
    async def check() -> None:
        assert await Controls([]).of(1) is None
        assert await Controls([]).server_of(1) is None

    run(check())
