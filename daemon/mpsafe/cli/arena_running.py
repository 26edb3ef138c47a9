# SPDX-License-Identifier: Apache-2.0
"""mpsafe arena route, run and suite: from a router and a suite to answers that can be graded."""

import os
from pathlib import Path

import click

from mpsafe.arena.choices import commit, commitment_path, names_only, pass_on, read_suite, verify
from mpsafe.arena.choices import route as choices_of
from mpsafe.arena.domains import CLASSES
from mpsafe.arena.files import read_config, read_predictions, write
from mpsafe.arena.inference import Endpoint, Recorded, latencies_ms
from mpsafe.arena.inference import run as answers_of
from mpsafe.arena.routers import LEARNED, Router, make, trained
from mpsafe.arena.routers.learned import Learned
from mpsafe.arena.suite import build as drawn
from mpsafe.arena.suite import candidates, read, save
from mpsafe.arena.suite import check as findings
from mpsafe.cli.arena_grading import progress
from mpsafe.cli.arena_options import FILE, OUT
from mpsafe.cli.arena_options import outcomes as outcomes_of
from mpsafe.cli.options import console, json_option, print_json, table
from mpsafe.errors import BadRequest

__all__ = ["route", "run", "suite", "train"]

TRAINED = "trained:"


@click.command()
@click.argument("router")
@click.option("--suite", "suite_path", type=FILE, required=True, help="queries with prompts")
@click.option("--out", type=OUT, required=True, help="where the prediction file goes")
@click.option("--config", type=FILE, help="the router's configuration, which names its models")
@click.option("--train", type=FILE, multiple=True, help="outcomes of other queries: a table, or cached results")
@click.option("--seed", default=0, show_default=True, help="of routers that draw")
@click.option("--not-comparable", is_flag=True, help="train on RouterArena's own queries, and say so for ever")
def route(
    router: str,
    suite_path: Path,
    out: Path,
    config: Path | None,
    train: tuple[Path, ...],
    seed: int,
    not_comparable: bool,
) -> None:
    """Let ROUTER pick a model for each query, and commit to the choices before any outcome is known."""
    rows = read_suite(suite_path)
    comparable = not not_comparable
    chosen: Router
    if router.startswith(TRAINED):
        if train or config is not None:
            raise BadRequest("config", "neither --config nor --train with a router that is trained", "one of them")
        chosen, about = trained.load(Path(router.removeprefix(TRAINED)))
        comparable = comparable and about.comparable
    else:
        if bool(train) == (config is not None):
            raise BadRequest("config", "one of --config and --train", "both" if train else "neither")
        known = outcomes_of(train) if train else names_only(list(read_config(config))) if config else names_only([])
        chosen = make(router, known, seed=seed, not_comparable=not_comparable)
    with progress("queries", len(rows)) as done:
        made, took_ms = choices_of(chosen, rows, done=done)
    write(out, made)
    told = commit(out, made, took_ms, router=router, seed=seed, comparable=comparable)
    click.echo(f"{len(made)} choices: {out}\ncommitted to as {told.choices[:16]}: {commitment_path(out).name}")
    click.echo(f"a decision took {told.decision_p50_ms:.3f} ms, p95 {told.decision_p95_ms:.3f} ms")


@click.command()
@click.argument("router", type=click.Choice(LEARNED))
@click.argument("paths", metavar="OUTCOMES...", type=FILE, nargs=-1, required=True)
@click.option("--out", type=OUT, required=True, help="where the trained router goes")
@click.option("--seed", default=0, show_default=True, help="of what it draws")
@click.option("--not-comparable", is_flag=True, help="train on RouterArena's own queries, and say so for ever")
def train(router: str, paths: tuple[Path, ...], out: Path, seed: int, not_comparable: bool) -> None:
    """Train ROUTER once, for mpsafe arena route trained:FILE."""
    known = outcomes_of(paths)
    made = make(router, known, seed=seed, not_comparable=not_comparable)
    assert isinstance(made, Learned)
    names = ", ".join(path.name for path in paths)
    comparable = not not_comparable
    about = trained.save(out, made, seed=seed, queries=len(known), trained_on=names, comparable=comparable)
    click.echo(f"{router} for {', '.join(about.models)}, trained on {about.queries} queries: {out}")
    click.echo(f"mpsafe arena route {TRAINED}{out} --suite SUITE --out CHOICES")


