# SPDX-License-Identifier: Apache-2.0
"""This test will have the small decoder say what a transformer in plain Python says, on the software GPU."""

import os
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from contract import check_decoder
from mpsafe.demo.decoder import Shape
from mpsafe.soft.host import LIBRARIES, SoftwareHost
from requires import requires

TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """By name, what the checks found, in a process of their own."""
    with SoftwareHost(tmp_path_factory.mktemp("host"), memory_bytes=1 << 30) as host:
        path = os.pathsep.join([host.environment["PYTHONPATH"], os.fspath(TESTS)])
        done = subprocess.run(
            [sys.executable, TESTS / "contract" / "check_decoder.py", LIBRARIES / "libcuda.so.1"],
            env={**host.environment, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        yield dict(line.split("\t", 1) for line in done.stdout.splitlines())


@requires("soft")
@pytest.mark.parametrize("name", [check.__name__ for check in check_decoder.CHECKS])
def test_contract(outcomes: Mapping[str, str], name: str) -> None:
    assert outcomes.get(name) == "ok"


def test_weights_are_as_many_as_the_shape_says_and_always_the_same() -> None:
    shape = Shape(layers=1, dim=8, heads=2, hidden=16, tokens=4)
    weights = b"".join(shape.weights())
    assert len(weights) == shape.weight_bytes
    assert weights == b"".join(shape.weights())
    assert Shape(pad_bytes=100).weight_bytes == Shape().weight_bytes + 100
    norms = struct.unpack_from("8f", weights, 4 * (256 * 8 + 4 * 8))
    assert norms == (1.0,) * 8


def test_a_token_takes_a_key_and_a_value_in_each_layer() -> None:
    assert Shape(layers=3, dim=16, tokens=10).token_bytes == 3 * 2 * 16 * 4
    assert Shape(layers=3, dim=16, tokens=10).slot_bytes == 10 * 3 * 2 * 16 * 4
