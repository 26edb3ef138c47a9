# SPDX-License-Identifier: Apache-2.0
"""Documents to train and measure on: code and prose that Python and installed packages bring along.

A document is a file, or one page of Python's manual (pydoc_data). Which documents are held out is decided before
anything is trained, by the hash of the name: two machines with the same packages split them alike.
"""

import hashlib
import importlib.util
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Document", "documents", "held_out"]

PACKAGES: Final = ("numpy", "transformers", "torch", "click", "rich", "psutil", "hypothesis")
CHARACTERS: Final = (400, 200_000)
HELD_OUT: Final = 5  # one document in that many
LEFT_OUT: Final = ("test", "tests", "site-packages", "__pycache__", "idlelib", "lib2to3", "turtledemo")
PER_PACKAGE: Final = 150


@dataclass(frozen=True, slots=True)
class Document:
    """`name`: where it is from, without the machine's own paths."""

    name: str
    text: str


def documents() -> list[Document]:
    """All of them, in the order of the hashes of their names."""
    found = [*_manual(), *_files("python", Path(sysconfig.get_path("stdlib")))]
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            found += _files(package, Path(spec.origin).parent)
    return sorted(found, key=lambda one: _hash(one.name))


def held_out(document: Document) -> bool:
    """Whether nothing may be trained on it."""
    return _hash(document.name) % HELD_OUT == 0


def _manual() -> Iterator[Document]:
    from pydoc_data.topics import topics

    for name, text in topics.items():
        if CHARACTERS[0] <= len(text) <= CHARACTERS[1]:
            yield Document(f"manual/{name}", text)


def _files(package: str, root: Path) -> list[Document]:
    paths = [path for path in root.rglob("*.py") if not set(path.relative_to(root).parts[:-1]) & set(LEFT_OUT)]
    named = sorted(((f"{package}/{path.relative_to(root)}", path) for path in paths), key=lambda one: _hash(one[0]))
    found: list[Document] = []
    for name, path in named:
        text = path.read_text(encoding="utf-8", errors="replace")
        if CHARACTERS[0] <= len(text) <= CHARACTERS[1]:
            found.append(Document(name, text))
        if len(found) == PER_PACKAGE:
            break
    return found


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
