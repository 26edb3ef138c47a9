# SPDX-License-Identifier: Apache-2.0
"""The mixture-of-experts layers of a Transformers model: their routers, and the tensors of their experts.

Since transformers 5 the experts of a layer are one module with one tensor for each weight of all of them, [E, ...],
beside a router module called `gate` or `router`, and run by a function that is chosen by name
(`transformers.integrations.moe`, ALL_EXPERTS_FUNCTIONS). Nothing here knows a model class.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from mpsafe.errors import NotMixture

__all__ = ["MoeLayer", "gates", "moe_layers", "router_logits"]

ROUTERS: Final = ("gate", "router")
TOLERANCE: Final = 2e-2  # of bfloat16
WEIGHTS: Final = (("gate_up_proj", "down_proj"), ("up_proj", "down_proj"))


@dataclass(frozen=True, slots=True)
class MoeLayer:
    """One layer. `tensors`: the names of the experts' parameters whose first axis is the expert; `count`: E."""

    name: str
    experts: nn.Module
    router: nn.Module
    tensors: tuple[str, ...]
    count: int

    @property
    def expert_bytes(self) -> int:
        """Of one expert, all its tensors."""
        each = (self.experts.get_parameter(name) for name in self.tensors)
        return sum(one.numel() * one.element_size() for one in each) // self.count


def moe_layers(model: nn.Module) -> list[MoeLayer]:
    """All of them, in order. NotMixture where there is none, or where they differ in the number of experts."""
    found = [layer for name, module in model.named_modules() if (layer := _layer(name, module)) is not None]
    if not found:
        raise NotMixture(type(model).__name__, "it has no layer of experts that transformers' experts interface runs")
    if len({layer.count for layer in found}) > 1:
        raise NotMixture(type(model).__name__, "its layers differ in the number of experts")
    return found


def router_logits(output: Any, count: int) -> Tensor:
    """Of what a router returns, what it has computed for each expert: [T, E], before any softmax."""
    parts: Iterable[Any] = (output,) if isinstance(output, Tensor) else output
    for part in parts:
        if isinstance(part, Tensor) and part.shape[-1] == count and part.is_floating_point():
            return part.reshape(-1, count)
    raise NotMixture("the router", f"it returns nothing with {count} numbers a token")


def gates(layers: list[MoeLayer]) -> Tensor | None:
    """The routers' weights [L, E, H], where each router's logits are its weight times its input, and nothing else.

    Tried on a random input, since nothing says so. None where it is not so.
    """
    weights: list[Tensor] = []
    for layer in layers:
        weight = layer.router._parameters.get("weight")
        if weight is None or "forward" in vars(layer.router) or weight.shape[0] != layer.count:
            return None
        given = torch.randn(2, weight.shape[1]).to(weight)
        with torch.no_grad():
            logits = router_logits(layer.router(given), layer.count)
            expected = nn.functional.linear(given, weight, None)
        if not torch.allclose(logits.float(), expected.float(), rtol=TOLERANCE, atol=TOLERANCE):
            return None
        weights.append(weight.detach())
    return torch.stack(weights) if len({weight.shape for weight in weights}) == 1 else None


def _layer(name: str, block: nn.Module) -> MoeLayer | None:
    experts = getattr(block, "experts", None)
    router = next((one for word in ROUTERS if isinstance(one := getattr(block, word, None), nn.Module)), None)
    if not isinstance(experts, nn.Module) or router is None or not hasattr(experts, "has_gate"):
        return None
    parameters = dict(experts.named_parameters(recurse=False))
    if not any(set(names) <= set(parameters) for names in WEIGHTS):
        return None
    count = parameters["down_proj"].shape[0]
    tensors = tuple(key for key, one in parameters.items() if one.shape[0] == count)
    return MoeLayer(name, experts, router, tensors, count)
