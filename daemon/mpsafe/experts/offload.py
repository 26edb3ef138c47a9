# SPDX-License-Identifier: Apache-2.0
"""Serves an unmodified Transformers model with most of its experts in host memory.

    model = AutoModelForCausalLM.from_pretrained(directory)
    offloaded = attach(model, cache_percent=25)
    model.generate(...)

The experts' parameters leave the model for sealed host memory; the model's experts are run by the function that is
registered as "mpsafe" (`transformers.integrations.moe`). The output does not depend on what
was resident (compute.py).
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import torch
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from mpsafe.errors import BadRequest
from mpsafe.experts.compute import Batch
from mpsafe.experts.host import HostExperts, Layout, Shard, layout_of, pack
from mpsafe.experts.layers import MoeLayer, gates, moe_layers, router_logits
from mpsafe.experts.links import EmulatedLink, Link
from mpsafe.experts.policies import POLICIES, Known, Routed, Shape, Step
from mpsafe.experts.residency import Counters, Residency
from mpsafe.experts.sharing import Share
from mpsafe.experts.slots import GRANULE_BYTES, Allocate, SlotPool, of_torch
from mpsafe.experts.trace import Floats, Ids
from mpsafe.leases import HeldLease
from mpsafe.protocol.leases import Span

__all__ = ["Offloaded", "attach"]

FUNCTION: Final = "mpsafe"
ATTRIBUTE: Final = "_mpsafe"
_log = logging.getLogger(__name__)

NOBODY: Final[Ids] = np.empty(0, np.intp)
AHEAD: Final = 3
DEFAULT_BANDWIDTH: Final = 8e9


def attach(
    model: Any,
    *,
    cache_percent: float = 25.0,
    policy: str = "mpsafe",
    prefetch: int = 2,
    device: Any = "cpu",
    allocate: Allocate | None = None,
    link: Callable[[], Link] | None = None,
    share: Share | None = None,
    granule_bytes: int = GRANULE_BYTES,
) -> "Offloaded":
    """Takes the model's experts out of it, and serves them from a cache on `device` with room for that share of them.

    `prefetch`: experts that may be on their way ahead of time; `link`: how they get there, on a CPU an emulated link of
    8 GB/s; `share`: with whom the host's copy, the link and the device's memory are shared; `allocate`: where the
    cache's memory comes from, in whole `granule_bytes`. NotMixture for another kind of model, ShardDamaged where the
    copy that others have is not what its hash says.
    """
    known = {one.name: one for one in POLICIES if isinstance(one, Known)}
    if policy not in known:
        raise BadRequest("policy", f"one of {', '.join(known)}", repr(policy))
    layers = moe_layers(model)
    used = int(getattr(model.config, "num_experts_per_tok", 0) or getattr(model.config, "top_k", 1))
    slots = int(len(layers) * layers[0].count * cache_percent / 100 + 1e-9)
    shape = Shape(len(layers), layers[0].count, used, slots)
    if slots < min(2 * used, shape.total):
        least = 100 * 2 * used / shape.total
        raise BadRequest("cache_percent", f"at least {least:.3g}, room for {2 * used} experts", f"{cache_percent:g}")
    layout = layout_of(layers[0])
    with ExitStack() as stack:
        host = stack.enter_context(HostExperts(_shards(layers, layout, share), layout, count=shape.experts))
        if share is not None:
            host.check()
        # With a lease nothing is allocated before there is one.
        first = slots if share is None else 0
        pool = SlotPool(layout, first, allocate or of_torch(device), granule_bytes=granule_bytes)
        stack.callback(pool.close)
        way = link() if link is not None else _way(device, host, share)
        stack.callback(way.close)
        served = Offloaded(model, layers, shape, known[policy], host, pool, way, prefetch=prefetch)
        stack.callback(served.detach)
        model.to(device)
        served.owns(stack.pop_all(), share)
    return served


def _way(device: Any, host: HostExperts, share: Share | None) -> Link:
    """The device's own link; where there is none, an emulated one."""
    page = share.link if share is not None else None
    if torch.device(device).type != "cuda":
        return EmulatedLink(DEFAULT_BANDWIDTH, page=page)
    from mpsafe.experts.cuda_link import of_torch_device

    return of_torch_device(device, host, page=page)


def _shards(layers: list[MoeLayer], layout: Layout, share: Share | None) -> list[Shard]:
    """Each layer's experts in host memory; ours, or the copy that others have."""
    shards: list[Shard] = []
    try:
        for layer in layers:
            packed = pack(layer, layout, hashed=share is not None)
            shards.append(packed if share is None else share.one_copy(packed))
    except BaseException:
        for shard in shards:
            os.close(shard.fd)
        raise
    return shards


