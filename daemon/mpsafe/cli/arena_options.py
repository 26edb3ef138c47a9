# SPDX-License-Identifier: Apache-2.0
"""Options and words that the commands of the arena share."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from mpsafe.arena.matrix import Matrix, from_cached, from_table
from mpsafe.arena.prices import RULES, Prices, Rules
from mpsafe.arena.scoring import BETA, Optimality

__all__ = ["FILE", "OUT", "beta_option", "outcomes", "percent", "percents", "prices_option", "rules_option"]

FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
OUT: Final = click.Path(dir_okay=False, path_type=Path)

F = TypeVar("F", bound=Callable[..., Any])


def prices_option(command: F) -> F:
    """--prices."""
    return click.option(
        "--prices", "prices_path", type=FILE, help="RouterArena's price file; costs are then from tokens"
    )(command)


def rules_option(command: F) -> F:
    """--rules."""
    return click.option("--rules", type=click.Choice(RULES), default=RULES[0], show_default=True, help="whose version")(
        command
    )


def beta_option(command: F) -> F:
    """--beta."""
    return click.option(
        "--beta", type=click.FloatRange(0), default=BETA, show_default=True, help="how little the cost weighs"
    )(command)


def percent(share: float | None) -> float | None:
    """Per cent of a share, or nothing of nothing."""
    return None if share is None else 100 * share


def percents(found: Optimality | None) -> dict[str, float | int | None]:
    """The three figures in per cent, or nothing."""
    if found is None:
        return {"opt_sel": None, "opt_cost": None, "opt_acc": None, "opt_queries": None}
    return {
        "opt_sel": 100 * found.opt_sel,
        "opt_cost": 100 * found.opt_cost,
        "opt_acc": 100 * found.opt_acc,
        "opt_queries": found.queries,
    }


def outcomes(paths: Sequence[Path], *, prices: Prices | None = None, rules: Rules = RULES[0]) -> Matrix:
    """Of one table, or of cached results, a file a model."""
    if len(paths) == 1 and paths[0].suffix in (".csv", ".parquet"):
        return from_table(paths[0])
    return from_cached(paths, prices=prices, rules=rules)
