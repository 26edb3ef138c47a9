# SPDX-License-Identifier: Apache-2.0
"""The binding of the driver API: its contract on the software library, its layouts, its kernels."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

from contract import (
    check_cuda,
    check_cuda_binding,
    check_cuda_faults,
    check_cuda_host,
    check_cuda_kernels,
    check_cuda_sharing,
)
from mpsafe import cuda
from mpsafe.cuda._cuda import ffi
from mpsafe.errors import NoCudaDriver
from mpsafe.soft.host import LIBRARIES, SoftwareHost
from requires import requires, tool

TESTS = Path(__file__).parent
LIBCUDA = os.fspath(LIBRARIES / "libcuda.so.1")
CDEF = (TESTS.parent / "ffi" / "cuda.cdef.h").read_text()

CHECKS = {
    "check_cuda.py": [check.__name__ for check in check_cuda.CHECKS],
    "check_cuda_binding.py": [check.__name__ for check in check_cuda_binding.CHECKS],
    "check_cuda_faults.py": list(check_cuda_faults.FAULTS),
    "check_cuda_host.py": [check.__name__ for check in check_cuda_host.CHECKS],
    "check_cuda_kernels.py": [check.__name__ for check in check_cuda_kernels.CHECKS],
    "check_cuda_sharing.py": [check.__name__ for check in check_cuda_sharing.CHECKS],
}

Outcomes = Callable[[str], Mapping[str, str]]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcomes]:
    """By script: by name, what its checks found. Each script runs once, in a process of its own."""
    with SoftwareHost(tmp_path_factory.mktemp("host"), memory_bytes=1 << 30) as host:
        path = os.pathsep.join([host.environment["PYTHONPATH"], os.fspath(TESTS)])

        @cache
        def found(script: str) -> Mapping[str, str]:
            done = subprocess.run(
                [sys.executable, TESTS / "contract" / script, LIBCUDA],
                env={**host.environment, "PYTHONPATH": path},
                stdout=subprocess.PIPE,
                text=True,
                check=False,
            )
            return dict(line.split("\t", 1) for line in done.stdout.splitlines())

        yield found


@requires("soft")
@pytest.mark.parametrize(("script", "name"), [(script, name) for script, names in CHECKS.items() for name in names])
def test_contract(outcomes: Outcomes, script: str, name: str) -> None:
    assert outcomes(script).get(name) == "ok"


@requires("soft")
def test_every_declared_function_is_exported_and_nothing_else() -> None:
    declared = set(re.findall(r"^CUresult (cu\w+)\(", CDEF, re.MULTILINE))
    listed = subprocess.run([tool("nm"), "-D", "--defined-only", LIBCUDA], capture_output=True, text=True, check=True)
    assert {line.split()[-1] for line in listed.stdout.splitlines()} == declared


@requires("soft")
def test_the_library_is_found_by_argument_variable_and_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MPSAFE_LIBCUDA", LIBCUDA)
    assert cuda.load().path == LIBCUDA
    missing = os.fspath(tmp_path / "libcuda.so.1")
    with pytest.raises(NoCudaDriver, match=re.escape(missing)):
        cuda.load(missing)
    monkeypatch.setenv("MPSAFE_LIBCUDA", missing)
    assert cuda.load(LIBCUDA).version() >= 12000


@pytest.mark.parametrize(
    ("ctype", "nbytes", "offsets"),
    [
        ("CUuuid", 16, {}),
        ("CUmemLocation", 8, {"id": 4}),
        ("CUmemAccessDesc", 12, {"flags": 8}),
        (
            "CUmemAllocationProp",
            32,
            {"requestedHandleTypes": 4, "location": 8, "win32HandleMetaData": 16, "allocFlags": 24},
        ),
        ("CUdeviceptr", 8, {}),
        ("CUresult", 4, {}),
    ],
)
def test_layouts_are_those_of_cuda_h(ctype: str, nbytes: int, offsets: Mapping[str, int]) -> None:
    assert ffi.sizeof(ctype) == nbytes
    assert {field: ffi.offsetof(ctype, field) for field in offsets} == offsets


def test_the_kernels_are_those_that_are_described() -> None:
    entries = re.findall(r"^\.visible \.entry (\w+)", cuda.kernels(), re.MULTILINE)
    assert cuda.kernels.__doc__ is not None
    assert sorted(re.findall(r"(\w+)\(", cuda.kernels.__doc__.partition("\n")[2])) == sorted(entries)
    assert "illegal_instruction" not in entries and "illegal_instruction" in cuda.ILLEGAL_INSTRUCTION


@requires("ptxas")
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("text", ["kernels", "illegal_instruction"])
def test_nvidias_assembler_takes_the_kernels(tmp_path: Path, architecture: str, text: str) -> None:
    source = tmp_path / "kernels.ptx"
    source.write_text(cuda.kernels() if text == "kernels" else cuda.ILLEGAL_INSTRUCTION)
    command = [tool("ptxas"), f"-arch={architecture}", "-o", os.fspath(tmp_path / "kernels.cubin"), os.fspath(source)]
    subprocess.run(command, check=True)
