# SPDX-License-Identifier: Apache-2.0
"""This test will hold each struct of the contract to one layout, on 32 and on 64 bits, without holes."""

import subprocess
from pathlib import Path
from typing import Final

import pytest

from core.library import compiled
from driver_patches.user.build import ROOT
from requires import requires

STRUCTS: Final = "record hello policy client client_mode stats answer inject".split()
REQUESTS: Final = {
    "HELLO": "hello", "POLICY_SET": "policy", "POLICY_GET": "policy", "CLIENT_NEXT": "client",
    "CLIENT_MODE": "client_mode", "STATS": "stats", "ANSWER": "answer", "INJECT": "inject",
}  # fmt: skip


def members(struct: str) -> list[tuple[str, int, int]]:
    """Name, offset and size of each field, as the 64-bit compiler has them."""
    ffi = compiled().ffi
    return [
        (name, field.offset, ffi.sizeof(field.type)) for name, field in ffi.typeof(f"struct mpsafe_{struct}").fields
    ]


def assertions() -> str:
    lines = ['#include "mpsafe_uapi.h"', "#define SAME(is, expected) _Static_assert((is) == (expected), #is)"]
    module = compiled()
    for struct in STRUCTS:
        whole = f"struct mpsafe_{struct}"
        lines.append(f"SAME(sizeof({whole}), {module.ffi.sizeof(whole)});")
        for name, offset, size in members(struct):
            lines.append(f"SAME(__builtin_offsetof({whole}, {name}), {offset});")
            lines.append(f"SAME(sizeof((({whole} *)0)->{name}), {size});")
    for name in (*REQUESTS, "HEARTBEAT"):
        lines.append(f"SAME(MPSAFE_IOC_{name}, {getattr(module.lib, f'MPSAFE_IOC_{name}')}u);")
    return "\n".join(lines) + "\n"


@requires("gcc")
@pytest.mark.parametrize("bits", [32, 64])
def test_one_layout(bits: int, tmp_path: Path) -> None:
    arch = subprocess.run(["gcc", "-print-multiarch"], capture_output=True, text=True, check=True).stdout.strip()
    source = tmp_path / "layout.c"
    source.write_text(assertions())
    command = ["gcc", f"-m{bits}", "-std=c11", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-Wpadded"]
    includes = [f"-I{ROOT / 'ffi'}", "-isystem", f"/usr/include/{arch}"]
    done = subprocess.run([*command, *includes, source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("struct", STRUCTS)
def test_no_holes(struct: str) -> None:
    end = 0
    for name, offset, size in members(struct):
        assert offset == end, name
        end += size
    assert end == compiled().ffi.sizeof(f"struct mpsafe_{struct}")
    assert end % 8 == 0


@pytest.mark.parametrize(("request_name", "struct"), REQUESTS.items())
def test_a_request_has_its_size_in_its_number(request_name: str, struct: str) -> None:
    module = compiled()
    number = getattr(module.lib, f"MPSAFE_IOC_{request_name}")
    assert number >> 16 & 0x3FFF == module.ffi.sizeof(f"struct mpsafe_{struct}")
    assert number >> 8 & 0xFF == 0xE7