@click.command()
@click.argument("path", metavar="FILE", type=FILE)
@click.option("--out", type=OUT, required=True, help="where the prediction file with answers goes")
@click.option("--endpoint", help="of an API in OpenAI's shape, up to and with /v1")
@click.option("--recorded", type=FILE, multiple=True, help="instead: cached results of the models")
@click.option("--key-variable", default="OPENAI_API_KEY", show_default=True, help="where the key is, if any")
@click.option("--tokens", default=1024, show_default=True, type=click.IntRange(1), help="of an answer, at most")
@click.option("--parallel", default=4, show_default=True, type=click.IntRange(1, 256), help="requests at once")
def run(
    path: Path,
    out: Path,
    endpoint: str | None,
    recorded: tuple[Path, ...],
    key_variable: str,
    tokens: int,
    parallel: int,
) -> None:
    """Get the answer of each picked model. A run that was ended goes on where it was.

    Choices that are not those that were committed to are refused.
    """
    if (endpoint is None) == (not recorded):
        raise BadRequest("endpoint", "one of --endpoint and --recorded", "neither" if endpoint is None else "both")
    rows = read_predictions(path)
    verify(path, rows)
    answer = Recorded(recorded) if endpoint is None else Endpoint(endpoint, os.environ.get(key_variable), tokens)
    with progress("answers", len(rows)) as done:
        filled = answers_of(rows, out, answer, parallel=parallel, done=done)
    failed = sum((row.generated or {}).get("success") is not True for row in filled)
    pass_on(path, out)
    click.echo(f"{len(filled) - failed} answers, {failed} failed or not recorded: {out}")
    if (took := latencies_ms(filled)) is not None:
        click.echo(f"an answer took {took[0]:.0f} ms, p95 {took[1]:.0f} ms")


@click.group()
def suite() -> None:
    """Suites of queries: built with balance, and checked."""


@suite.command()
@click.argument("path", metavar="TABLE", type=FILE)
@click.option("--out", type=OUT, required=True, help="where the suite goes")
@click.option("--outcomes", type=FILE, multiple=True, help="of recorded models, for the difficulty")
@click.option("--per-class", default=100, show_default=True, type=click.IntRange(1), help="queries, at most")
@click.option("--seed", default=0, show_default=True, help="of the sample")
def build(path: Path, out: Path, outcomes: tuple[Path, ...], per_class: int, seed: int) -> None:
    """Draw a balanced suite from a table with query, prompt and truth [, domain, category]."""
    chosen = drawn(candidates(path, outcomes_of(outcomes) if outcomes else None), per_class=per_class, seed=seed)
    save(out, chosen)
    click.echo(f"{len(chosen)} queries of {len({item.domain for item in chosen})} classes: {out}")


@suite.command()
@json_option
@click.argument("path", metavar="SUITE", type=FILE)
@click.option("--outcomes", type=FILE, multiple=True, help="of recorded models: easy > medium > hard for each")
def check(as_json: bool, path: Path, outcomes: tuple[Path, ...]) -> int:
    """Coverage of the classes, balance among them, and a difficulty that can be told. Exit status 1 if one fails."""
    found = findings(read(path, read_suite(path)), outcomes_of(outcomes) if outcomes else None, classes=CLASSES)
    if as_json:
        print_json("mpsafe.suite/1", findings=found)
    else:
        shown = table("", "", "", "figures")
        for one in found:
            shown.add_row("holds" if one.holds else "fails", one.name, one.figures)
        console().print(shown)
    return int(not all(one.holds for one in found))
