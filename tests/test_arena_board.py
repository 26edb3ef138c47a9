# SPDX-License-Identifier: Apache-2.0
"""This test will build a board from real inputs, check it twice, break it, and use its page in a browser."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from arena_data import ARENA, HAIKU
from mpsafe.cli import cli
from requires import requires

GEMINI = ARENA / "gemini-2.0-flash-001.jsonl"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["arena", *map(str, arguments)], standalone_mode=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A board of both cached results, cut to the queries that both have, and of the printed rows."""
    place = tmp_path_factory.mktemp("made")
    lines = {path: [json.loads(line) for line in path.read_text().splitlines()] for path in (HAIKU, GEMINI)}
    ids: list[set[str]] = [{row["global_index"] for row in rows} for rows in lines.values()]
    both = ids[0] & ids[1]
    for path, rows in lines.items():
        kept = [row for row in rows if row["global_index"] in both]
        (place / path.name).write_text("".join(json.dumps(row) + "\n" for row in kept))
    prices, cached = ARENA / "cost_2025-11.json", [place / HAIKU.name, place / GEMINI.name]
    done = run("board", "add", place / "board", ARENA / "leaderboard.csv", *cached, "--prices", prices)
    assert done.exit_code == 0, done.output
    return place / "board"


@pytest.fixture(name="board")
def built(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "board"))


def test_the_board_follows_from_its_inputs(board: Path) -> None:
    rows = json.loads((board / "board.json").read_text())["rows"]
    by_name = {row["name"]: row for row in rows}
    assert by_name["gpt5"]["arena_score"] == pytest.approx(64.316, abs=1e-3)
    assert by_name["gpt5"]["low"] is None
    assert by_name["oracle"]["comparable"] is False and by_name["oracle"]["opt_sel"] == 100
    haiku = by_name["always:claude-3-haiku-20240307"]
    assert haiku["low"] < haiku["arena_score"] < haiku["high"]
    assert haiku["arena_score"] < by_name["always:gemini-2.0-flash-001"]["arena_score"]
    assert "| - | gpt5 |" in (board / "board.md").read_text()
    assert "http" not in (board / "board.html").read_text()


def test_check_passes_twice_and_finds_what_was_typed(board: Path) -> None:
    for _ in range(2):
        assert run("board", "check", board).return_value == 0
    page = board / "board.md"
    page.write_text(page.read_text().replace("64.32", "99.99"))
    found = run("board", "check", board)
    assert (found.return_value, found.output) == (1, "board.md is not what the inputs give\n")
    (board / "board.json").unlink()
    assert "board.json is missing" in run("board", "check", board).output
    assert run("board", "render", board).exception is None
    assert run("board", "check", board).return_value == 0


def test_an_input_that_was_changed_is_refused(board: Path) -> None:
    file = next((board / "inputs").glob("leaderboard-*.csv"))
    file.write_text(file.read_text().replace("79.69", "99.69"))
    found = run("board", "check", board)
    assert "its content is not what its name says" in str(found.exception)


def test_watch_builds_once(board: Path) -> None:
    (board / "board.html").unlink()
    found = run("board", "watch", board, "--once")
    assert found.exit_code == 0 and (board / "board.html").exists()


PROBE = """
<script>
{
window.onerror = message => document.title = "error " + message;
const names = () => [...document.querySelectorAll("#board tbody tr")].map(row => row.cells[1].textContent);
const first = names();
document.querySelectorAll("#board th")[7].click();
const dearest = names()[0];
const weight = document.querySelector("#weight");
weight.value = 0.9; weight.dispatchEvent(new Event("input"));
const after = names();
const cells = document.querySelectorAll("#map tbody tr").length;
document.title = JSON.stringify({first: first[0], dearest, changed: after.join() !== first.join(), cells});
}
</script>
"""


@requires("chromium")
def test_the_page_sorts_and_the_slider_ranks_anew(board: Path, tmp_path: Path) -> None:
    probe = tmp_path / "probe.html"
    probe.write_text((board / "board.html").read_text() + PROBE)
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    more = ["--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    command = ["chromium", *flags.split(), *more, "--enable-logging=stderr", probe.as_uri()]
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    title = said.stdout.split("<title>")[1].split("</title>")[0]
    found = json.loads(title)
    assert (found["first"], found["dearest"]) == ("Paix2", "gpt5")
    assert found["changed"] and found["cells"] >= 9
    assert "CONSOLE" not in said.stderr
