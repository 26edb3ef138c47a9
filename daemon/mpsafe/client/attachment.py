# SPDX-License-Identifier: Apache-2.0
"""What `attach` gives: the status page, and a descriptor that becomes readable when it has changed."""

import os
import select
from typing import Self

from mpsafe.errors import PeerMisbehaved
from mpsafe.status import StatusPage

__all__ = ["Attachment"]


class Attachment:
    """Takes over both descriptors. Valid until the daemon ends: then attach again, the epoch is another."""

    def __init__(self, *, epoch: int, generation: int, page: int, wake: int) -> None:
        self.epoch = epoch
        self.generation = generation
        self._wake = wake
        try:
            self.page = StatusPage(page)
        except PeerMisbehaved:
            os.close(wake)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """Readable when the page has changed since `wait` was called last."""
        return self._wake

    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits until the page has changed; False if it has not within `timeout_s` seconds."""
        if not select.select([self._wake], [], [], timeout_s)[0]:
            return False
        os.eventfd_read(self._wake)
        return True

    def close(self) -> None:
        """Unmaps the page and closes the descriptor."""
        self.page.__exit__(None, None, None)
        os.close(self._wake)
