# SPDX-License-Identifier: Apache-2.0
"""A checksum that the device computes: what comes back from it is eight bytes, whatever the size.

It is a sum over the 32-bit words, each mixed with its place (kernels.ptx, `checksum`), so what is appended is
added. It tells damage and mix-ups, not malice.
"""

import struct
from collections.abc import Sequence
from typing import Final

from mpsafe import cuda

__all__ = ["WORD_BYTES", "Checksum"]

WORD_BYTES: Final = 4
THREADS: Final = 1 << 16
SUM: Final = struct.Struct("<Q")
MASK: Final = (1 << 64) - 1


class Checksum:
    """The kernel, and room for `most` sums at once, in one context."""

    def __init__(self, context: cuda.Context, *, most: int = 64) -> None:
        self._context = context
        self._module = cuda.Module(context, cuda.kernels())
        self._kernel = self._module.kernel("checksum")
        self._sums = cuda.Buffer(context, most * SUM.size)
        self._most = most

    def close(self) -> None:
        """Gives back the kernel and the room."""
        self._sums.close()
        self._module.close()

    def of(self, span: cuda.Span, nbytes: int | None = None) -> int:
        """Of the first bytes of a span, all of them unless told how many; a multiple of WORD_BYTES."""
        return self.each([(span, 0, span.nbytes if nbytes is None else nbytes)])[0]

    def each(self, ranges: Sequence[tuple[cuda.Span, int, int]]) -> list[int]:
        """Of ranges (span, first byte, end): what each adds to the sum of what is before it in its span."""
        found: list[int] = []
        for first in range(0, len(ranges), self._most):
            found += self._some(ranges[first : first + self._most])
        return found

    def _some(self, ranges: Sequence[tuple[cuda.Span, int, int]]) -> list[int]:
        self._sums.fill(0)
        for place, (span, start, end) in enumerate(ranges):
            if start % WORD_BYTES or end % WORD_BYTES or not 0 <= start <= end <= span.nbytes:
                raise ValueError(f"bytes {start} to {end} of {span.nbytes} are no whole words of {WORD_BYTES} bytes")
            words = (end - start) // WORD_BYTES
            if words:
                self._kernel.launch(
                    cuda.U64(span.address + start),
                    cuda.U64(words),
                    cuda.U64(start // WORD_BYTES),
                    cuda.U64(self._sums.address + place * SUM.size),
                    threads=min(words, THREADS),
                )
        data = self._sums.read(len(ranges) * SUM.size)
        return [total for (total,) in SUM.iter_unpack(data)]
