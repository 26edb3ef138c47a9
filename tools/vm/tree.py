# SPDX-License-Identifier: Apache-2.0
"""The work tree as the guest sees it: an archive in a nameless file, at /srv/mpsafe there."""

import os
import py_compile
import tarfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.util import source_hash
from pathlib import Path
from typing import Final

__all__ = ["REPOSITORY", "archive"]

REPOSITORY: Final = Path(__file__).parents[2]
FOLDERS: Final = ("daemon", "ffi", "systemd", "tests", "tools")
COMPILED: Final = REPOSITORY / "build" / "vm" / "compiled"


def archive(extra: Mapping[str, Path]) -> int:
    """A descriptor of the archive: the work tree, and what else is to be there, by path below it.

    Python is compiled here, because the guest is some twenty times slower.
    """
    with os.fdopen(os.memfd_create("mpsafe-tree"), "w+b") as file, tarfile.open(fileobj=file, mode="w") as tar:
        for path in _files():
            name = path.relative_to(REPOSITORY)
            tar.add(path, os.fspath(name))
            if path.suffix == ".py":
                tar.add(_compiled(path), f"{name.parent}/__pycache__/{path.stem}.cpython-311.pyc")
        for place, path in extra.items():
            tar.add(path, place)
        tar.close()
        return os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDONLY | os.O_CLOEXEC)


def _files() -> Iterable[Path]:
    for folder in FOLDERS:
        for path in sorted((REPOSITORY / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path
    yield REPOSITORY / "pyproject.toml"


def _compiled(path: Path) -> Path:
    cached = (COMPILED / path.relative_to(REPOSITORY)).with_suffix(".pyc")
    with suppress(FileNotFoundError):
        # PEP 552: a hash of the source is in bytes 8 to 16.
        if cached.read_bytes()[8:16] == source_hash(path.read_bytes()):
            return cached
    # By hash, because the archive keeps only whole seconds of the time of a source.
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(os.fspath(path), os.fspath(cached), doraise=True, invalidation_mode=mode)
    return cached
