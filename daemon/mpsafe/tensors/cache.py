# SPDX-License-Identifier: Apache-2.0
"""A Transformers cache whose keys and values lie in one slot of a KvCache, token by token, so that it only grows.

A slot is row-major [tokens, layers, 2, heads, head_dim]: what a step appends is one piece of bytes, and a commit checks
and publishes just that. Transformers sees keys and values of shape [1, heads, tokens, head_dim] with other strides.
"""

from typing import Any, Self

import torch
from transformers.cache_utils import Cache, DynamicLayer
from typing_extensions import override

from mpsafe.tensors.layout import dtype_name
from mpsafe.tensors.view import bytes_of
from mpsafe.vault import KvCache

__all__ = ["SlotCache", "slot_bytes"]


def slot_bytes(config: Any, *, tokens: int, dtype: torch.dtype) -> int:
    """What a slot for that many tokens of such a model takes."""
    _, layers, _, heads, dim = _shape(config, tokens)
    return tokens * layers * 2 * heads * dim * dtype.itemsize


class SlotCache(Cache):
    """`past_key_values` for one request. Its tokens count when `wrote` and then `KvCache.commit` were called."""

    def __init__(self, cache: KvCache, slot: int, rows: torch.Tensor, filled: int) -> None:
        super().__init__(layers=[_Layer(rows[:, layer], filled) for layer in range(rows.shape[1])])
        self.kv = cache
        self.slot = slot
        self._row_bytes = rows[0].numel() * rows.element_size()
        self._filled = filled

    @classmethod
    def of(cls, cache: KvCache, slot: int, config: Any, *, dtype: torch.dtype) -> Self:
        """Over a slot of a cache: what the newest entry of the slot has is in it already.

        ValueError where the slot is no whole number of this model's tokens, or its memory is no region's.
        """
        if cache.durable is None:
            raise ValueError("a slot of a scratch cache is in no region: make the cache with KvCache.create")
        span = cache.span(slot)
        _, *row = _shape(config, 1)
        row_bytes = slot_bytes(config, tokens=1, dtype=dtype)
        entry = next(one for one in cache.open_entries() if one.slot == slot)
        if span.nbytes % row_bytes or entry.nbytes % row_bytes:
            what = f"slot {slot} has {span.nbytes} bytes, {entry.nbytes} of them filled"
            raise ValueError(f"{what}, and a token of this model in {dtype_name(dtype)} takes {row_bytes}")
        rows = bytes_of(cache.durable.region, span).view(dtype).view(-1, *row)
        return cls(cache, slot, rows, entry.nbytes // row_bytes)

    @property
    def tokens(self) -> int:
        """How many are in it."""
        return int(self.get_seq_length())

    def wrote(self, note: bytes | None = None) -> None:
        """Tells the KvCache how many tokens have come since the last time, and the owner's note of them."""
        self.kv.wrote(self.slot, (self.tokens - self._filled) * self._row_bytes)
        self._filled = self.tokens
        if note is not None:
            self.kv.note(self.slot, note)


class _Layer(DynamicLayer):
    """One layer's keys and values in the rows of a slot, of shape [tokens, 2, heads, head_dim]."""

    is_croppable = False

    def __init__(self, rows: torch.Tensor, filled: int) -> None:
        super().__init__()
        self._rows = rows
        self.device = rows.device
        self.dtype = rows.dtype
        self.is_initialized = True
        self._show(filled)

    @override
    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes behind what is there. ValueError where the slot is full, or for more than one sequence."""
        if key_states.shape[0] != 1:
            raise ValueError(f"a slot holds one sequence, not a batch of {key_states.shape[0]}")
        first, count = self.get_seq_length(), key_states.shape[-2]
        if first + count > self._rows.shape[0]:
            raise ValueError(f"the slot has room for {self._rows.shape[0]} tokens, not for {first + count}")
        for half, states in enumerate((key_states, value_states)):
            self._rows[first : first + count, half] = states[0].transpose(0, 1)
        self._show(first + count)
        return self.keys, self.values

    def _show(self, tokens: int) -> None:
        self.keys, self.values = (self._rows[:tokens, half].transpose(0, 1).unsqueeze(0) for half in (0, 1))


def _shape(config: Any, tokens: int) -> tuple[int, int, int, int, int]:
    """Of a slot, as the model's own configuration has it."""
    text = config.get_text_config(decoder=True)
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return tokens, text.num_hidden_layers, 2, heads, dim
