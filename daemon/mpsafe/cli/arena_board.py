# SPDX-License-Identifier: Apache-2.0
"""mpsafe arena board: a board that follows from its inputs alone."""

import time
from dataclasses import replace
from pathlib import Path

import click

from mpsafe.arena.board.inputs import Inputs, keep, load, save
from mpsafe.arena.board.inputs import add as with_input
from mpsafe.arena.board.page import FILES, drift, members
from mpsafe.arena.board.page import update as rebuild
from mpsafe.arena.board.rows import Board
from mpsafe.arena.prices import RULES, Rules
from mpsafe.cli.arena_options import FILE
from mpsafe.cli.options import console, json_option, print_json, table
from mpsafe.errors import BadRequest

__all__ = ["board"]

BOARD = click.Path(file_okay=False, path_type=Path)
EXISTING = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group()
def board() -> None:
    """A board: a directory of inputs, and JSON, Markdown and a page that follow from them."""


@board.command()
@json_option
@click.argument("directory", metavar="BOARD", type=BOARD)
@click.argument("paths", metavar="FILE...", type=FILE, nargs=-1, required=True)
@click.option("--name", help="of the router; with one FILE. Else the file's")
@click.option("--affiliation", default="", help="whose it is")
@click.option("--robustness", type=FILE, help="its picks on paraphrased prompts; with one FILE")
@click.option("--not-comparable", is_flag=True, help="it has seen data that it is judged on")
@click.option("--prices", "prices_path", type=FILE, help="the board's price file from now on")
@click.option("--rules", type=click.Choice(RULES), help="the board's version of the rules from now on")
def add(
    as_json: bool,
    directory: Path,
    paths: tuple[Path, ...],
    name: str | None,
    affiliation: str,
    robustness: Path | None,
    not_comparable: bool,
    prices_path: Path | None,
    rules: Rules | None,
) -> None:
    """Add graded predictions, cached results, published rows or a live run's run.json, and build the board anew."""
    if len(paths) > 1 and (name or robustness):
        raise BadRequest("name", "one FILE with --name or --robustness", str(len(paths)))
    inputs = load(directory)
    if prices_path is not None:
        inputs = replace(inputs, prices=keep(directory, prices_path))
    if rules is not None:
        inputs = replace(inputs, rules=rules)
    for path in paths:
        inputs = with_input(
            directory,
            inputs,
            path,
            name=name,
            robustness=robustness,
            affiliation=affiliation,
            comparable=not not_comparable,
        )
    save(directory, inputs)
    _tell(rebuild(directory), as_json=as_json)


@board.command()
@json_option
@click.argument("directory", metavar="BOARD", type=EXISTING)
@click.option("--beta", type=click.FloatRange(0), help="from now on")
@click.option("--seed", type=click.IntRange(0), help="of the draws, from now on")
@click.option("--draws", type=click.IntRange(10, 100_000), help="of the bootstrap, from now on")
def update(as_json: bool, directory: Path, beta: float | None, seed: int | None, draws: int | None) -> None:
    """Build a board anew from its inputs."""
    before = load(directory)
    inputs = replace(
        before,
        beta=before.beta if beta is None else beta,
        seed=before.seed if seed is None else seed,
        draws=before.draws if draws is None else draws,
    )
    if inputs != before:
        save(directory, inputs)
    _tell(rebuild(directory), as_json=as_json)


@board.command()
@click.argument("directory", metavar="BOARD", type=EXISTING)
def render(directory: Path) -> None:
    """Write the JSON, the Markdown and the page of a board."""
    rebuild(directory)
    for name in FILES:
        click.echo(directory / name)


@board.command()
@click.argument("directory", metavar="BOARD", type=EXISTING)
def check(directory: Path) -> int:
    """Compare a board with what its inputs give, to the byte. Exit status 1 if anything differs."""
    wrong = drift(directory)
    for one in wrong:
        click.echo(one)
    if not wrong:
        click.echo("the board is what its inputs give")
    return int(bool(wrong))


@board.command()
@click.argument("directory", metavar="BOARD", type=EXISTING)
@click.option("--every", default=2.0, show_default=True, type=click.FloatRange(0.1), help="seconds between looks")
@click.option("--once", is_flag=True, help="end after the first new build")
def watch(directory: Path, every: float, once: bool) -> None:
    """Build a board anew whenever its inputs change."""
    seen: Inputs | None = None
    while True:
        now = load(directory)
        if now != seen:
            seen = now
            found = rebuild(directory)
            click.echo(f"{len(found.rows)} rows: {directory / FILES[2]}")
            if once:
                return
        time.sleep(every)


def _tell(found: Board, *, as_json: bool) -> None:
    if as_json:
        print_json("mpsafe.board/1", board=members(found))
        return
    shown = table("", "group", "router", "arena#", "95 %", "accuracy#", "$/1K#", "robustness#", "queries#")
    for row in found.rows:
        shown.add_row(
            str(row.group or "-"),
            row.name + ("" if row.comparable else " (not comparable)"),
            f"{row.arena_score:.2f}",
            "-" if row.low is None else f"{row.low:.2f} to {row.high:.2f}",
            f"{row.accuracy:.2f}",
            f"{row.cost_per_1k:.4f}",
            "-" if row.robustness is None else f"{row.robustness:.2f}",
            str(row.queries or "-"),
        )
    console().print(shown)
