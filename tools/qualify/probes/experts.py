# SPDX-License-Identifier: Apache-2.0
"""Offloaded experts: what capped models of real shapes cost, by policy."""

import json
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from typing import Final

from tools.qualify.probe import Answer, Probe
from tools.qualify.stage import Broken, NotRun, Stage

__all__ = ["EXPERTS"]

LIMIT_S: Final = 230.0


def offloaded(stage: Stage, answer: Answer, *, shape: str) -> None:
    """Runs tools/qualify/moe.py on the device; on the software GPU on the CPU, with a small shape."""
    if find_spec("transformers") is None:
        raise NotRun("no transformers in this Python")
    arguments = ("small", "cpu") if stage.target.software else (shape, "cuda:0")
    command = [sys.executable, "-m", "tools.qualify.moe", *arguments]
    with subprocess.Popen(command, env=stage.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            out, err = process.communicate(timeout=stage.bounded_s(LIMIT_S))
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
    answer.raw["stderr"] = err.decode(errors="replace").splitlines()[-20:]
    for line in out.splitlines():
        answer.measured |= json.loads(line)
    if process.returncode:
        raise Broken(f"{shape}: status {process.returncode} after {len(answer.measured)} arms")


def _probe(shape: str, words: str) -> Probe:
    question = f"What do tokens of {words} cost with their experts offloaded, by policy?"
    return Probe(f"experts_{shape}", question, partial(offloaded, shape=shape), limit_s=LIMIT_S + 10)


EXPERTS: Final = (
    _probe("olmoe", "an OLMoE-shaped model"),
    _probe("qwen3", "a model of a quarter of Qwen3-30B-A3B's layers"),
)
