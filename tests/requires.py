# SPDX-License-Identifier: Apache-2.0
"""What a test needs of the machine. A missing need is a skip with all its reasons, never a silence.

MPSAFE_REQUIRE=tools,gpu,... insists: those needs are taken as met, so what is missing fails the test.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

__all__ = ["requires", "tool"]

_BIN = Path(sys.executable).parent


def tool(name: str) -> str:
    """The path of a program: of this environment first, then of the machine; its name where there is none."""
    return shutil.which(name, path=f"{_BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin") or name


def _has(name: str) -> bool:
    return os.sep in tool(name)


@cache
def _namespaces() -> bool:
    """Whether a mount namespace with an overlay can be made, tried and not guessed."""
    mounts = "mount -t cgroup2 c /mnt; mount -t tmpfs t /mnt; cd /mnt; mkdir u w r"
    script = f"set -e; {mounts}; mount -t overlay o -o lowerdir=/,upperdir=u,workdir=w r"
    command = ["unshare", "--mount", "--pid", "--fork", "--cgroup", "sh", "-c", script]
    return (
        os.geteuid() == 0
        and _has("unshare")
        and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )


def _software_gpu() -> bool:
    package = find_spec("mpsafe.soft")
    folders = package.submodule_search_locations if package else None
    return any(Path(folder, "lib", "libcuda.so.1").exists() for folder in folders or [])


def _fuzzer() -> bool:
    if not _has("clang"):
        return False
    asked = subprocess.run([tool("clang"), "--print-runtime-dir"], capture_output=True, text=True, check=False)
    return any(Path(asked.stdout.strip()).glob("libclang_rt.fuzzer*.a"))


_NEEDS: dict[str, tuple[Callable[[], bool], str]] = {
    "fuzzer": (_fuzzer, "no clang with libFuzzer: it comes with libclang-rt-dev"),
    "gpu": (Path("/dev/nvidia0").exists, "no /dev/nvidia0"),
    "minutes": (lambda: "MPSAFE_ALL" in os.environ, "takes minutes: make test-all"),
    "namespaces": (_namespaces, "no right to make mount namespaces with an overlay"),
    "ptxas": (lambda: _has("ptxas"), "no ptxas: it comes with the CUDA toolkit"),
    "root": (lambda: os.geteuid() == 0, "not root"),
    "soft": (_software_gpu, "the software GPU is not built: make .venv/ready"),
    "torch": (
        lambda: all(find_spec(name) for name in ("torch", "transformers", "safetensors")),
        "no torch, transformers and safetensors in this environment: tools/install/setup torch",
    ),
    "systemd": (Path("/usr/lib/systemd/systemd").exists, "no /usr/lib/systemd/systemd"),
}


def _group(need: str) -> str:
    return need if need in _NEEDS else "tools"


def _lacks(need: str) -> str | None:
    if need not in _NEEDS:
        return None if _has(need) else f"no {need}"
    have, why = _NEEDS[need]
    return None if have() else why


def requires(*needs: str) -> pytest.MarkDecorator:
    """Skip, with all reasons, where the machine lacks a need; insist on those in $MPSAFE_REQUIRE.

    A need that is not in the table above is a program; insisting on `tools` insists on all programs.
    """
    insisted = os.environ.get("MPSAFE_REQUIRE", "").split(",")
    reasons = [why for need in needs if not {need, _group(need)}.intersection(insisted) and (why := _lacks(need))]
    return pytest.mark.skipif(bool(reasons), reason="; ".join(reasons))
