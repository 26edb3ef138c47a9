# SPDX-License-Identifier: Apache-2.0
"""mpsafe arena validate, score and robustness: what a prediction file is worth."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import click

from mpsafe.arena.counted import counted, outcomes_kept, worst_domain
from mpsafe.arena.files import read_config, read_predictions
from mpsafe.arena.prices import Prices, Rules
from mpsafe.arena.scoring import Robustness, Score, arena_score
from mpsafe.arena.scoring import robustness as robustness_of
from mpsafe.arena.scoring import score as score_of
from mpsafe.arena.statistics import DRAWS, Interval, bootstrap, interval
from mpsafe.arena.table import cache_directory, load
from mpsafe.arena.validation import SIZES
from mpsafe.arena.validation import validate as problems_of
from mpsafe.cli.arena_options import FILE, OUT, beta_option, percent, percents, prices_option, rules_option
from mpsafe.cli.options import console, json_option, print_json, table
from mpsafe.errors import BadArenaFile, BadRequest

__all__ = ["robustness", "score", "validate"]

SHOWN = 50


@click.command()
@json_option
@click.argument("path", metavar="FILE", type=FILE)
@click.option("--config", type=FILE, help="the router's configuration: picks must be in it")
@prices_option
@click.option("--prompts", type=FILE, help="a file with the split's prompts, which must be the same to the byte")
@click.option("--split", type=click.Choice(list(SIZES)), help="how many rows there must be")
def validate(
    as_json: bool, path: Path, config: Path | None, prices_path: Path | None, prompts: Path | None, split: str | None
) -> int:
    """Name each row and field of a prediction file that RouterArena would refuse, or count wrongly.

    Exit status 1 if there is an error; a warning alone is none.
    """
    rows = read_predictions(path)
    expected = {row.query: row.prompt for row in read_predictions(prompts)} if prompts else None
    found = problems_of(
        rows,
        models=read_config(config) if config else None,
        prices=Prices.read(prices_path) if prices_path else None,
        prompts={query: prompt or "" for query, prompt in expected.items() if query} if expected else None,
        split=split,
    )
    errors = sum(one.level == "error" for one in found)
    if as_json:
        print_json("mpsafe.validation/1", file=os.fspath(path), rows=len(rows), valid=not errors, problems=found)
        return int(errors > 0)
    out = console()
    for one in found[:SHOWN]:
        place = f"row {one.row}" if one.row else "the file"
        out.print(f"{one.level}: {place}{', ' if one.field else ''}{one.field}: {one.reason}", soft_wrap=True)
    if len(found) > SHOWN:
        out.print(f"and {len(found) - SHOWN} more: --json has all")
    out.print(f"{path.name}: {len(rows)} rows, {errors} errors, {len(found) - errors} warnings", soft_wrap=True)
    return int(errors > 0)


@click.command()
@json_option
@click.argument("paths", metavar="[FILE]...", type=FILE, nargs=-1)
@prices_option
@rules_option
@beta_option
@click.option("--draws", default=DRAWS, show_default=True, type=click.IntRange(10, 100_000), help="of the intervals")
@click.option("--seed", default=0, show_default=True, help="of the draws")
@click.option("--metrics", type=OUT, help="write RouterArena's metrics.json of the one FILE there")
@click.option("--accuracy", type=click.FloatRange(0, 100), help="instead of files: per cent")
@click.option("--cost-per-1k", type=click.FloatRange(0), help="instead of files: dollars per 1,000 queries")
def score(
    as_json: bool,
    paths: tuple[Path, ...],
    prices_path: Path | None,
    rules: Rules,
    beta: float,
    draws: int,
    seed: int,
    metrics: Path | None,
    accuracy: float | None,
    cost_per_1k: float | None,
) -> None:
    """Accuracy, cost, arena score with its 95 % interval, and optimality of graded prediction files."""
    if accuracy is not None and cost_per_1k is not None and not paths:
        found = 100 * arena_score(accuracy / 100, cost_per_1k, beta)
        if as_json:
            print_json("mpsafe.score/1", accuracy=accuracy, cost_per_1k=cost_per_1k, arena_score=found, beta=beta)
        else:
            click.echo(f"arena score {found:.2f}")
        return
    if not paths or accuracy is not None or cost_per_1k is not None:
        raise BadRequest("FILE", "files, or both of --accuracy and --cost-per-1k", "neither, or only a part")
    if metrics is not None and len(paths) != 1:
        raise BadRequest("metrics", "one FILE", str(len(paths)))
    prices = Prices.read(prices_path) if prices_path else None
    told: list[dict[str, Any]] = []
    for path in paths:
        rows = load(path, cache=cache_directory())
        one = score_of(rows, name=os.fspath(path), prices=prices, rules=rules, beta=beta)
        if metrics is not None:
            metrics.write_text(json.dumps(_metrics(one), indent=2) + "\n", encoding="utf-8")
        each = counted(rows, prices, rules)
        drawn = bootstrap(each.accuracy[:, None], each.cost[:, None], beta=beta, draws=draws, seed=seed)
        told.append(_told(path, one, interval(drawn[:, 0]), worst_domain(each)))
    if as_json:
        print_json("mpsafe.score/1", beta=beta, scores=told, **(told[0] if len(told) == 1 else {}))
        return
    _print(told)


@click.command()
@json_option
@click.argument("full", type=FILE, required=False)
@click.argument("paraphrased", metavar="[ROBUST]", type=FILE, required=False)
@click.option("--flips", type=FILE, help="instead of files: a CSV with router, matched_rows and flips")
def robustness(as_json: bool, full: Path | None, paraphrased: Path | None, flips: Path | None) -> None:
    """How seldom a router's pick changes when a prompt is paraphrased: FULL against ROBUST, two prediction files.

    Where both are graded, also how seldom the outcome does.
    """
    if flips is not None and full is None:
        every = _from_flips(flips)
        if as_json:
            print_json("mpsafe.robustness/1", routers=[{"router": name, **_share(one)} for name, one in every])
            return
        shown = table("", "router", "robustness#", "flips#", "of#")
        for name, one in every:
            shown.add_row(name, f"{100 * one.score:.2f}", str(one.flips), str(one.matches))
        console().print(shown)
        return
    if full is None or paraphrased is None or flips is not None:
        raise BadRequest("FULL", "both files, or --flips alone", "something else")
    before, after = load(full), load(paraphrased)
    regular = zip(before.query, before.model, before.for_optimality, strict=True)
    picks = {query: model for query, model, other in regular if query and model and not other}
    found = robustness_of(picks, zip(after.query, after.model, strict=True), paraphrased.name)
    outcome = outcomes_kept(before, after)
    if as_json:
        print_json("mpsafe.robustness/1", **_share(found), outcome_robustness=percent(outcome))
        return
    click.echo(f"robustness {100 * found.score:.2f}: {found.flips} of {found.matches} picks changed")
    if outcome is not None:
        click.echo(f"outcome robustness {100 * outcome:.2f}: how seldom right became wrong, or wrong right")


def _from_flips(path: Path) -> list[tuple[str, Robustness]]:
    found: list[tuple[str, Robustness]] = []
    with path.open(encoding="utf-8", newline="") as lines:
        for number, row in enumerate(csv.DictReader(lines), 2):
            try:
                name, flips, matches = row["router"], int(row["flips"]), int(row["matched_rows"])
            except (KeyError, TypeError, ValueError):
                problem = "router, matched_rows and flips are expected, the last two whole numbers"
                raise BadArenaFile(os.fspath(path), f"line {number}", problem) from None
            if not 0 <= flips <= matches or not matches:
                raise BadArenaFile(os.fspath(path), f"line {number}", f"{flips} flips of {matches} make no sense")
            found.append((name, Robustness(1 - flips / matches, flips, matches)))
    return found


def _share(found: Robustness) -> dict[str, float | int]:
    return {"robustness": 100 * found.score, "flips": found.flips, "matches": found.matches}


def _told(path: Path, found: Score, sure: Interval, worst: tuple[str, float]) -> dict[str, Any]:
    return {
        "file": os.fspath(path),
        "rules": found.rules,
        "prices": found.prices,
        "arena_score": 100 * found.arena_score,
        "low": 100 * sure.low,
        "high": 100 * sure.high,
        "accuracy": 100 * found.accuracy,
        "worst_domain": worst[0],
        "worst_domain_accuracy": 100 * worst[1],
        "cost_per_1k": found.cost_per_1k,
        "total_cost": found.total_cost,
        "num_queries": found.queries,
        "abnormal_count": found.abnormal,
        **percents(found.optimality),
        "unpriced": found.unpriced,
        "guessed": found.guessed,
    }


def _metrics(found: Score) -> dict[str, Any]:
    """RouterArena's own names and units: shares, and dollars."""
    optimality = found.optimality
    told: dict[str, Any] = {
        "arena_score": found.arena_score,
        "accuracy": found.accuracy,
        "total_cost": found.total_cost,
        "avg_cost_per_query": found.total_cost / found.queries,
        "avg_cost_per_1000": found.cost_per_1k,
        "num_queries": found.queries,
        "abnormal_count": found.abnormal,
    }
    if optimality is not None:
        told["optimality"] = {
            "opt_sel": optimality.opt_sel,
            "opt_cost": optimality.opt_cost,
            "opt_acc": optimality.opt_acc,
            "queries_with_optimal_data": optimality.queries,
            "num_sub10_queries": optimality.pool,
        }
    return told


