# SPDX-License-Identifier: Apache-2.0
"""This test will judge live runs that are made up, read plans and recorded runs, and route by a host that is told."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from mpsafe.arena.live import plan as plans
from mpsafe.arena.live import record
from mpsafe.arena.live.faults import Down, Happened
from mpsafe.arena.live.figures import figures, verdict
from mpsafe.arena.live.page import page
from mpsafe.arena.live.plan import Fault, Plan
from mpsafe.arena.live.runner import Decision, Status, Trace, schedule
from mpsafe.arena.live.state import Outstanding
from mpsafe.arena.routers import Query
from mpsafe.arena.routers.aware import AGE_MAX_S, ModelState, Seen, StateAware
from mpsafe.arena.routers.fixed import Always
from mpsafe.cli import cli
from mpsafe.errors import BadArenaFile

PRICES = {"small": 1e-6, "large": 1e-5}
IDLE = ModelState(healthy=True, resident=True, generation=1, queue=0, outstanding=0, silent_s=0.0)


def decided(number: int, at_s: float, picked: str, status: Status = "right", took_s: float = 0.05) -> Decision:
    return Decision(number, at_s, "abcd", picked, 100.0, status, took_s, busy_s=took_s / 2)


def trace(decisions: list[Decision], downs: list[Down], *, aware: bool = False, faulted: bool = True) -> Trace:
    happened = [Happened(Fault(down.from_s, "kill", down.model), down.from_s, down.from_s) for down in downs]
    return Trace("r", aware, faulted, 10.0, decisions, happened, downs)


# small is down from 2 to 4 s; the blind one goes on, the other one goes there once more, and comes back at 4.5 s.
DOWN = [Down("small", "kill", 2.0, 4.0)]
BLIND = trace(
    [
        *(decided(0, 1.0, "small"), decided(1, 2.5, "small", "refused", 0.001)),
        *(decided(2, 3.5, "small", "late", 1.5), decided(3, 4.5, "small")),
    ],
    DOWN,
)
AWARE = trace(
    [
        *(decided(0, 1.0, "small"), decided(1, 2.5, "small", "refused", 0.001)),
        *(decided(2, 3.5, "large", took_s=0.3), decided(3, 4.5, "small")),
    ],
    DOWN,
    aware=True,
)
CALM = trace([decided(number, 1.0 + number, "small", took_s=0.1) for number in range(4)], [], faulted=False)


def test_figures_by_hand() -> None:
    blind, aware = figures(BLIND, PRICES, CALM), figures(AWARE, PRICES, CALM)
    assert (blind.availability, blind.misroutes, blind.avoid_s, blind.return_s) == (50.0, 2, 1.5, 0.5)
    assert (aware.availability, aware.misroutes, aware.avoid_s, aware.return_s) == (75.0, 1, 0.5, 0.5)
    assert blind.collateral_ms is None
    assert aware.device_s_per_1k == pytest.approx(1000 * (0.05 + 0.001 + 0.3 + 0.05) / 2 / 4)
    assert aware.collateral_ms == pytest.approx(300)
    assert aware.collateral_ratio == pytest.approx(3)
    assert aware.cost_per_1k == pytest.approx(1000 * 12 * (2e-6 + 1e-5) / 4)
    calm = figures(CALM, PRICES)
    assert (calm.availability, calm.resilience, calm.avoid_s) == (100.0, None, None)
    assert blind.resilience == pytest.approx(100 * blind.arena_score / calm.arena_score)


def test_a_model_that_does_not_come_back_or_is_not_picked_again() -> None:
    gone = figures(replace(BLIND, downs=[Down("small", "kill", 2.0, None)]), PRICES)
    assert (gone.misroutes, gone.avoid_s, gone.return_s) == (3, 2.5, None)
    shunned = figures(trace([decided(0, 5.0, "large")], DOWN), PRICES)
    assert (shunned.avoid_s, shunned.return_s) == (0.0, None)
    both = trace([decided(0, 3.0, "small", "refused")], [*DOWN, Down("large", "sm", 2.0, 4.0)])
    assert figures(both, PRICES).misroutes == 0, "nobody was there to route to"


def test_the_verdict_says_who_won() -> None:
    few = verdict(AWARE, BLIND)
    assert (few.beats, few.only_aware, few.only_blind, few.p) == (False, 1, 0, 1.0)
    assert "does not surely beat, its health-blind twin: 75.0 % against 50.0 % of 4 queries" in few.sentence
    good = trace([decided(number, 1.0, "small") for number in range(6)], [])
    bad = trace([decided(number, 1.0, "small", "cut") for number in range(6)], [])
    found = verdict(good, bad)
    assert found.beats and found.p == pytest.approx(2 / 64)
    assert "beats its health-blind twin: 100.0 % against 0.0 % of 6 queries" in found.sentence
    lost = verdict(bad, good)
    assert not lost.beats and "does NOT beat" in lost.sentence
    assert "does NOT beat" in verdict(good, good).sentence


def routed(**models: ModelState) -> tuple[str, StateAware]:
    return routed_at(0.1, **models)


def routed_at(age_s: float, **models: ModelState) -> tuple[str, StateAware]:
    seen = Seen(models, epoch=1, sequence=7, age_s=age_s)
    router = StateAware(Always("a"), ["a", "b", "c"], lambda: seen)
    return router.route(Query("q", "p")), router


@pytest.mark.parametrize(
    "state",
    [
        replace(IDLE, healthy=False),
        replace(IDLE, resident=False),
        replace(IDLE, outstanding=6),
        replace(IDLE, outstanding=1, silent_s=0.6),
        replace(IDLE, failed_s=0.2),
    ],
)
def test_what_does_not_answer_is_avoided(state: ModelState) -> None:
    assert routed(a=IDLE, b=IDLE, c=IDLE)[0] == "a"
    assert routed(a=state, b=IDLE, c=IDLE)[0] == "b"
    assert routed(a=state, b=replace(IDLE, queue=2), c=IDLE)[0] == "c"
    assert routed(a=state, b=state, c=state)[0] == "a", "nobody is better"
    busy, down = replace(IDLE, outstanding=9, silent_s=9, failed_s=0.0), replace(IDLE, healthy=False)
    assert routed(a=down, b=busy, c=down)[0] == "b", "busy is better than down"
    assert routed(a=replace(down, failed_s=0.1), b=down, c=down)[0] == "b", (
        "what has not failed is better than what has"
    )
    assert routed(a=state, c=IDLE)[0] == "c", "what nobody knows of does not answer"


def test_an_old_reading_is_not_believed() -> None:
    down = replace(IDLE, healthy=False, resident=False)
    assert routed_at(AGE_MAX_S + 1, a=down, b=IDLE, c=IDLE)[0] == "a"
    picked, router = routed_at(AGE_MAX_S + 1, a=replace(down, failed_s=0.1), b=replace(down, outstanding=1), c=down)
    assert picked == "c" and router.seen is not None and router.seen.stale
    assert routed(a=replace(IDLE, failed_s=1.5), b=IDLE, c=IDLE)[0] == "a", "it is tried again after a second"


def test_what_is_outstanding() -> None:
    clock = [10.0]
    outstanding = Outstanding(lambda: clock[0])
    outstanding.began("a", 1)
    clock[0] = 11.0
    outstanding.began("a", 2)
    assert outstanding.of("a") == (2, 1.0) and outstanding.of("b") == (0, 0.0)
    clock[0] = 12.0
    outstanding.ended("a", 2, answered=True)
    clock[0] = 12.5
    assert outstanding.of("a") == (1, 0.5), "who answers others is busy, and not silent"
    outstanding.ended("a", 1, answered=False)
    assert outstanding.of("a") == (0, 0.0) and outstanding.failed("a") == 12.5
    outstanding.began("a", 3)
    outstanding.ended("a", 3, answered=True)
    assert outstanding.failed("a") is None


def test_plans_that_are_drawn_are_read_back(tmp_path: Path) -> None:
    seen: set[str] = set()
    for seed in range(8):
        drawn = plans.draw(seed=seed, seconds=25, rate=8)
        (tmp_path / "plan.yaml").write_text(plans.written(drawn))
        assert plans.read(tmp_path / "plan.yaml") == drawn
        assert drawn == plans.draw(seed=seed, seconds=25, rate=8)
        seen |= {fault.kind for fault in drawn.faults}
    assert seen == set(plans.KINDS)
    assert schedule(Plan()) == schedule(Plan()) != schedule(Plan(seed=99))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("faults: [", "no YAML"),
        ("3", "Expected `object`"),
        ("faults: [{at_s: 1, kind: nonsense}]", r"Invalid enum value 'nonsense' - at `\$.faults\[0\].kind`"),
        ("seconds: 0", "seconds: more than 0"),
        ("faults: [{at_s: 99, kind: sm}]", "fault 1: at_s: 0 to 25"),
        ("faults: [{at_s: 1, kind: sm, target: small}]", "target: sm has none"),
        ("faults: [{at_s: 1, kind: kill, target: tiny}]", "small, medium, large is expected of kill, not 'tiny'"),
        ("faults: [{at_s: 1, kind: mmu, target: large}]", "small, medium is expected of mmu"),
        ("faults: [{at_s: 1, kind: hang, target: small}]", "duration_s: more than 0"),
        ("faults: [{at_s: 1, kind: kill, target: small, duration_s: 1}]", "kill does not endure"),
    ],
)
def test_plans_that_make_no_sense(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(BadArenaFile, match=said):
        plans.read(path)


def made_up() -> record.LiveRun:
    plan = Plan(seconds=10.0, faults=(Fault(2.0, "kill", "small"),))
    return record.LiveRun("r", "made up", "a machine", "0", PRICES, plan, [CALM, BLIND, AWARE])


def test_a_recorded_run_is_scored_again(tmp_path: Path) -> None:
    record.write(tmp_path, made_up())
    assert record.read(tmp_path) == made_up()
    done = CliRunner().invoke(cli, ["arena", "replay", str(tmp_path), "--json"], standalone_mode=False)
    assert done.exception is None, done.exception
    told = json.loads(done.output)
    assert told["verdict"]["only_aware"] == 1 and [one["availability"] for one in told["figures"]] == [
        100.0,
        50.0,
        75.0,
    ]
    drawn = (tmp_path / "live.html").read_text()
    assert drawn == page(made_up(), record.score(made_up()))
    assert "does not surely beat, its health-blind twin" in drawn and "http" not in drawn
    assert drawn.count("#c62f24") == 3 and drawn.count("is down by kill") == 2


def test_a_recorded_run_that_is_broken(tmp_path: Path) -> None:
    record.write(tmp_path, made_up())
    lines = (tmp_path / "trace.jsonl").read_text().splitlines()
    for broken, said in (
        (lines[0].replace('"run":0', '"run":9'), "line 1"),
        (lines[0][:-9], "line 1"),
        ("", "no decision"),
    ):
        (tmp_path / "trace.jsonl").write_text(broken + "\n" if broken else "")
        with pytest.raises(BadArenaFile, match=said):
            record.read(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(BadArenaFile, match="missing required field"):
        record.read(tmp_path)


def test_a_live_run_on_a_board(tmp_path: Path) -> None:
    record.write(tmp_path / "live", made_up())
    board = tmp_path / "board"
    assert arena("board", "add", board, tmp_path / "live" / "run.json") is None
    assert arena("board", "check", board) == 0
    (told,) = json.loads((board / "board.json").read_text())["live"]
    assert (told["name"], told["verdict"]["only_aware"], len(told["figures"])) == ("r", 1, 3)
    assert (board / "board.html").read_text().count("is down by kill") == 2
    assert "does not surely beat, its health-blind twin" in (board / "board.md").read_text()
    (kept,) = (board / "inputs").glob("trace-*.jsonl")
    kept.write_text(kept.read_text().replace("late", "right"))
    with pytest.raises(BadArenaFile, match="not what its name says"):
        arena("board", "check", board)


def arena(*arguments: str | Path) -> object:
    words = ["arena", *map(str, arguments)]
    return CliRunner().invoke(cli, words, standalone_mode=False, catch_exceptions=False).return_value
