# SPDX-License-Identifier: Apache-2.0
"""Gives out the cells of the devices' link pages, and takes them back. Layout and meaning: mpsafe/link.py."""

import fcntl
import mmap
import os
import struct
from typing import Final

from mpsafe.errors import BadRequest
from mpsafe.link import CELL_BYTES, CELLS, HEADER, HEADER_BYTES, MAGIC, PAGE_BYTES, VERSION
from mpsafe.model import Identity

__all__ = ["Links"]

_CELL: Final = struct.Struct("<QQQQQQ16x")
# Its size stays what everybody has mapped; what is in it they write.
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Links:
    """A page for each device on which somebody has a cell, and none for the others."""

    def __init__(self, bytes_per_s: int) -> None:
        self._bytes_per_s = bytes_per_s
        self._pages: dict[str, _Page] = {}

    def close(self) -> None:
        """Closes all pages; who has one mapped keeps it."""
        for page in self._pages.values():
            page.close()
        self._pages.clear()

    def take(self, device: str, process: Identity, weight: int) -> tuple[int, int]:
        """The page's descriptor, which stays ours, and a free cell of it. BadRequest where there is none."""
        page = self._pages.get(device)
        if page is None:
            page = self._pages[device] = _Page(self._bytes_per_s)
        cell = next((cell for cell in range(CELLS) if cell not in page.taken), None)
        if cell is None:
            raise BadRequest("device", f"at most {CELLS} cells of one device", "one more")
        page.taken.add(cell)
        page.write(cell, _CELL.pack(process.pid, process.start_ticks, 0, 0, 0, weight))
        return page.fd, cell

    def fd_of(self, device: str) -> int:
        """The descriptor of a page that somebody has a cell of."""
        return self._pages[device].fd

    def give_back(self, device: str, cell: int) -> None:
        """The cell is free, and zero."""
        page = self._pages[device]
        page.write(cell, bytes(CELL_BYTES))
        page.taken.remove(cell)
        if not page.taken:
            self._pages.pop(device).close()


class _Page:
    """One device's."""

    def __init__(self, bytes_per_s: int) -> None:
        self.fd = os.memfd_create("mpsafe-link", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, PAGE_BYTES)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)
        self._map = mmap.mmap(self.fd, PAGE_BYTES)
        header = HEADER.pack(MAGIC, VERSION, CELL_BYTES, CELLS, 0, bytes_per_s)
        self._map[: len(header)] = header
        self.taken: set[int] = set()

    def write(self, cell: int, data: bytes) -> None:
        """The whole cell."""
        at = HEADER_BYTES + cell * CELL_BYTES
        self._map[at : at + CELL_BYTES] = data

    def close(self) -> None:
        """Unmaps and closes it."""
        self._map.close()
        os.close(self.fd)
