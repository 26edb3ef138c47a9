# SPDX-License-Identifier: Apache-2.0
"""python -m tools.soak rounds | kills | flood | takeovers: see the package."""

import random
from typing import Literal

import click

from tools.soak import flood, kills, rounds, takeovers

SEEDS = 1 << 32


@click.command("rounds")
@click.option("--count", default=500, show_default=True, type=click.IntRange(1, 1_000_000), help="how many")
@click.option("--seed", type=click.IntRange(0), help="of the first round; a round's seed is that and its number")
def _rounds(count: int, seed: int | None) -> None:
    """Several tenants, one to three guilty, forgeries: nobody else is blamed or fenced."""
    raise SystemExit(rounds.run(count, seed=random.randrange(SEEDS) if seed is None else seed))


@click.command("kills")
@click.option("--count", default=100, show_default=True, type=click.IntRange(1, 100_000), help="how often")
@click.option("--control", default="software", show_default=True, type=click.Choice(["software", "real"]))
def _kills(count: int, control: Literal["software", "real"]) -> None:
    """The daemon is killed under load: no client sees an error, no pid of MPS changes, all is finished."""
    raise SystemExit(kills.run(count, real=control == "real"))


@click.command("flood")
@click.option("--seconds", default=60, show_default=True, type=click.IntRange(1, 86_400), help="how long")
def _flood(seconds: int) -> None:
    """10,000 kernel log lines a second: memory stays flat, and what is lost is counted."""
    raise SystemExit(flood.run(seconds))


@click.command("takeovers")
@click.option("--count", default=1000, show_default=True, type=click.IntRange(1, 1_000_000), help="how many")
@click.option("--seed", type=click.IntRange(0), help="of the first round; a round's seed is that and its number")
def _takeovers(count: int, seed: int | None) -> None:
    """Owner, standby, daemon and MPS server end at random: no committed byte is lost, no handle is left."""
    raise SystemExit(takeovers.run(count, seed=random.randrange(SEEDS) if seed is None else seed))


if __name__ == "__main__":
    about = "Long runs of the real daemon on the software GPU; status 1 if something was wrong."
    click.Group("soak", commands=[_rounds, _kills, _flood, _takeovers], help=about)()
