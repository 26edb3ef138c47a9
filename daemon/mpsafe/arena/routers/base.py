# SPDX-License-Identifier: Apache-2.0
"""What a router is: one method. A plugin is any class that has it and is made from the names of its models."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Predicts", "Query", "Router"]


@dataclass(frozen=True, slots=True)
class Query:
    """What a router may see of a query. `domain` is empty where the suite has none."""

    id: str
    prompt: str
    domain: str = ""


class Router(Protocol):
    """Picks a model."""

    def route(self, query: Query) -> str:
        """The name of one of its models. The same query must give the same name: robustness depends on it."""
        ...


class Predicts(Protocol):
    """Says how likely each of its models is right."""

    def predict(self, query: Query) -> NDArray[np.float64]:
        """For each model, in the order in which it was told of them, 0 to 1."""
        ...
