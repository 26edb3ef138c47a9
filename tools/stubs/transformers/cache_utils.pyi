# SPDX-License-Identifier: Apache-2.0

from collections.abc import Sequence
from typing import Any

import torch

class DynamicLayer:
    keys: torch.Tensor
    values: torch.Tensor
    device: torch.device
    dtype: torch.dtype
    is_initialized: bool
    is_croppable: bool
    def __init__(self) -> None: ...
    def get_seq_length(self) -> int: ...
    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]: ...

class Cache:
    def __init__(self, layers: Sequence[DynamicLayer]) -> None: ...
    def get_seq_length(self) -> int: ...
