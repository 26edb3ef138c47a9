# SPDX-License-Identifier: Apache-2.0
"""What each query of a graded file counts: the figures behind the figures, for intervals and for pairs."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mpsafe.arena.domains import class_of
from mpsafe.arena.frontier import outcome_robustness
from mpsafe.arena.matrix import Floats
from mpsafe.arena.prices import Prices, Rules
from mpsafe.arena.scoring import row_costs
from mpsafe.arena.table import NUMBER, Table

__all__ = ["Counted", "counted", "outcomes_kept", "worst_domain"]


@dataclass(frozen=True, slots=True)
class Counted:
    """N regular rows in the file's order: `accuracy` [N], 0 to 1, and `cost` [N], dollars, as the rules count them."""

    queries: tuple[str, ...]
    accuracy: Floats
    cost: Floats


def counted(table: Table, prices: Prices | None, rules: Rules) -> Counted:
    """The regular rows; what is abnormal by the rules counts as wrong, and costs nothing."""
    costs = row_costs(table, prices, rules)[0] if prices else table.cost
    generated = table.success & (np.nan_to_num(table.used[:, 1]) > 0)
    if rules == "2025-11":
        generated = np.ones(len(table), np.bool_)
    regular = ~table.for_optimality
    return Counted(
        queries=tuple(query for query, kept in zip(table.query, regular, strict=True) if kept),
        accuracy=np.where(generated, np.nan_to_num(table.accuracy), 0)[regular],
        cost=np.where(generated, np.nan_to_num(costs), 0)[regular],
    )


def worst_domain(found: Counted) -> tuple[str, float]:
    """The class with the lowest accuracy, and that."""
    rows: dict[str, list[int]] = {}
    for row, query in enumerate(found.queries):
        rows.setdefault(class_of(query), []).append(row)
    by_class: Mapping[str, float] = {name: float(found.accuracy[of].mean()) for name, of in rows.items()}
    return min(by_class.items(), key=lambda one: one[1])


def outcomes_kept(before: Table, after: Table) -> float | None:
    """How seldom a paraphrase changes whether a graded answer is right; None where no query is graded in both."""
    graded = ~before.for_optimality & (before.accuracy_kind == NUMBER)
    known = {before.query[row]: before.accuracy[row] for row in np.flatnonzero(graded)}
    both = [
        (known[after.query[row]], after.accuracy[row])
        for row in np.flatnonzero(~after.for_optimality & (after.accuracy_kind == NUMBER))
        if after.query[row] in known
    ]
    if not both:
        return None
    left, right = (np.asarray(side, np.float64) for side in zip(*both, strict=True))
    return outcome_robustness(left, right)
