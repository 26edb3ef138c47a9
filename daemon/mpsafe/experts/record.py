# SPDX-License-Identifier: Apache-2.0
"""Makes a recorded trace of a model: what its routers said of texts, token by token.

A text goes through the model at once, as its prompt would: in a causal model each token's routing is what it would
have been one at a time.
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from mpsafe.experts.layers import MoeLayer, moe_layers, router_logits
from mpsafe.experts.trace import Floats, Ids, Trace

__all__ = ["AHEAD", "record"]

AHEAD: Final = 3


@torch.no_grad()
def record(model: Any, texts: Iterable[list[int]], *, name: str) -> Trace:
    """The trace of these requests, each a list of token ids. NotMixture for a model without experts.

    `ahead` holds what the routers of the next 3 layers make of this one's input, 0 behind the last layer.
    """
    layers = moe_layers(model)
    taps = [_Tap(layers, number) for number in range(len(layers))]
    parts: list[tuple[Ids, ...]] = []
    floats: list[tuple[Floats, ...]] = []
    with ExitStack() as stack:
        for tap in taps:
            stack.callback(tap.attach())
        for number, ids in enumerate(texts):
            given = torch.tensor([ids]).to(model.device)
            states = model(input_ids=given, output_hidden_states=True, use_cache=False).hidden_states[-1][0]
            embeddings = _numpy(model.get_input_embeddings()(given)[0])
            contexts = np.concatenate([np.zeros_like(embeddings[:1]), _numpy(states)[:-1]])
            routes = np.stack([tap.ids for tap in taps], 1)
            parts.append((routes, np.full(len(ids), number, np.intp), np.asarray(ids, np.intp)))
            probabilities = np.stack([tap.probabilities for tap in taps], 1)
            floats.append((probabilities, np.stack([tap.ahead for tap in taps], 1), embeddings, contexts))
    routes, requests, tokens = (np.concatenate(one) for one in zip(*parts, strict=True))
    probabilities, ahead, embeddings, contexts = (np.concatenate(one) for one in zip(*floats, strict=True))
    return Trace(
        name=name,
        layers=len(layers),
        experts=layers[0].count,
        ids=list(routes.reshape(len(tokens) * len(layers), -1)),
        requests=requests,
        tokens=tokens,
        expert_bytes=layers[0].expert_bytes,
        probabilities=probabilities,
        ahead=ahead,
        embeddings=embeddings,
        contexts=contexts,
    )


class _Tap:
    """Listens at one layer: `ids` [T, K], `probabilities` [T, E], `ahead` [T, D, E] of the last text."""

    ids: Ids
    probabilities: Floats
    ahead: Floats

    def __init__(self, layers: list[MoeLayer], number: int) -> None:
        self._layer = layers[number]
        self._later = layers[number + 1 : number + 1 + AHEAD]

    def attach(self) -> Callable[[], None]:
        """Until what is returned is called."""
        handles = (
            self._layer.router.register_forward_hook(self._routed),
            self._layer.experts.register_forward_pre_hook(self._asked, with_kwargs=True),
        )

        def detach() -> None:
            for handle in handles:
                handle.remove()

        return detach

    def _routed(self, module: nn.Module, given: tuple[Tensor, ...], output: Any) -> None:
        count = self._layer.count
        self.probabilities = _softmax(router_logits(output, count))
        self.ahead = np.zeros((len(self.probabilities), AHEAD, count), np.float32)
        for distance, later in enumerate(self._later):
            # forward() and not a call: the later layer's own tap is not meant.
            self.ahead[:, distance] = _softmax(router_logits(later.router.forward(*given), count))

    def _asked(self, module: nn.Module, given: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        asked = named["top_k_index"] if "top_k_index" in named else given[1]
        self.ids = asked.reshape(len(self.probabilities), -1).cpu().numpy().astype(np.intp)


def _softmax(logits: Tensor) -> Floats:
    return _numpy(torch.softmax(logits.float(), -1))


def _numpy(tensor: Tensor) -> Floats:
    found: Floats = tensor.float().cpu().numpy()
    return found