def _print(every: list[dict[str, Any]]) -> None:
    heads = (
        "file",
        "arena#",
        "95 %",
        "accuracy#",
        "worst class",
        "$/1K#",
        "Opt.Sel#",
        "Opt.Cost#",
        "Opt.Acc#",
        "queries#",
        "abnormal#",
    )
    shown = table(f"rules {every[0]['rules']}, prices {every[0]['prices'] or 'as stored'}", *heads)
    for one in every:
        marks = [one[name] for name in ("opt_sel", "opt_cost", "opt_acc")]
        shown.add_row(
            Path(one["file"]).name,
            *(f"{one['arena_score']:.2f}", f"{one['low']:.2f} to {one['high']:.2f}", f"{one['accuracy']:.2f}"),
            *(f"{one['worst_domain']} {one['worst_domain_accuracy']:.2f}", f"{one['cost_per_1k']:.4f}"),
            *("" if mark is None else f"{mark:.2f}" for mark in marks),
            *(str(one["num_queries"]), str(one["abnormal_count"])),
        )
    out = console()
    out.print(shown)
    for one in every:
        for model in one["unpriced"]:
            out.print(f"{Path(one['file']).name}: {model} has no price, and costs nothing by the rules")
        for model, taken in one["guessed"]:
            out.print(f"{Path(one['file']).name}: {model} has no price of its own, and is charged as {taken}")
