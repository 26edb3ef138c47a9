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


def offloaded(stage: Stage, answer: Answer, *, shape: str) -> None:
    """Runs tools/qualify/moe.py on the device; on the software GPU on the CPU, with a small shape."""
    if find_spec("transformers") is None:
        raise NotRun("no transformers in this Python")
    arguments = ("small", "cpu") if stage.target.software else (shape, "cuda:0")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tools.qualify.moe", *arguments],
            env=stage.environment,
            capture_output=True,
            text=True,
            timeout=stage.bounded_s(230),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Broken(f"{shape} did not end within {error.timeout:g} s") from error
    answer.raw["stderr"] = done.stderr.splitlines()[-20:]
    if done.returncode:
        raise Broken(f"{shape}: status {done.returncode}")
    answer.measured = json.loads(done.stdout)
    answer.outcome["arms"] = len(answer.measured)


def _probe(shape: str, words: str) -> Probe:
    question = f"What do tokens of {words} cost with their experts offloaded, by policy?"
    return Probe(f"experts_{shape}", question, partial(offloaded, shape=shape), ("arms",), limit_s=240.0)


EXPERTS: Final = (_probe("olmoe", "an OLMoE-shaped model"), _probe("qwen3", "a model of half Qwen3-30B-A3B's layers"))
