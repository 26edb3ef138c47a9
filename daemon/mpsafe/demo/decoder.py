# SPDX-License-Identifier: Apache-2.0
"""A small transformer that decodes bytes, greedily, with its weights and its cache wherever they are told to be.

Weights are random and always the same: what it says makes no sense, and every run says it alike. One token costs some
forty launches of mpsafe's own kernels; nothing is batched.
"""

import math
import random
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from mpsafe import cuda

__all__ = ["Decoder", "Shape"]

FLOAT: Final = 4
VOCABULARY: Final = 256
SEED: Final = 20261126


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a model: `dim` elements a token in `heads` heads, `tokens` at most. `pad_bytes` make it larger."""

    layers: int = 2
    dim: int = 32
    heads: int = 4
    hidden: int = 64
    tokens: int = 128
    pad_bytes: int = 0

    @property
    def token_bytes(self) -> int:
        """What one token takes in the cache: a key and a value in each layer."""
        return self.layers * 2 * self.dim * FLOAT

    @property
    def slot_bytes(self) -> int:
        """What one request takes in the cache."""
        return self.tokens * self.token_bytes

    def arrays(self) -> dict[str, int]:
        """The weights by name, in elements, in the order in which they lie."""
        found = {"embedding": VOCABULARY * self.dim, "position": self.tokens * self.dim}
        for layer in range(self.layers):
            each = {"norm": self.dim, "norm2": self.dim, "gate": self.hidden * self.dim, "up": self.hidden * self.dim}
            each |= dict.fromkeys(("query", "key", "value", "output"), self.dim * self.dim)
            each["down"] = self.dim * self.hidden
            found |= {f"{layer}.{name}": size for name, size in each.items()}
        return found | {"norm": self.dim, "unembedding": VOCABULARY * self.dim}

    @property
    def weight_bytes(self) -> int:
        """All weights."""
        return sum(self.arrays().values()) * FLOAT + self.pad_bytes

    def weights(self) -> Iterator[bytes]:
        """The real weights, in parts."""
        numbers = random.Random(SEED)
        for name, size in self.arrays().items():
            if "norm" in name:
                yield struct.pack(f"{size}f", *(1.0 for _ in range(size)))
            else:
                spread = 1.0 / math.sqrt(self.dim)
                yield struct.pack(f"{size}f", *(numbers.gauss(0, 1) * spread for _ in range(size)))


class Decoder:
    """One model on a device. `weights` lie there already; the keys and values of a request in a span of its own."""

    def __init__(self, context: cuda.Context, shape: Shape, weights: cuda.Span) -> None:
        self.shape = shape
        self._context = context
        self._module = cuda.Module(context, cuda.kernels())
        self._kernels = {
            name: self._module.kernel(name) for name in ("accumulate", "argmax", "attend", "gate", "matvec", "rms_norm")
        }
        self._at: dict[str, int] = {}
        address = weights.address
        for name, size in shape.arrays().items():
            self._at[name] = address
            address += size * FLOAT
        self._room = cuda.Buffer(context, (4 * shape.dim + 3 * shape.hidden + VOCABULARY + 1) * FLOAT)
        self._x, self._h, self._q, self._mixed = (self._room.address + i * shape.dim * FLOAT for i in range(4))
        hidden = self._room.address + 4 * shape.dim * FLOAT
        self._gate, self._up, self._gated = (hidden + i * shape.hidden * FLOAT for i in range(3))
        self._logits = hidden + 3 * shape.hidden * FLOAT
        self._next = self._logits + VOCABULARY * FLOAT

    def close(self) -> None:
        """Gives back the kernels and the room."""
        self._room.close()
        self._module.close()

    def step(self, token: int, place: int, cache: cuda.Span) -> int:
        """The token behind this one, which is the `place`th of its request; its key and value go into the cache."""
        shape, dim, hidden, at = self.shape, self.shape.dim, self.shape.hidden, self._at
        row = dim * FLOAT
        x = cuda.Span(self._context, self._x, row)
        x.copy_from(cuda.Span(self._context, at["embedding"] + token * row, row))
        self._run("accumulate", (self._x, at["position"] + place * row), (dim,), threads=dim)
        for layer in range(shape.layers):
            here = cache.address + layer * 2 * row
            new = here + place * shape.token_bytes
            self._run("rms_norm", (self._h, self._x, at[f"{layer}.norm"]), (dim,), threads=dim)
            for name, out in (("query", self._q), ("key", new), ("value", new + row)):
                self._matvec(out, at[f"{layer}.{name}"], self._h, dim, dim)
            self._attend(here, place + 1)
            self._matvec(self._h, at[f"{layer}.output"], self._mixed, dim, dim)
            self._run("accumulate", (self._x, self._h), (dim,), threads=dim)
            self._run("rms_norm", (self._h, self._x, at[f"{layer}.norm2"]), (dim,), threads=dim)
            self._matvec(self._gate, at[f"{layer}.gate"], self._h, hidden, dim)
            self._matvec(self._up, at[f"{layer}.up"], self._h, hidden, dim)
            self._run("gate", (self._gated, self._gate, self._up), (hidden,), threads=hidden)
            self._matvec(self._h, at[f"{layer}.down"], self._gated, dim, hidden)
            self._run("accumulate", (self._x, self._h), (dim,), threads=dim)
        self._run("rms_norm", (self._h, self._x, at["norm"]), (dim,), threads=dim)
        self._matvec(self._logits, at["unembedding"], self._h, VOCABULARY, dim)
        self._run("argmax", (self._next, self._logits), (VOCABULARY,), threads=1)
        return int.from_bytes(cuda.Span(self._context, self._next, FLOAT).read(), "little")

    def _attend(self, cache: int, tokens: int) -> None:
        dim, head = self.shape.dim, self.shape.dim // self.shape.heads
        sizes = (tokens, self.shape.token_bytes // FLOAT, dim, head)
        scale = cuda.F32(1 / math.sqrt(head))
        self._run("attend", (self._mixed, self._q, cache), sizes, scale, threads=dim)

    def _matvec(self, out: int, weights: int, vector: int, rows: int, columns: int) -> None:
        self._run("matvec", (out, weights, vector), (rows, columns), threads=rows)

    def _run(
        self, name: str, addresses: Sequence[int], sizes: Sequence[int], *more: cuda.Argument, threads: int
    ) -> None:
        arguments = (*map(cuda.U64, addresses), *map(cuda.U32, sizes), *more)
        self._kernels[name].launch(*arguments, threads=threads)
