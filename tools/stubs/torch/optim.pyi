# SPDX-License-Identifier: Apache-2.0

from collections.abc import Iterable
from typing import Any

from . import nn

class Optimizer:
    param_groups: list[dict[str, Any]]
    def step(self) -> None: ...
    def zero_grad(self, *, set_to_none: bool) -> None: ...

class AdamW(Optimizer):
    def __init__(
        self, parameters: Iterable[nn.Parameter], *, lr: float, weight_decay: float, betas: tuple[float, float]
    ) -> None: ...
