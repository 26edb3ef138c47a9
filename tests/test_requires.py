# SPDX-License-Identifier: Apache-2.0
"""This test will show that a missing need skips with its reason, and that insisting turns it off."""

import pytest

from requires import requires, tool


def skips(mark: pytest.MarkDecorator) -> bool:
    return bool(mark.args[0])


def test_all_reasons_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MPSAFE_REQUIRE", raising=False)
    mark = requires("no-such-tool", "no-other-tool")
    assert skips(mark)
    assert mark.kwargs["reason"] == "no no-such-tool; no no-other-tool"


def test_what_is_there_does_not_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MPSAFE_REQUIRE", raising=False)
    assert not skips(requires("sh"))


@pytest.mark.parametrize("insisted", ["no-such-tool", "tools", "gpu,tools"])
def test_insisting_does_not_skip(monkeypatch: pytest.MonkeyPatch, insisted: str) -> None:
    monkeypatch.setenv("MPSAFE_REQUIRE", insisted)
    assert not skips(requires("no-such-tool"))


def test_insisting_on_one_need_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPSAFE_REQUIRE", "gpu")
    assert skips(requires("no-such-tool"))
    assert not skips(requires("gpu"))


def test_insisting_on_tools_leaves_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPSAFE_REQUIRE", "tools")
    monkeypatch.setenv("PATH", "/nowhere")
    assert skips(requires("ptxas"))


def test_tools_of_this_environment_come_first() -> None:
    assert tool("pytest").startswith("/")
    assert tool("no-such-tool") == "no-such-tool"
