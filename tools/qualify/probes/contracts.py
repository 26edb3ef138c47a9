# SPDX-License-Identifier: Apache-2.0
"""The contract suites of the tests, which the software GPU passes too."""

import os
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from tools.qualify.probe import Answer, Probe
from tools.qualify.stage import ROOT, Broken, NotRun, Stage

__all__ = ["CONTRACTS"]


def contract(stage: Stage, answer: Answer, *, suite: str, needs: str) -> None:
    """Runs tests/contract/<suite>.py: a line a check, name, a tab, "ok" or what was wrong."""
    if find_spec(needs) is None:
        raise NotRun(f"no {needs} in this Python")
    _run(stage, answer, suite, ROOT / "tests" / "contract" / f"{suite}.py")


def contract_driver(stage: Stage, answer: Answer) -> None:
    """Runs the suite of /dev/mpsafe against what is loaded."""
    if not Path("/dev/mpsafe").exists():
        raise NotRun("no /dev/mpsafe: neither the patched nvidia-uvm nor the stand-alone module is loaded")
    if os.geteuid() != 0:
        raise NotRun("only root may open /dev/mpsafe")
    _run(stage, answer, "check_driver", "-m", "contract.check_driver")


def _run(stage: Stage, answer: Answer, suite: str, *program: str | Path) -> None:
    paths = os.pathsep.join([stage.environment["PYTHONPATH"], os.fspath(ROOT / "tests")])
    try:
        done = subprocess.run(
            [sys.executable, *program],
            env={**stage.environment, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            timeout=stage.bounded_s(140),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Broken(f"{suite} did not end within {error.timeout:g} s") from error
    answer.outcome = dict(line.split("\t", 1) for line in done.stdout.splitlines() if "\t" in line)
    answer.raw["stderr"] = done.stderr.splitlines()[-20:]
    answer.expect(bool(answer.outcome), f"{suite} ran: status {done.returncode}")
    for name, result in answer.outcome.items():
        answer.expect(result == "ok", f"{name}: {result}")


def _probe(name: str, subject: str, *, suite: str, needs: str) -> Probe:
    question = f"Does the real {subject} keep the contract that the software one is held to?"
    return Probe(name, question, partial(contract, suite=suite, needs=needs))


CONTRACTS: Final = (
    _probe("contract_nvml", "NVML", suite="check_nvml", needs="pynvml"),
    _probe("contract_cuda", "libcuda", suite="check_cuda", needs="cffi"),
    _probe("contract_cuda_host", "libcuda, with memory of the host,", suite="check_cuda_host", needs="cffi"),
    _probe("contract_cuda_kernels", "libcuda, with mpsafe's own kernels,", suite="check_cuda_kernels", needs="cffi"),
    _probe("contract_cuda_sharing", "libcuda, between processes,", suite="check_cuda_sharing", needs="cffi"),
    _probe("contract_cuda_faults", "libcuda, when kernels fault,", suite="check_cuda_faults", needs="cffi"),
    Probe(
        "contract_link",
        "Do experts go from sealed host memory to the device, in the order that they have to?",
        partial(contract, suite="check_link", needs="transformers"),
    ),
    Probe(
        "contract_tensors",
        "Do processes use the weights and caches of Transformers models in the vault, equal to the bit?",
        partial(contract, suite="check_tensors", needs="transformers"),
        limit_s=150.0,
    ),
    Probe("contract_driver", "Does /dev/mpsafe keep the contract that the software driver keeps?", contract_driver),
)
