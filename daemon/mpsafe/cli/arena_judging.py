# SPDX-License-Identifier: Apache-2.0
"""mpsafe arena compare and curve: two routers on the same queries, and one over all prices."""

from pathlib import Path

import click

from mpsafe.arena.counted import Counted, counted
from mpsafe.arena.curve import curve as curve_of
from mpsafe.arena.pairing import Paired, pair
from mpsafe.arena.prices import Prices, Rules
from mpsafe.arena.scoring import score
from mpsafe.arena.statistics import DRAWS
from mpsafe.arena.table import cache_directory, load
from mpsafe.cli.arena_options import FILE, beta_option, outcomes, percent, prices_option, rules_option
from mpsafe.cli.options import console, json_option, print_json, table

__all__ = ["compare", "curve"]


@click.command()
@json_option
@click.argument("one", metavar="ONE", type=FILE)
@click.argument("other", metavar="OTHER", type=FILE)
@prices_option
@rules_option
@beta_option
@click.option("--draws", default=DRAWS, show_default=True, type=click.IntRange(10, 100_000), help="of the bootstrap")
@click.option("--seed", default=0, show_default=True, help="of the draws")
def compare(
    as_json: bool,
    one: Path,
    other: Path,
    prices_path: Path | None,
    rules: Rules,
    beta: float,
    draws: int,
    seed: int,
) -> None:
    """Whether two graded prediction files can be told apart by the queries that both have: paired tests."""
    prices = Prices.read(prices_path) if prices_path else None
    left, right = (_counted(path, prices, rules, beta) for path in (one, other))
    found = pair(left, right, name=other.name, beta=beta, draws=draws, seed=seed)
    if as_json:
        print_json("mpsafe.pairing/1", rules=rules, prices=prices.digest if prices else None, pairing=found)
        return
    heads = ("figure", f"{one.stem}#", f"{other.stem}#", "difference#", "95 %")
    shown = table(f"{found.queries} queries that both have", *heads)
    shown.add_row("arena score", *_cells(found.arena_score, 2))
    shown.add_row("accuracy", *_cells(found.accuracy, 2))
    shown.add_row("$ per 1,000", *_cells(found.cost_per_1k, 4))
    out = console()
    out.print(shown)
    out.print(f"right by one alone: {found.only_one} and {found.only_other}; McNemar p = {found.p:.3g}")
    out.print(
        f"so many queries show differences in accuracy from {found.detectable:.2f} points on, in 80 % of all cases"
    )
    out.print("they differ in the arena score" if found.differ else "by the arena score they cannot be told apart")


@click.command()
@json_option
@click.argument("paths", metavar="CACHED...", type=FILE, nargs=-1, required=True)
@click.option("--router", required=True, help="one that predicts: knn, logistic, mf, irt or cascade")
@click.option("--weak", help="of APGR and CPT; else the cheapest model, or the one that is right most seldom")
@click.option("--strong", help="of APGR and CPT; else the one that is right most often")
@prices_option
@rules_option
@click.option("--seed", default=0, show_default=True, help="of folds and of routers that draw")
def curve(
    as_json: bool,
    paths: tuple[Path, ...],
    router: str,
    weak: str | None,
    strong: str | None,
    prices_path: Path | None,
    rules: Rules,
    seed: int,
) -> None:
    """A router's accuracy over cost at all prices, what it recovers of a strong model, and how well it predicts.

    Judged on five folds, as by mpsafe arena matrix.
    """
    prices = Prices.read(prices_path) if prices_path else None
    known = outcomes(paths, prices=prices, rules=rules)
    found = curve_of(router, known, weak=weak, strong=strong, seed=seed)
    gained = found.recovery
    told = {
        "router": router,
        "comparable": not known.ours,
        "num_queries": len(known),
        "aiq": percent(found.aiq),
        "aiq_singles": percent(found.aiq_singles),
        "weak": found.weak,
        "strong": found.strong,
        "apgr": percent(gained.apgr if gained else None),
        "cpt50": percent(gained.cpt50 if gained else None),
        "cpt80": percent(gained.cpt80 if gained else None),
        "brier": found.brier,
        "calibration_error": found.calibration_error,
    }
    if as_json:
        print_json("mpsafe.curve/1", **told, points=found.points, singles=found.singles)
        return
    out = console()
    out.print(f"{router} on {len(known)} queries; weak {found.weak}, strong {found.strong}", soft_wrap=True)
    shown = table("", "figure", "value#")
    for name, value in told.items():
        if isinstance(value, float):
            shown.add_row(name, f"{value:.4f}")
    out.print(shown)
    if gained is None:
        out.print("the strong one is no better than the weak one: there is no gap of which a share could be recovered")
    line = table("", "$ per 1,000#", "accuracy#")
    for one in found.points:
        line.add_row(f"{one.cost_per_1k:.4f}", f"{100 * one.accuracy:.2f}")
    if found.points:
        out.print(line)
    if known.ours:
        out.print("not comparable: it knows other queries of the data that it is judged on")


def _counted(path: Path, prices: Prices | None, rules: Rules, beta: float) -> Counted:
    """Each query of a file that can be scored."""
    rows = load(path, cache=cache_directory())
    score(rows, name=path.name, prices=prices, rules=rules, beta=beta)
    return counted(rows, prices, rules)


def _cells(found: Paired, digits: int) -> list[str]:
    numbers = [f"{value:.{digits}f}" for value in (found.one, found.other)]
    return [*numbers, f"{found.difference:+.{digits}f}", f"{found.low:+.{digits}f} to {found.high:+.{digits}f}"]
