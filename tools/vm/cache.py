# SPDX-License-Identifier: Apache-2.0
"""What is made once and kept in build/vm: a file is there whole or not at all."""

import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from tools.vm.tree import REPOSITORY

__all__ = ["VM", "digest", "kept"]

VM: Final = REPOSITORY / "build" / "vm"


def digest(parts: Iterable[str | bytes | Path]) -> str:
    """A short name for contents: of texts as they are, of paths what is in the file."""
    whole = hashlib.sha256()
    for part in parts:
        content = part.read_bytes() if isinstance(part, Path) else part.encode() if isinstance(part, str) else part
        whole.update(hashlib.sha256(content).digest())
    return whole.hexdigest()[:16]


def kept(name: str, key: str, make: Callable[[Path], None]) -> Path:
    """The file or folder `name` of this key; `make` makes it at the path that it is given, and older ones go.

    One process makes it, others wait.
    """
    path = VM / f"{name}-{key}"
    VM.mkdir(parents=True, exist_ok=True)
    with (VM / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return path
        for old in VM.glob(f"{name}-*"):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        unfinished = VM / f"{name}-unfinished"
        make(unfinished)
        unfinished.rename(path)
    return path
