# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable
from typing import Any

class ExpertsInterface:
    def register(self, name: str, function: Callable[..., Any]) -> None: ...

ALL_EXPERTS_FUNCTIONS: ExpertsInterface
