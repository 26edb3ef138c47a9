# SPDX-License-Identifier: Apache-2.0
"""What the small decoder says, against the same transformer in plain Python, on any libcuda.so.1.

python check_decoder.py [LIBRARY]      prints one line a check: name, a tab, "ok" or what was wrong
"""

import math
import struct
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from typing import Final

from contract.check_cuda import Rig, outcomes
from mpsafe import cuda
from mpsafe.demo.decoder import Decoder, Shape

__all__ = ["CHECKS"]

SHAPE: Final = Shape(layers=2, dim=8, heads=2, hidden=16, tokens=24)
PROMPT: Final = b"fox"
# Where the best two are as close as this, a device may round either way.
TIE: Final = 1e-4


class Plain:
    """The transformer, one token after the other, in Python's own floats."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        numbers = iter(struct.unpack(f"{sum(shape.arrays().values())}f", b"".join(shape.weights())))
        self.arrays = {name: [next(numbers) for _ in range(size)] for name, size in shape.arrays().items()}
        self.cache: list[list[tuple[list[float], list[float]]]] = [[] for _ in range(shape.layers)]

    def step(self, token: int, place: int) -> list[float]:
        """The logits behind this token."""
        dim, arrays = self.shape.dim, self.arrays
        x = [arrays["embedding"][token * dim + i] + arrays["position"][place * dim + i] for i in range(dim)]
        for layer, cache in enumerate(self.cache):
            h = _normed(x, arrays[f"{layer}.norm"])
            query, key, value = (_times(arrays[f"{layer}.{name}"], h) for name in ("query", "key", "value"))
            cache.append((key, value))
            x = _sum(x, _times(arrays[f"{layer}.output"], self._mixed(query, cache)))
            h = _normed(x, arrays[f"{layer}.norm2"])
            gate, up = (_times(arrays[f"{layer}.{name}"], h) for name in ("gate", "up"))
            gated = [a / (1 + math.exp(-a)) * b for a, b in zip(gate, up, strict=True)]
            x = _sum(x, _times(arrays[f"{layer}.down"], gated))
        return _times(arrays["unembedding"], _normed(x, arrays["norm"]))

    def _mixed(self, query: Sequence[float], cache: Sequence[tuple[list[float], list[float]]]) -> list[float]:
        size = self.shape.dim // self.shape.heads
        mixed: list[float] = []
        for first in range(0, self.shape.dim, size):
            head = range(first, first + size)
            scores = [sum(query[i] * key[i] for i in head) / math.sqrt(size) for key, _ in cache]
            weights = [math.exp(score - max(scores)) for score in scores]
            total = sum(weights)
            mixed += [sum(w * value[i] for w, (_, value) in zip(weights, cache, strict=True)) / total for i in head]
        return mixed


def _sum(a: Sequence[float], b: Sequence[float]) -> list[float]:
    return [x + y for x, y in zip(a, b, strict=True)]


def _times(matrix: Sequence[float], vector: Sequence[float]) -> list[float]:
    columns = len(vector)
    rows = range(0, len(matrix), columns)
    return [sum(matrix[row + i] * x for i, x in enumerate(vector)) for row in rows]


def _normed(x: Sequence[float], weight: Sequence[float]) -> list[float]:
    root = math.sqrt(sum(value * value for value in x) / len(x) + 1e-5)
    return [value / root * w for value, w in zip(x, weight, strict=True)]


class _Loaded:
    """A decoder with its weights in a buffer, and room for two requests."""

    def __init__(self, rig: Rig, stack: ExitStack, shape: Shape = SHAPE) -> None:
        weights = stack.enter_context(cuda.Buffer(rig.context, shape.weight_bytes))
        weights.write(b"".join(shape.weights()))
        self.decoder = stack.enter_context(closing(Decoder(rig.context, shape, weights)))
        self.caches = [stack.enter_context(cuda.Buffer(rig.context, shape.slot_bytes)) for _ in range(2)]

    def say(self, cache: cuda.Span, said: bytes, upto: int, *, known: int = 0) -> bytes:
        """Goes on from `said`, of which the cache holds the first `known`, until that many bytes are there."""
        while len(said) < upto:
            token = 0
            for place in range(known, len(said)):
                token = self.decoder.step(said[place], place, cache)
            known = len(said)
            said += bytes([token])
        return said


def says_what_plain_python_says(rig: Rig) -> None:
    plain = Plain(SHAPE)
    with ExitStack() as stack:
        loaded = _Loaded(rig, stack)
        said, certain = PROMPT, 0
        for place in range(SHAPE.tokens):
            logits = plain.step(said[place], place)
            found = loaded.decoder.step(said[place], place, loaded.caches[0])
            best = sorted(logits)[-2:]
            assert logits[found] > best[1] - TIE, (place, found, logits.index(best[1]))
            certain += best[1] - best[0] > TIE
            if place + 1 >= len(said):
                said += bytes([found])
    assert certain > SHAPE.tokens // 2
    assert len({*said}) > 3


def requests_side_by_side_say_what_they_say_alone(rig: Rig) -> None:
    with ExitStack() as stack:
        loaded = _Loaded(rig, stack)
        alone = [loaded.say(loaded.caches[0], prompt, SHAPE.tokens) for prompt in (PROMPT, b"quick")]
        assert alone[0] != alone[1]
        both = [PROMPT, b"quick"]
        known = [0, 0]
        for upto in range(6, SHAPE.tokens + 1):
            for i in range(2):
                both[i] = loaded.say(loaded.caches[i], both[i], upto, known=known[i])
                known[i] = upto - 1
        assert both == alone


def a_copied_cache_goes_on_where_it_was(rig: Rig) -> None:
    with ExitStack() as stack:
        loaded = _Loaded(rig, stack)
        first, second = loaded.caches
        half = loaded.say(first, PROMPT, SHAPE.tokens // 2)
        second.copy_from(first)
        whole = loaded.say(first, half, SHAPE.tokens, known=len(half) - 1)
        first.write(bytes(first.nbytes))
        assert loaded.say(second, half, SHAPE.tokens, known=len(half) - 1) == whole


CHECKS: Final[tuple[Callable[[Rig], None], ...]] = (
    says_what_plain_python_says,
    requests_side_by_side_say_what_they_say_alone,
    a_copied_cache_goes_on_where_it_was,
)


def main() -> int:
    """Checks the library given, or the one that `cuda.load` finds; 1 if anything is wrong."""
    found = outcomes(cuda.load(*sys.argv[1:2]), CHECKS)
    for name, outcome in found.items():
        sys.stdout.write(f"{name}\t{outcome}\n")
    return 0 if set(found.values()) == {"ok"} else 1


if __name__ == "__main__":
    raise SystemExit(main())
