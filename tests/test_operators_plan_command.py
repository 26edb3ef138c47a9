# SPDX-License-Identifier: Apache-2.0
"""This test will run `mpsafe operators plan`: what it prints, and how it says that a promise cannot be kept."""

import json
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from mpsafe.cli import cli
from mpsafe.errors import BadDemand, ExtraMissing
from operator_profiles import PROFILES

BASE = ("--model", "qwen2-7b", "--profile", str(PROFILES / "aiconfigurator" / "h200_sxm"))
LENGTHS = ("--prompt-tokens", "1243", "--output-tokens", "217")


def run(*arguments: str, slo: str = "ttft_ms=1000,tbt_ms=100") -> Result:
    command = ["operators", "plan", *BASE, "--slo", slo, *arguments]
    return CliRunner().invoke(cli, command, standalone_mode=False)


def test_a_plan_in_words_and_in_json() -> None:
    told = run("--rate", "20", *LENGTHS)
    assert told.return_value == 0 and "20 requests a second on 1 GPUs, 0 % above the bound" in told.output
    found = json.loads(run("--rate", "20", *LENGTHS, "--json").output)
    assert (found["shape"], found["gpus"], found["gap_percent"], found["binding"]) == ("mpsafe.plan/1", 1, 0, "")
    assert found["ttft_ms"]["p99"] <= 1000 and found["tbt_ms"]["p99"] <= 100
    assert {one["gpu"] for one in found["placement"]} == {0}
    assert found["watts_range"][0] < found["watts_range"][1] < found["watts"]
    assert any("stands for" in note for note in found["notes"])


def test_what_is_modelled_is_said() -> None:
    for rate in ("20", "90", "300"):
        found = json.loads(run("--rate", rate, *LENGTHS, "--json").output)
        shares = any(pool["share"] < 1 for pool in found["pools"])
        assert any("shares of SMs: modelled" in note for note in found["notes"]) == shares
        assert any("watts: modelled" in note for note in found["notes"])


def test_the_highest_rate_on_some_devices() -> None:
    found = json.loads(run("--devices", "2", "--granularity", "pd", *LENGTHS, "--json").output)
    assert found["gpus"] == 2 and found["rate_per_s"] > 20 and not found["binding"]


def test_a_promise_that_cannot_be_kept_is_exit_status_1() -> None:
    told = run("--rate", "20", *LENGTHS, "--granularity", "pd", slo="ttft_ms=5,tbt_ms=100")
    assert told.return_value == 1
    assert told.output.startswith("infeasible: prefill: ttft_ms 5 cannot be kept, ")


def test_lengths_of_a_trace(tmp_path: Path) -> None:
    rows = [f'{{"timestamp": {100 * n}, "input_length": {1000 + n}, "output_length": 50}}' for n in range(40)]
    (tmp_path / "trace.jsonl").write_text("\n".join(rows))
    trace = ("--trace", str(tmp_path / "trace.jsonl"))
    cut, mean = ("--granularity", "pd", "--json"), ("--prompt-tokens", "1019.5", "--output-tokens", "50")
    ours, means = (json.loads(run("--rate", "20", *lengths, *cut).output) for lengths in (trace, mean))
    assert ours["ttft_ms"]["p99"] < means["ttft_ms"]["p99"]  # lengths that are nearly equal


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--rate", "20"), "lengths are missing"),
        (LENGTHS, "--rate is missing"),
        (("--rate", "1", "--devices", "2", "--min-devices", *LENGTHS), "exclude each other"),
    ],
)
def test_usage(arguments: tuple[str, ...], says: str) -> None:
    error = run(*arguments).exception
    assert isinstance(error, click.UsageError) and says in str(error)


@pytest.mark.parametrize(
    "slo", ["ttft_ms=1000", "ttft_ms=x,tbt_ms=1", "", "ttft_ms=1000,tbt_ms=100,more=1", "ttft_ms=nan,tbt_ms=1"]
)
def test_a_promise_is_checked(slo: str) -> None:
    assert isinstance(run("--rate", "20", *LENGTHS, slo=slo).exception, BadDemand)


def test_without_the_extra_there_is_a_way_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mpsafe.cli.operators_plan", None)
    assert isinstance(run("--rate", "20", *LENGTHS).exception, ExtraMissing)
