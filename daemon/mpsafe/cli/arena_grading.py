# SPDX-License-Identifier: Apache-2.0
"""mpsafe arena grade and matrix: grades of answers, and routers over the outcomes of every model."""

import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import Progress

from mpsafe.arena.choices import pass_on
from mpsafe.arena.files import contents, decode, read_cached, read_predictions, write
from mpsafe.arena.frontier import losses
from mpsafe.arena.matrix import figures
from mpsafe.arena.prices import Prices, Rules
from mpsafe.arena.regrade import Regrade, fill, regrade
from mpsafe.arena.routers import BOUNDS, LEARNED, held_out
from mpsafe.cli.arena_options import FILE, OUT, beta_option, outcomes, percent, percents, prices_option, rules_option
from mpsafe.cli.options import console, json_option, print_json, table
from mpsafe.errors import BadArenaFile, BadRequest

__all__ = ["grade", "matrix"]

SECONDS = 10.0


@contextmanager
def progress(title: str, total: int) -> Generator[Callable[[], None]]:
    """A bar on a terminal; what is yielded moves it on by one."""
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as shown:
        task = shown.add_task(title, total=total)
        yield lambda: shown.advance(task)


@click.command()
@json_option
@click.argument("path", metavar="FILE", type=FILE)
@click.option("--truths", type=FILE, help="cached results with the truths; FILE is then a prediction file")
@click.option("--out", type=OUT, help="where the graded prediction file goes")
@prices_option
@rules_option
@click.option("--seconds", default=SECONDS, show_default=True, type=click.FloatRange(0.1), help="a row may take")
@click.option("--execute", "tests_path", type=FILE, help="run code in a sandbox: a JSON object from query to its tests")
def grade(
    as_json: bool,
    path: Path,
    truths: Path | None,
    out: Path | None,
    prices_path: Path | None,
    rules: Rules,
    seconds: float,
    tests_path: Path | None,
) -> int:
    """Grade cached results and compare with the grades in them, or grade a prediction file by --truths.

    Code is executed only with --execute, in a sandbox without a network. Exit status 1 if a stored grade differs.
    """
    tests = _tests(tests_path) if tests_path else None
    workers = len(os.sched_getaffinity(0))
    if truths is not None:
        if out is None:
            raise BadRequest("out", "a place for the graded file, with --truths", "nothing")
        known = {row.query: str((row.evaluation or {}).get("ground_truth", "")) for row in read_cached(truths)}
        rows = read_predictions(path)
        prices = Prices.read(prices_path) if prices_path else None
        with progress("rows", len(rows)) as done:
            filled, left = fill(
                rows, known, seconds=seconds, workers=workers, prices=prices, rules=rules, tests=tests, done=done
            )
        write(out, filled)
        pass_on(path, out)
        if as_json:
            print_json("mpsafe.grades/1", file=os.fspath(out), rows=len(filled), ungraded=left)
        else:
            click.echo(f"{len(filled)} rows, {left} of them without a grade: {out}")
        return 0
    cached = read_cached(path)
    with progress("rows", len(cached)) as done:
        found = regrade(cached, seconds=seconds, workers=workers, tests=tests, done=done)
    differ = [one for one in found if one.agrees is False]
    if as_json:
        counts = {"graded": sum(one.score is not None for one in found), "differ": len(differ)}
        mean = _mean(found)
        print_json("mpsafe.grades/1", file=os.fspath(path), rows=len(cached), accuracy=mean, **counts, grades=found)
        return int(bool(differ))
    shown = table(path.name, "metric", "rows#", "graded#", "mean#", "as stored#")
    for metric in dict.fromkeys(one.metric for one in found):
        of = [one for one in found if one.metric == metric]
        mean = _mean(of)
        words = "" if mean is None else f"{mean:.2f}"
        graded, same = sum(one.score is not None for one in of), sum(one.agrees is True for one in of)
        shown.add_row(metric, str(len(of)), str(graded), words, str(same))
    console().print(shown)
    for one in differ:
        click.echo(f"{one.query}: {one.score} here, {one.stored} stored")
    return int(bool(differ))


@click.command()
@json_option
@click.argument("paths", metavar="CACHED...", type=FILE, nargs=-1, required=True)
@click.option("--router", required=True, help="always:MODEL, oracle, knn, logistic, ..., or module:attribute")
@prices_option
@rules_option
@beta_option
@click.option("--seed", default=0, show_default=True, help="of folds and of routers that draw")
def matrix(
    as_json: bool,
    paths: tuple[Path, ...],
    router: str,
    prices_path: Path | None,
    rules: Rules,
    beta: float,
    seed: int,
) -> None:
    """A router over the recorded outcomes of every model: cached results, a file a model, or one table.

    A router that learns is judged on five folds, and never on a query that it has seen. On RouterArena's queries that
    is marked as not comparable.
    """
    prices = Prices.read(prices_path) if prices_path else None
    known = outcomes(paths, prices=prices, rules=rules)
    picks = held_out(router, known, seed=seed)
    found, lost = figures(known, picks, beta=beta), losses(known, picks)
    learned = router in (*LEARNED, "cheapest", "strongest", "best-single")
    comparable = router not in BOUNDS and not (learned and known.ours)
    calls = {model: int((picks == column).sum()) for column, model in enumerate(known.models)}
    told = {
        "router": router,
        "rules": rules,
        "prices": prices.digest if prices else None,
        "comparable": comparable,
        "num_queries": len(known),
        "arena_score": percent(found.arena_score),
        "accuracy": 100 * found.accuracy,
        "cost_per_1k": found.cost_per_1k,
        **percents(found.optimality),
        "gap": 100 * lost.gap,
        "regret_per_1k": lost.regret,
        "over_best": 100 * lost.over_best,
        "over_random": 100 * lost.over_random,
        "worst_domain": lost.worst_domain[0],
        "worst_domain_accuracy": 100 * lost.worst_domain[1],
        "collapse": 100 * lost.collapse,
        "calls": calls,
    }
    if as_json:
        print_json("mpsafe.matrix/1", **told)
        return
    shown = table(f"{router} on {len(known)} queries, {len(known.models)} models", "figure", "value#")
    for name, value in told.items():
        if isinstance(value, float):
            shown.add_row(name, f"{value:.4f}")
    for model, count in calls.items():
        shown.add_row(f"picks of {model}", str(count))
    out = console()
    out.print(shown)
    if not comparable:
        out.print("not comparable: it knows outcomes, or other queries, of the data that it is judged on")


def _tests(path: Path) -> dict[str, list[dict[str, object]]]:
    try:
        return msgspec.convert(decode(path, contents(path)), dict[str, list[dict[str, object]]])
    except msgspec.ValidationError as error:
        raise BadArenaFile(os.fspath(path), "", f"an object from query to its tests is expected: {error}") from None


def _mean(found: list[Regrade]) -> float | None:
    known = [one.score for one in found if one.score is not None]
    return 100 * sum(known) / len(known) if known else None
