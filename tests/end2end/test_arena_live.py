# SPDX-License-Identifier: Apache-2.0
"""This test will run a router and its twin on a live host, with a memory fault and a kill, and score that again."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mpsafe.arena.live import record
from mpsafe.cli import cli
from mpsafe.errors import BadRequest
from requires import requires

pytestmark = requires("soft")

PLAN = """
seconds: 1.5
rate: 12
faults:
  - {at_s: 0.2, kind: mmu, target: small}
  - {at_s: 0.3, kind: kill, target: medium}
"""


def arena(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["arena", *map(str, arguments)], standalone_mode=False)


def test_a_live_run_under_faults(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN)
    place = tmp_path / "live"
    done = arena("live", "run", "--router", "round-robin", "--faults", tmp_path / "plan.yaml", "--out", place, "--json")
    assert done.exception is None, done.exception
    told = json.loads(done.output)
    assert [(one["aware"], one["faulted"]) for one in told["figures"]] == [
        (a, f) for f in (False, True) for a in (False, True)
    ]
    calm, _, blind, aware = record.read(place).traces
    assert {one.status for one in calm.decisions} == {"right"}
    assert calm.downs == [] and len({len(one.decisions) for one in (calm, blind, aware)}) == 1
    for trace in (blind, aware):
        assert [one.problem for one in trace.happened] == ["", ""]
        assert {(one.model, one.kind) for one in trace.downs} == {("small", "mmu"), ("medium", "kill")}
        assert all(one.to_s is not None and one.to_s > one.from_s for one in trace.downs)
        assert {one.picked for one in trace.decisions if one.status == "right"} >= {"large"}
    assert [one.picked for one in blind.decisions] == [one.picked for one in calm.decisions]
    assert all(one.status != "wrong" for one in (*blind.decisions, *aware.decisions))
    assert told["verdict"]["sentence"] in (place / "live.html").read_text().replace("&#39;", "'")
    again = json.loads(arena("replay", place, "--json").output)
    assert again == told


def test_a_router_that_there_is_not() -> None:
    with pytest.raises(BadRequest, match="nonsense"):
        CliRunner().invoke(
            cli, ["arena", "live", "run", "--router", "nonsense"], standalone_mode=False, catch_exceptions=False
        )
