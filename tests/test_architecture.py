# SPDX-License-Identifier: Apache-2.0
"""This test will compare the page that a reviewer reads with the tables that the daemon obeys.

python tests/test_architecture.py       writes the tables into the page
"""

from collections.abc import Mapping
from pathlib import Path

from mpsafe.model import ActionState
from mpsafed.steps import STEPS, Step

PAGE = Path(__file__).parent.parent / "ARCHITECTURE.md"
BEGIN, END = "<!-- steps:", "<!-- /steps -->\n"


def rendered(title: str, steps: Mapping[ActionState, Step]) -> str:
    """One table: a line a state."""
    head = f"\n| {title} | then | what is true when it is written | a new daemon that finds it |\n|---|---|---|---|\n"
    lines = (
        f"| `{state}` | {', '.join(step.then) or '(the end)'} | {step.true} | {step.found} |"
        for state, step in steps.items()
    )
    return head + "\n".join(lines) + "\n"


def split(page: str) -> tuple[str, str, str]:
    """What is before the tables, the tables, and what is behind them."""
    start = page.index("\n", page.index(BEGIN)) + 1
    end = page.index(END, start)
    return page[:start], page[start:end], page[end:]


def tables() -> str:
    """All tables of actions that take more than one step."""
    return "".join(rendered(kind, steps) for kind, steps in STEPS.items() if len(steps) > 1) + "\n"


def test_the_page_has_the_steps_that_the_daemon_obeys() -> None:
    assert split(PAGE.read_text())[1] == tables(), "run: python tests/test_architecture.py"


if __name__ == "__main__":
    before, _, behind = split(PAGE.read_text())
    PAGE.write_text(before + tables() + behind)
