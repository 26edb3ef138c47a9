# SPDX-License-Identifier: MIT OR GPL-2.0-only
"""Compiles the core for user space, into build/core: as a Python module, or into a C program. By hand: build.py."""

import contextlib
import hashlib
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from cffi import FFI

__all__ = ["MODULE", "ROOT", "SANITIZE", "SOURCES", "WARNINGS", "CompilerFailed", "extension", "includes", "program"]

ROOT: Final = Path(__file__).resolve().parents[2]
MODULE: Final = "_mpsafe_core"

_USER: Final = ROOT / "driver_patches" / "user"
_SRC: Final = ROOT / "driver_patches" / "src"
_CDEF: Final = _USER / "core.cdef.h"
_OUT: Final = ROOT / "build" / "core"

SOURCES: Final = (
    *(_SRC / f"mpsafe_{name}.c" for name in ("client", "core", "fault", "request", "ring")),
    _USER / "memory.c",
)
# The kernel declares before it states; -Wconversion finds a field that is too narrow.
WARNINGS: Final = tuple(
    "-std=gnu11 -Wall -Wextra -Werror -Wconversion -Wshadow -Wstrict-prototypes -Wmissing-prototypes "
    "-Wdeclaration-after-statement -Wvla -Wundef".split()
)
SANITIZE: Final = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")


class CompilerFailed(Exception):
    """The C compiler is missing or refused the sources; the text is its own."""


def includes() -> list[str]:
    """Where the core's headers are, as options of the compiler."""
    return [f"-I{folder}" for folder in (_SRC, _USER, ROOT / "ffi")]


def program(source: Path, flags: Sequence[str] = (), *, cc: str = "cc") -> Path:
    """The C program `source` with the core in it. The same content is compiled once. Errors: CompilerFailed."""
    command = [cc, *WARNINGS, "-O2", "-g", "-pthread", *flags, *includes()]
    inputs = [*map(str, SOURCES), str(source)]
    return _cached([source], command, source.stem, lambda out: [[*command, *inputs, "-o", str(out)]])


def extension(flags: Sequence[str] = (), *, cc: str = "cc") -> Path:
    """The core as a Python module in cffi's API mode, named MODULE. Errors: CompilerFailed."""
    ffi = FFI()
    ffi.cdef(_CDEF.read_text())
    ffi.set_source(MODULE, '#include "mpsafe_core.h"\n#include "memory.h"\n')
    base = [cc, "-O2", "-g", "-fPIC", "-pthread", *flags, *includes()]

    def commands(out: Path) -> list[list[str]]:
        glue = out.parent / f"{MODULE}.c"
        with contextlib.redirect_stdout(None):  # it tells what it writes
            ffi.emit_c_code(str(glue))
        objects = [str(out.parent / f"{source.stem}.o") for source in SOURCES]
        compiled = [
            [*base, *WARNINGS, "-c", str(source), "-o", target] for source, target in zip(SOURCES, objects, strict=True)
        ]
        # The glue is cffi's, and held to cffi's warnings.
        python = f"-I{sysconfig.get_path('include')}"
        return [*compiled, [*base, python, "-shared", str(glue), *objects, "-o", str(out)]]

    return _cached([_CDEF], base, f"{MODULE}.so", commands)


def _cached(
    sources: Sequence[Path], command: Sequence[str], name: str, commands: Callable[[Path], list[list[str]]]
) -> Path:
    hashed = hashlib.sha256(repr([*command, sysconfig.get_python_version()]).encode())
    headers = [*_SRC.glob("mpsafe_core*.h"), _SRC / "mpsafe_os.h", _USER / "memory.h", ROOT / "ffi" / "mpsafe_uapi.h"]
    for path in [*SOURCES, *sorted(headers), *sources]:
        hashed.update(path.read_bytes())
    done = _OUT / hashed.hexdigest()[:16] / name
    if not done.exists():
        _OUT.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_OUT) as folder:
            made = Path(folder) / name
            for each in commands(made):
                _run(each)
            # Others may be at it, too: whoever is last wins, and all made the same.
            done.parent.mkdir(exist_ok=True)
            made.replace(done)
    return done


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CompilerFailed(f"{command[0]}: {error.strerror}") from error
    if done.returncode != 0:
        raise CompilerFailed(done.stderr)


if __name__ == "__main__":
    print(extension())
