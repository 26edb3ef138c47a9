# SPDX-License-Identifier: Apache-2.0
"""What `open_region` gives: a region, and the descriptors that are its memory."""

import contextlib
import os
from collections.abc import Sequence
from typing import Self

from mpsafe.client.calls import Opened
from mpsafe.errors import PeerMisbehaved
from mpsafe.model import Region

__all__ = ["OpenedRegion"]


class OpenedRegion:
    """Owns the descriptors, until they are closed with it. `layout` is a sealed memfd, None where there is none."""

    def __init__(self, region: Region, handles: list[int], layout: int | None) -> None:
        self.region = region
        self.handles = handles
        self.layout = layout

    @classmethod
    def of(cls, peer: str, reply: Opened, fds: Sequence[int]) -> Self:
        """Takes over the descriptors that came with a reply. PeerMisbehaved if they are not what it says."""
        places = reply.handles if reply.layout is None else [*reply.handles, reply.layout]
        sizes, expected = len(reply.region.sizes), 0 if reply.region.layout_bytes == 0 else 1
        whole = len(reply.handles) == sizes and len(places) == sizes + expected
        if not whole or sorted(places) != list(range(len(fds))):
            for fd in fds:
                os.close(fd)
            expected_text = f"{sizes} handles and {expected} layouts of region {reply.region.id}"
            raise PeerMisbehaved(peer, expected_text, f"{len(fds)} file descriptors at places {places}")
        layout = None if reply.layout is None else fds[reply.layout]
        return cls(reply.region, [fds[place] for place in reply.handles], layout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read_layout(self) -> bytes:
        """The layout's bytes; none where there is no layout."""
        return b"" if self.layout is None else os.pread(self.layout, self.region.layout_bytes, 0)

    def close(self) -> None:
        """Closes the descriptors."""
        for fd in [*self.handles, *([] if self.layout is None else [self.layout])]:
            with contextlib.suppress(OSError):
                os.close(fd)
        self.handles, self.layout = [], None
