# SPDX-License-Identifier: Apache-2.0
"""What `publish` and `open_content` give: a content of the store, and the descriptor of its sealed memfd."""

import mmap
import os
from typing import Self

from mpsafe.protocol.store import Content

__all__ = ["KeptContent"]


class KeptContent:
    """Owns the descriptor. The store keeps the content as long as the client's connection, and a grace time longer."""

    def __init__(self, content: Content, fd: int) -> None:
        self.content = content
        self._fd = fd

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """The memfd's descriptor."""
        return self._fd

    def map(self) -> mmap.mmap:
        """Its bytes, for reading, as long as that is open: all who map it have the same memory."""
        return mmap.mmap(self._fd, self.content.size_bytes, mmap.MAP_SHARED, mmap.PROT_READ)

    def close(self) -> None:
        """Closes the descriptor; what is mapped stays mapped."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
