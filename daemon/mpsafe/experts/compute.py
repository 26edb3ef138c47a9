# SPDX-License-Identifier: Apache-2.0
"""What the experts of one layer make of its tokens, a few experts at a time, wherever each of them is.

Rows are sorted by the expert that they go to, with what the host knows of the router's choice: nothing waits for the
device. Experts are computed one after the other, the sum over a token's experts is taken at the end in the router's
order: the output does not depend on who was computed together.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mpsafe.experts.trace import Ids

__all__ = ["Batch"]


class Batch:
    """The tokens of one layer: hidden [T, H], weights [T, K]; `ids` [T, K] on the host, E and above for no expert.

    `sequence`: the experts that are asked for, [n], in the order in which `run` has to be given them.
    """

    def __init__(self, experts: nn.Module, hidden: Tensor, weights: Tensor, ids: Ids, *, count: int) -> None:
        self._experts: Any = experts
        self._weights = weights
        self._found: list[Tensor] = []
        self._shape = ids.shape
        self._back: Tensor | None = None
        flat = ids.ravel()
        asked = flat < count
        if len(ids) == 1 and asked.all():  # one token: as the router has named them, and nothing is moved
            self.sequence = flat
            self._rows = [1] * len(flat)
            self._given = hidden.expand(len(flat), -1)
            return
        order = np.argsort(flat, kind="stable")[: int(asked.sum())]
        self.sequence, rows = np.unique(flat[order], return_counts=True)
        self._rows = rows.tolist()
        back = np.full(len(flat), len(order))
        back[order] = np.arange(len(order))
        moves = torch.from_numpy(np.concatenate([order // ids.shape[1], back])).to(hidden.device, non_blocking=True)
        self._given = hidden[moves[: len(order)]]
        self._back = moves[len(order) :]

    def run(self, tensors: list[dict[str, Tensor]]) -> None:
        """The next experts of the sequence, by their tensors."""
        experts, rows = self._experts, self._rows[: len(tensors)]
        del self._rows[: len(tensors)]
        given, self._given = self._given[: sum(rows)], self._given[sum(rows) :]
        up = "gate_up_proj" if experts.has_gate else "up_proj"
        found = self._linear(given, rows, tensors, up)
        found = experts._apply_gate(found) if experts.has_gate else experts.act_fn(found)
        found = self._linear(found, rows, tensors, "down_proj")
        self._found.append(
            experts.post_expert_norm(found) if getattr(experts, "has_post_expert_norm", False) else found
        )

    def output(self) -> Tensor:
        """[T, H], when all have run."""
        found = self._found[0] if len(self._found) == 1 else torch.cat(self._found)
        if self._back is not None:  # a last row of zeros is what no expert has made
            found = torch.cat([found, found.new_zeros(1, found.shape[1])])[self._back]
        weighted = found.view(*self._shape, -1) * self._weights[..., None]
        return weighted.sum(1).to(found.dtype)

    def _linear(self, given: Tensor, rows: list[int], tensors: list[dict[str, Tensor]], name: str) -> Tensor:
        """Each expert's rows by its own weight."""
        transposed, bias = self._experts.is_transposed, f"{name}_bias"
        made = [
            nn.functional.linear(part, one[name].transpose(0, 1) if transposed else one[name], one.get(bias))
            for part, one in zip(given.split(rows), tensors, strict=True)
        ]
        return torch.cat(made)
