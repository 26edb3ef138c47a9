# SPDX-License-Identifier: Apache-2.0
"""What the kernels of the vault and of the small decoder compute, against plain Python, on any libcuda.so.1.

python check_cuda_kernels.py [LIBRARY]      prints one line a check: name, a tab, "ok" or what was wrong
"""

import math
import struct
import sys
from collections.abc import Callable
from typing import Final

from contract.check_cuda import Rig, floats, outcomes
from mpsafe import cuda

__all__ = ["CHECKS"]


def checksum_is_the_sum_that_it_says(rig: Rig) -> None:
    words = [7, 0, 0xFFFFFFFF, *range(100)]
    rig.a.write(struct.pack(f"{len(words)}I", *words))
    for threads, start in ((1, 0), (64, 0), (200, 12345)):
        rig.b.write(struct.pack("Q", 5))
        arguments = (cuda.U64(rig.a.address), cuda.U64(len(words)), cuda.U64(start), cuda.U64(rig.b.address))
        rig.module.kernel("checksum").launch(*arguments, threads=threads, block=32)
        mixed = [(word + 1) * (start + i + 1) * 0x9E3779B97F4A7C15 % 2**64 for i, word in enumerate(words)]
        expected = (5 + sum(x ^ x >> 32 for x in mixed)) % 2**64
        assert struct.unpack("Q", rig.b.read(8)) == (expected,)


def decoder_kernels_are_what_they_say(rig: Rig) -> None:
    def near(found: bytes, *expected: float) -> None:
        values = struct.unpack(f"{len(expected)}f", found)
        assert all(math.isclose(x, y, rel_tol=1e-5, abs_tol=1e-6) for x, y in zip(values, expected, strict=True))

    def run(name: str, *arguments: cuda.Argument, n: int) -> None:
        rig.module.kernel(name).launch(cuda.U64(rig.b.address), *arguments, threads=n)

    a, b = [0.5, -2.0, 3.0, 0.25], [1.0, 2.0, -1.0, 4.0]
    rig.a.write(floats(*a, *b))
    first, second = cuda.U64(rig.a.address), cuda.U64(rig.a.address + 16)
    rig.b.write(floats(*b))
    run("accumulate", first, cuda.U32(4), n=4)
    near(rig.b.read(16), *(x + y for x, y in zip(a, b, strict=True)))
    root = math.sqrt(sum(x * x for x in a) / 4 + 1e-5)
    run("rms_norm", first, second, cuda.U32(4), n=4)
    near(rig.b.read(16), *(x / root * y for x, y in zip(a, b, strict=True)))
    run("gate", first, second, cuda.U32(4), n=4)
    near(rig.b.read(16), *(x / (1 + math.exp(-x)) * y for x, y in zip(a, b, strict=True)))
    run("argmax", first, cuda.U32(8), n=1)
    assert rig.b.read(4) == struct.pack("I", 7)
    # Two heads of two elements, three tokens, a stride of 12 elements of which 8 are this layer's.
    cache = [float((7 * i) % 11 - 5) / 4 for i in range(3 * 12)]
    rig.a.write(floats(*cache), offset=64)
    shape = (cuda.U32(3), cuda.U32(12), cuda.U32(4), cuda.U32(2), cuda.F32(0.5))
    run("attend", first, cuda.U64(rig.a.address + 64), *shape, n=4)
    expected: list[float] = []
    for i in range(4):
        h = i // 2 * 2
        scores = [0.5 * sum(a[h + c] * cache[12 * j + h + c] for c in range(2)) for j in range(3)]
        weights = [math.exp(x - max(scores)) for x in scores]
        expected.append(sum(w * cache[12 * j + 4 + i] for j, w in enumerate(weights)) / sum(weights))
    near(rig.b.read(16), *expected)


CHECKS: Final[tuple[Callable[[Rig], None], ...]] = (
    checksum_is_the_sum_that_it_says,
    decoder_kernels_are_what_they_say,
)


def main() -> int:
    """Checks the library given, or the one that `cuda.load` finds; 1 if anything is wrong."""
    found = outcomes(cuda.load(*sys.argv[1:2]), CHECKS)
    for name, outcome in found.items():
        sys.stdout.write(f"{name}\t{outcome}\n")
    return 0 if set(found.values()) == {"ok"} else 1


if __name__ == "__main__":
    raise SystemExit(main())