class Offloaded:
    """A model whose experts are served from a cache. `close` puts them back."""

    def __init__(
        self,
        model: Any,
        layers: list[MoeLayer],
        shape: Shape,
        known: Known,
        host: HostExperts,
        pool: SlotPool,
        link: Link,
        *,
        prefetch: int,
    ) -> None:
        self.model = model
        self.shape = shape
        self.link = link
        self.host = host
        self._layers = layers
        self._pool = pool
        self.policy = known.make(shape)
        self._residency = Residency(shape, self.policy, host, pool, link)
        self._lease: HeldLease | None = None
        self._prefetch = prefetch
        self._gates = gates(layers)
        self._depth = AHEAD if "ahead" in known.needs | known.likes else 0
        self._lock = threading.Lock()
        self._routers_said: Tensor | None = None
        self._state: Tensor | None = None
        self._embedding: Floats | None = None
        self._context: Floats | None = None
        self._request = 0
        self._begun = False
        with ExitStack() as stack:
            self._take(stack)
            self._undo = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def counters(self) -> Counters:
        """What happened so far."""
        return self._residency.counters

    @property
    def slots(self) -> int:
        """Room for so many experts."""
        return self._pool.count

    @property
    def cache_bytes(self) -> int:
        """Device memory that the cache holds."""
        return self._pool.nbytes

    @property
    def slot_bytes(self) -> int:
        """Of one expert."""
        return self.host.layout.nbytes

    def fill(self) -> None:
        """Has the cache full before the first request: any expert is better than none."""
        with self._lock:
            self._residency.fill()

    def resize(self, slots: int) -> None:
        """Gives device memory back, or takes more, between two layers; may be called by any thread.

        LeaseTooSmall below the fewest slots that a layer needs, MemoryError where the device has no more: then nothing
        has changed.
        """
        with self._lock:
            self._residency.resize(min(slots, self.shape.total))

    def close(self) -> None:
        """The model has its experts back, on the CPU, and is as it was."""
        self._owned.close()

    def detach(self) -> None:
        """The same, with all that serves it left open."""
        self._residency.stop()
        self._undo.close()

    def _take(self, stack: ExitStack) -> None:
        """Experts out of the modules, hooks in; each with its way back."""
        before = self.model.config._experts_implementation
        ALL_EXPERTS_FUNCTIONS.register(FUNCTION, _run)
        stack.callback(self.model.set_experts_implementation, before)
        self.model.set_experts_implementation(FUNCTION)
        for number, layer in enumerate(self._layers):
            stack.callback(self._give_back, number)
            for name in layer.tensors:
                del layer.experts._parameters[name]
            object.__setattr__(layer.experts, ATTRIBUTE, (self, number))
            stack.callback(layer.router.register_forward_hook(self._listener(number)).remove)
        embeddings = self.model.get_input_embeddings()
        stack.callback(self.model.base_model.register_forward_pre_hook(self._called, with_kwargs=True).remove)
        stack.callback(embeddings.register_forward_hook(self._embedded).remove)
        stack.callback(self.model.base_model.register_forward_hook(self._finished).remove)

    def _give_back(self, number: int) -> None:
        layer = self._layers[number]
        object.__delattr__(layer.experts, ATTRIBUTE)
        for part in self.host.layout.parts:
            whole = torch.stack([part.of(self.host.record(number, one)) for one in range(self.shape.experts)])
            layer.experts._parameters[part.name] = nn.Parameter(whole, requires_grad=False)

    def owns(self, stack: ExitStack, share: Share | None) -> None:
        """What ends with it; with a share the cache is leased: it gives back under pressure, and takes what is free."""
        with stack:
            if share is not None:
                bytes_for = self._pool.bytes_for
                whole = bytes_for(self.shape.slots)
                memory = Span(bytes_for(self._residency.floor), whole, whole)
                self._lease = stack.enter_context(share.lease(memory, self._pressed))
                self._follow_lease()
            self._owned = stack.pop_all()

    def _pressed(self, granted_bytes: int, deadline_ns: int) -> None:
        """Called by the lease's thread; what was to be freed is free when it returns."""
        with self._lock:
            self._follow_lease()

    def _follow_lease(self) -> None:
        """As many slots as the lease has room for."""
        if self._lease is not None:
            slots = min(self._pool.slots_in(self._lease.granted_bytes), self.shape.slots)
            if slots == self._pool.count or slots < self._residency.floor:
                return
            try:
                self._residency.resize(slots)
            except MemoryError as error:  # granted, and somebody without a lease was quicker; tried again at a token
                if not self._pool.count:
                    raise
                _log.warning("the cache stays at %d experts: %s", self._pool.count, error)

    def _called(self, module: nn.Module, given: tuple[Tensor, ...], named: dict[str, Any]) -> None:
        """A forward pass begins; of a new request, if there is no cache, or nothing in it."""
        cache: Any = named.get("cache", named.get("past_key_values"))
        if cache is None or not cache.get_seq_length():
            self._request += 1
            self._state = None

    def _embedded(self, module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        """The embeddings of its tokens are known."""
        last = output.reshape(-1, output.shape[-1])[-1]
        context = torch.zeros_like(last) if self._state is None else self._state.to(last)
        self._embedding, self._context = _numpy(torch.stack([last, context]))
        with self._lock:
            self._begin(output[..., 0].numel())

    def _finished(self, module: nn.Module, given: tuple[Tensor, ...], output: Any) -> None:
        states = output.last_hidden_state
        self._state = states.reshape(-1, states.shape[-1])[-1]

    def _listener(self, number: int) -> Callable[[nn.Module, tuple[Tensor, ...], Any], None]:
        count = self.shape.experts
        later = self._layers[number + 1 : number + 1 + self._depth]
        missing = self._depth - len(later)

        def routed(module: nn.Module, given: tuple[Tensor, ...], output: Any) -> None:
            logits = [router_logits(output, count).float()[None]]
            if later and self._gates is not None:
                hidden = given[0].reshape(-1, given[0].shape[-1])
                self._gates = self._gates.to(hidden)
                weights = self._gates[number + 1 : number + 1 + len(later)]
                logits.append(torch.matmul(hidden, weights.transpose(1, 2)).float())
            else:
                logits += [router_logits(one.router.forward(*given), count).float()[None] for one in later]
            said = torch.softmax(torch.cat(logits), -1).mean(1)
            self._routers_said = torch.cat([said, said.new_zeros(missing, count)]) if missing else said

        return routed

    def run(self, number: int, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        """One layer's experts: hidden [T, H], ids and weights [T, K] as the router gave them; returns [T, H]."""
        experts = self.shape.experts
        ids, said = self._to_host(index)
        batch = Batch(self._layers[number].experts, hidden, weights, ids, count=experts)
        flat = np.sort(batch.sequence) + number * experts
        with self._lock:
            if number == 0 and not self._begun:
                self._begin(len(hidden))
            self._begun = False
            most = self._pool.count
            missing = int(self._residency.absent(flat).sum())
            ahead = said[1:] if self._depth else None
            began = time.perf_counter()
            self.policy.routed(routed := Routed(number, flat, missing, said[0], ahead))
            self.counters.policy_s += time.perf_counter() - began
            for start in range(0, len(flat), most):
                part = batch.sequence[start : start + most] + number * experts
                began = time.perf_counter()
                coming = self._residency.ask(part, routed)
                if start + most >= len(flat):
                    self._residency.prefetch(self._prefetch, in_use=part)
                asked = time.perf_counter()
                self.link.wait(coming)
                self.counters.resident_s += asked - began
                self.counters.stalled_s += time.perf_counter() - asked if coming else 0.0
                batch.run([self._pool.tensors(self._residency.slot(one)) for one in part.tolist()])
        return batch.output()

    def _to_host(self, index: Tensor) -> tuple[Ids, Floats]:
        """The ids [T, K], and what the routers said, [1 + depth, E], in one copy from the device."""
        assert self._routers_said is not None
        said = self._routers_said
        both = _numpy(torch.cat([said.reshape(-1), index.reshape(-1).float()]))
        ids = both[said.numel() :].astype(np.int64).reshape(index.shape)
        return ids, both[: said.numel()].reshape(said.shape)

    def _begin(self, tokens: int) -> None:
        self._begun = True
        self._follow_lease()
        self.counters.tokens += tokens
        began = time.perf_counter()
        self.policy.begin(Step(self._request, self._embedding, self._context))
        begun = time.perf_counter()
        self._residency.prefetch(self._prefetch, in_use=NOBODY)
        self.counters.policy_s += begun - began
        self.counters.resident_s += time.perf_counter() - begun


def _run(self: nn.Module, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """The experts function, in the place of a layer's own (transformers calls its argument `self`)."""
    offloaded, number = getattr(self, ATTRIBUTE)
    found: Tensor = offloaded.run(number, hidden_states, top_k_index, top_k_weights)
    return found


def _numpy(tensor: Tensor) -> Floats:
    found: Floats = tensor.detach().float().cpu().numpy()
    return found
