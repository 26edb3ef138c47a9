# SPDX-License-Identifier: Apache-2.0
"""This test will look at the command as a whole: its help, its completions, and how it says no."""

import os
import subprocess
import sys

import pytest

from command import mpsafe

COMMANDS = [
    "status",
    "tenants",
    "clients",
    "leases",
    "store",
    "events",
    "top",
    "fence",
    "mps",
    "vault",
    "standby",
    "drill",
    "driver",
    "experts",
    "operators",
    "arena",
    "doctor",
    "explain",
    "config",
    "demo",
]


def test_help_has_each_command_in_a_group_of_use_and_cuts_no_sentence() -> None:
    told = mpsafe("--help")
    groups = [line.removesuffix(":") for line in told.splitlines() if line.endswith(":") and line[0] != " "]
    assert groups == ["Options", "Look", "Act", "Serve", "Find out"]
    listed = [line.split()[0] for line in told.split("Look:")[1].splitlines() if line.startswith("  ")]
    assert listed == COMMANDS
    assert "..." not in told.split("Look:")[1]
    assert max(map(len, told.splitlines())) <= 80


@pytest.mark.parametrize(
    "command", [*([one] for one in COMMANDS), ["mps", "limits"], ["mps", "stop"], ["config", "check"]]
)
def test_each_command_has_help(command: list[str]) -> None:
    told = mpsafe(*command, "--help")
    assert told.startswith("Usage:")
    assert max(map(len, told.splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["mpsafe", "t"], ["tenants", "top"]),
        (["mpsafe", "mps", "s"], ["status", "start", "stop"]),
        (["mpsafe", "fence", "--n"], ["--no-wait"]),
        (["mpsafe", "mps", "limits", "--p"], ["--pinned-mib"]),
    ],
)
def test_completions(words: list[str], expected: list[str]) -> None:
    program = "import sys; sys.argv[0] = 'mpsafe'; from mpsafe.cli import main; sys.exit(main())"
    environment = {
        **os.environ,
        "_MPSAFE_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert sorted(line.partition(",")[2] for line in run.stdout.splitlines()) == sorted(expected)


@pytest.mark.parametrize(
    "command", [["status"], ["tenants"], ["clients"], ["events"], ["top"], ["fence", "1"], ["mps", "status"]]
)
def test_without_a_daemon_it_says_so_and_how_to_start_it(command: list[str], place: object) -> None:
    told = mpsafe(*command, "--socket", f"{place}/nobody", status=77)
    assert told == (
        f"mpsafe: mpsafed does not answer on {place}/nobody: No such file or directory\n"
        "  start it with: systemctl start mpsafed.socket\n"
    )


def test_a_command_that_there_is_not() -> None:
    assert "No such command 'tenant'" in mpsafe("tenant", status=2)
