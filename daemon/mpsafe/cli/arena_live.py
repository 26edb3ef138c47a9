# SPDX-License-Identifier: Apache-2.0
"""mpsafe arena live and replay: a router on a live host, under faults, beside its health-blind twin."""

import os
from pathlib import Path

import click

from mpsafe.arena.live import plan as plans
from mpsafe.arena.live.page import LINES, page
from mpsafe.arena.live.record import LiveRun, read, score, write
from mpsafe.arena.live.session import run as run_all
from mpsafe.cli.arena_options import FILE, OUT
from mpsafe.cli.options import console, json_option, print_json, table

__all__ = ["live", "replay"]

PLACE = click.Path(file_okay=False, path_type=Path)
PAGE = "live.html"
DEFAULTS = plans.Plan()

seconds_option = click.option("--seconds", type=click.FloatRange(1, 600), help="of one run; else the plan's, or 25")
rate_option = click.option("--rate", type=click.FloatRange(0.1, 1000), help="queries a second; else the plan's, or 8")
seed_option = click.option("--seed", type=click.IntRange(0), help="of the queries; else the plan's, or 0")


@click.group()
def live() -> None:
    """Routers on a live host: small real models, mpsafed, and faults."""


@live.command()
@json_option
@click.option("--router", required=True, help="random, round-robin, always:MODEL, or module:attribute")
@click.option("--faults", type=FILE, help="a plan; without one, nothing fails")
@click.option("--out", type=PLACE, default=Path("build/live"), show_default=True, help="where the run and its page go")
@seconds_option
@rate_option
@seed_option
def run(
    as_json: bool,
    router: str,
    faults: Path | None,
    out: Path,
    seconds: float | None,
    rate: float | None,
    seed: int | None,
) -> None:
    """Run ROUTER and its health-blind twin, without faults and with them, on a software GPU with small real models."""
    plan = plans.read(faults, seconds=seconds) if faults else plans.Plan(seconds=seconds or DEFAULTS.seconds)
    plan = plans.changed(plan, rate=rate, seed=seed)
    screen = console()
    found = run_all(router, plan, tell=lambda words: None if as_json else screen.print(words, style="dim"))
    write(out, found)
    _tell(out, found, as_json=as_json)


@live.command()
@click.option("--out", type=OUT, help="where it goes; else it is printed")
@seconds_option
@rate_option
@seed_option
def plan(out: Path | None, seconds: float | None, rate: float | None, seed: int | None) -> None:
    """Draw a plan of faults by a seed."""
    text = plans.written(plans.draw(seed=seed or 0, seconds=seconds or DEFAULTS.seconds, rate=rate or DEFAULTS.rate))
    if out is None:
        click.echo(text, nl=False)
    else:
        out.write_text(text, encoding="utf-8")


@click.command()
@json_option
@click.argument("place", metavar="RUN", type=click.Path(exists=True, file_okay=False, path_type=Path))
def replay(as_json: bool, place: Path) -> None:
    """Score a recorded live run again, and make its page anew."""
    _tell(place, read(place), as_json=as_json)


def _tell(place: Path, found: LiveRun, *, as_json: bool) -> None:
    scored = score(found)
    (place / PAGE).write_text(page(found, scored), encoding="utf-8")
    if as_json:
        told = {"router": found.router, "device": found.device, "seed": found.plan.seed, "prices": found.prices}
        print_json(
            "mpsafe.live/1", **told, page=os.fspath(place / PAGE), figures=scored.figures, verdict=scored.verdict
        )
        return
    names = [f"{'aware' if one.aware else 'blind'}, {'faults' if one.faulted else 'none'}#" for one in scored.figures]
    shown = table(f"{found.router}: {found.device}", "", *names)
    for line in LINES:
        shown.add_row(line.name, *(line.cell(one) for one in scored.figures))
    screen = console()
    screen.print(shown)
    for trace in found.traces:
        for one in trace.happened:
            if one.problem:
                screen.print(f"not carried out: {one.fault.kind} at {one.began_s:.2f} s: {one.problem}", soft_wrap=True)
    if scored.verdict is not None:
        screen.print(scored.verdict.sentence, soft_wrap=True)
    screen.print(f"The page: {place / PAGE}", soft_wrap=True)
