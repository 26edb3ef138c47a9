# SPDX-License-Identifier: Apache-2.0
"""What a router is: one method. A plugin is any class that has it and is made from the names of its models."""

from dataclasses import dataclass
from typing import Protocol

__all__ = ["Query", "Router"]


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
