# SPDX-License-Identifier: Apache-2.0
"""This test will look at the tables of steps as a reviewer would: every action ends, and none goes backwards."""

from typing import get_args

import pytest

from mpsafe.model import ActionKind, ActionState
from mpsafed.steps import STEPS, ended, grants_durable, legal

KINDS: tuple[ActionKind, ...] = get_args(ActionKind)
STATES: tuple[ActionState, ...] = get_args(ActionState)
FENCE: list[ActionState] = ["requested", "frozen", "cut", "terminating", "proven", "killed"]
RESTART: list[ActionState] = ["requested", "terminating", "killed", "started", "limited", "done"]


def test_each_kind_of_action_has_its_steps() -> None:
    assert set(STEPS) == set(KINDS)
    assert {state for table in STEPS.values() for state in table} == set(STATES)


@pytest.mark.parametrize("kind", KINDS)
def test_each_step_leads_to_the_end_and_never_back(kind: ActionKind) -> None:
    order = list(STEPS[kind])
    for state, step in STEPS[kind].items():
        assert all(then in STEPS[kind] for then in step.then)
        assert all(order.index(then) > order.index(state) for then in step.then)
        assert ended(kind, state) == (not step.then)
        assert ended(kind, state) or "failed" in step.then, "whatever goes wrong can be said at each step"


@pytest.mark.parametrize(("kind", "walk"), [("fence", FENCE), ("restart_server", RESTART)])
def test_the_walk_is_legal_in_order_only(kind: ActionKind, walk: list[ActionState]) -> None:
    for place, state in enumerate(walk[:-1]):
        assert legal(kind, state, walk[place + 1])
        assert legal(kind, state, state), "a new daemon writes the step again that it found"
        assert not any(legal(kind, state, earlier) for earlier in walk[:place])
    assert not any(legal(kind, walk[-1], state) for state in STATES), "what has ended has ended"


def test_nobody_is_killed_first() -> None:
    begun: list[ActionState] = ["frozen", "cut", "terminating"]
    assert not any(legal("fence", state, "killed") for state in begun)
    assert not legal("restart_server", "requested", "killed")
    assert not legal("restart_server", "terminating", "started")


def test_what_the_table_does_not_have_is_not_legal() -> None:
    assert not legal("fence", "started", "limited")
    assert not legal("note", "requested", "done")
    assert ended("note", "frozen"), "a state file of another version must not keep an event open for ever"


def test_only_a_proof_grants_durable_memory() -> None:
    assert [state for state in STATES if grants_durable("fence", state)] == ["proven"]
    assert [state for state in STATES if grants_durable("restart_server", state)] == ["killed"]
    assert not any(grants_durable("note", state) for state in STATES)
