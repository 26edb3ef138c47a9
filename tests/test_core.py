# SPDX-License-Identifier: Apache-2.0
"""This test will walk the core beside its model, plainly and sanitized, fuzz its requests and race its threads.

MPSAFE_CORE_EXAMPLES, MPSAFE_CORE_FUZZ_SECONDS and MPSAFE_CORE_THREADS_MS say how much; a long run sets them higher.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from core.library import SANITIZED
from core.machine import CoreMachine
from driver_patches.user.build import ROOT, SANITIZE, SOURCES, WARNINGS, includes, program
from requires import requires

CORE = Path(__file__).parent / "core"


def amount(name: str, usual: int) -> int:
    return int(os.environ.get(name, str(usual)))


def runtime(name: str) -> str:
    asked = subprocess.run(["cc", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    return asked.stdout.strip()


def run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_core_is_its_model() -> None:
    walk = settings(max_examples=amount("MPSAFE_CORE_EXAMPLES", 200), stateful_step_count=60, deadline=None)
    run_state_machine_as_test(CoreMachine, settings=walk)


@pytest.mark.parametrize("cc", [pytest.param(name, marks=requires(name)) for name in ("gcc", "clang")])
def test_no_warning(cc: str) -> None:
    run(cc, *WARNINGS, "-O2", "-fsyntax-only", *includes(), *SOURCES)


@requires("cc")
def test_the_same_under_the_sanitizers() -> None:
    assert not SANITIZED
    names = ("test_core.py::test_the_core_is_its_model", "test_core_cases.py")
    # Python's own memory is nobody's concern here; the core counts what it has not freed.
    printed = run(
        *(sys.executable, "-m", "pytest", "-n0", "-q", "-p", "no:cacheprovider"),
        *(f"tests/{name}" for name in names),
        MPSAFE_CORE_SANITIZE="1",
        MPSAFE_CORE_EXAMPLES=str(amount("MPSAFE_CORE_EXAMPLES", 200) // 2),
        LD_PRELOAD=runtime("libasan.so"),
        ASAN_OPTIONS="detect_leaks=0",
    )
    assert re.search(r"[1-9]\d* passed", printed)


@requires("fuzzer")
def test_fuzzed_requests() -> None:
    fuzz = program(CORE / "fuzz_request.c", [*SANITIZE, "-fsanitize=fuzzer"], cc="clang")
    limit = f"-max_total_time={amount('MPSAFE_CORE_FUZZ_SECONDS', 5)}"
    printed = run(fuzz, limit, "-max_len=4096", "-timeout=60", "-print_final_stats=1", "-artifact_prefix=build/core/")
    executed = re.search(r"number_of_executed_units: (\d+)", printed)
    assert executed
    assert int(executed[1]) > 0


@requires("cc")
def test_threads() -> None:
    threads = program(CORE / "threads.c", ["-fsanitize=thread"])
    printed = run(threads, str(amount("MPSAFE_CORE_THREADS_MS", 4000)), TSAN_OPTIONS="halt_on_error=1")
    counts = dict(re.findall(r"(\w+) (\d+)", printed))
    assert all(int(counts[name]) > 0 for name in ("absorbed", "passed", "records", "read", "killed", "refused")), (
        printed
    )
