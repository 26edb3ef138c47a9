# SPDX-License-Identifier: Apache-2.0
"""Compiles the software GPU's libraries. setup.py calls `build`; by hand: build.py DIRECTORY."""

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

_HERE: Final = Path(__file__).resolve().parent

_FLAGS: Final = "-std=c11 -O2 -fPIC -shared -fvisibility=hidden -pthread -Wall -Wextra -Werror".split()
# A library whose threads may still run is never unloaded: -z nodelete.
_LINK: Final = ["-Wl,-z,defs", "-Wl,-z,nodelete", "-lm"]

_CUDA: Final = [
    "allocation.c",
    "context.c",
    "copy.c",
    "decoder.c",
    "device.c",
    "errors.c",
    "event.c",
    "init.c",
    "kernels.c",
    "memory.c",
    "module.c",
    "mps.c",
    "object.c",
    "packet.c",
    "ptx.c",
    "queue.c",
    "ranges.c",
    "register.c",
    "rm.c",
    "space.c",
    "stream.c",
    "symbols.c",
    "thread.c",
    "vmm.c",
    "warp.c",
]


class CompilerFailed(Exception):
    """The C compiler is missing or refused the sources; the text is its own."""


def build(out: Path, cc: str = "cc") -> None:
    """Compile libcuda.so.1 and, where its source is there, libnvidia-ml.so.1 into the directory `out`.

    `cc` is a command, options allowed. CompilerFailed with what the compiler said.
    """
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    _compile(out / "libcuda.so.1", _CUDA, cc)
    nvml = sorted(path.name for path in _HERE.glob("nvml*.c"))
    if nvml:
        _compile(out / "libnvidia-ml.so.1", nvml, cc)


def _compile(library: Path, sources: list[str], cc: str) -> None:
    command = [*shlex.split(cc), *_FLAGS, f"-Wl,-soname,{library.name}", "-o", str(library), *sources, *_LINK]
    try:
        done = subprocess.run(command, cwd=_HERE, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CompilerFailed(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        raise CompilerFailed(done.stderr.strip())


if __name__ == "__main__":
    build(Path(sys.argv[1]))
