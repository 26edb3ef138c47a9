# SPDX-License-Identifier: Apache-2.0
"""This test will simulate and compare by the command, and read the page that it writes."""

import re
from pathlib import Path

import msgspec
import numpy as np
import pytest

from command import printed
from mpsafe.cli import cli
from mpsafe.errors import Refused
from mpsafe.operators.report.charts import Line, chart, windows
from operator_profiles import PROFILES

REQUESTS = 600
NAMES = ["operator", "model", "model-fast"]


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    dice = np.random.default_rng(0)
    times = np.cumsum(dice.exponential(0.1, REQUESTS))
    rows = [f"{time:.3f},{dice.integers(50, 3000)},{dice.integers(1, 100)}" for time in times]
    trace = tmp_path_factory.mktemp("trace") / "requests.csv"
    trace.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]) + "\n")
    profile = PROFILES / "aiconfigurator" / "h200_sxm"
    return ["--trace", trace, "--model", "qwen2-7b", "--profile", profile, "--slo", "ttft_ms=1000,tbt_ms=100"]


def test_simulate_prints_one_outcome(options: list[object], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    found = printed("operators", "simulate", *options, "--controller", "operator", "--copies", 2, "--html", page)
    assert set(found) == {
        "controller",
        "requests",
        "gpu_hours",
        "energy_kwh",
        "ttft_ms",
        "tbt_ms",
        "attainment",
        "max_gpus",
        "changes",
        "sim_seconds",
    }
    assert {frozenset(found[name]) for name in ("ttft_ms", "tbt_ms")} == {frozenset({"mean", "p50", "p99"})}
    assert (found["controller"], found["requests"], found["attainment"]) == ("operator", 2 * REQUESTS, 1.0)
    text = page.read_text()
    assert f"operator, {2 * REQUESTS} requests" in text
    assert f"{found['ttft_ms']['p99']:.1f}" in text
    assert text.count("<svg") == 6
    assert "<details open>" in text
    assert not re.search(r"(src|href)=\"(?!data:)", text)


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """As the command prints it; in this process, where all is compiled by now."""
    cli.main(["operators", *map(str, arguments)], standalone_mode=False)
    return capsys.readouterr().out


def test_compare_says_where_it_comes_from(
    options: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    given = [*options, "--controllers", ",".join(NAMES), "--copies", "1,2", "--seeds", 2, "--html", page, "--json"]
    found = msgspec.json.decode(told(capsys, "compare", *given))
    assert [(arm["controller"], arm["copies"]) for arm in found["arms"]] == [
        (name, copies) for copies in (1, 2) for name in (*NAMES, "operator, whole GPUs")
    ]
    for one in found["attributions"]:
        parts = sum(one[name]["mean"] for name in ("faster_control", "finer_sizing", "sharing"))
        assert parts == pytest.approx(one["together"]["mean"])
    operator = next(arm for arm in found["arms"] if arm["controller"] == "operator" and arm["copies"] == 2)
    assert operator["saved_of_fast"]["low"] <= operator["saved_of_fast"]["mean"] <= operator["saved_of_fast"]["high"]
    text = page.read_text()
    assert len(re.findall("<summary>operator, ", text)) == 4
    assert "Where it comes from" in text
    assert f"{operator['gpu_hours']['mean']:.2f}" in text


def test_for_people(options: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, "simulate", *options, "--controller", "static")
    assert "GPU hours" in text
    assert "% of the requests got what was promised" in text
    assert "of model-fast" in told(capsys, "compare", *options, "--controllers", "static,model-fast")


BAD = {
    "unsorted trace": (["--trace", "bad.csv"], "bad.csv: line 3: it is 1 s earlier than the line before"),
    "no trace": (["--trace", "none.csv"], "none.csv: cannot be read: No such file or directory"),
    "no promise": (["--slo", "ttft_ms=1"], "two positive times, like ttft_ms=1000,tbt_ms=100"),
    "no model": (["--model", "gpt-5"], "gpt-5"),
    "no profile": (["--profile", "nowhere"], "nowhere: is no directory"),
}


@pytest.mark.parametrize(("given", "sentence"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_sentence(
    given: list[object], sentence: str, options: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2,1,1\n1,1,1\n")
    arguments = ["operators", "simulate", *options, *given, "--controller", "model"]
    with pytest.raises(Refused) as caught:
        cli.main([str(one) for one in arguments], standalone_mode=False)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_chart_keeps_the_peak_of_many_points() -> None:
    values = np.zeros(5000)
    values[1234] = 7.0
    drawn = chart("", [Line("one", np.arange(5000.0), values)])
    heights = [float(point.split()[1]) for point in re.split("[ML]", drawn.paths[0][3])[1:]]
    assert min(heights) == drawn.top
    assert max(heights) == drawn.bottom
    assert [tick.label for tick in drawn.up] == ["0", "2", "4", "6"]


def test_windows_are_of_requests_by_arrival() -> None:
    seconds, values = windows(np.array([1.0, 2.0, 65.0]), np.array([5.0, 9.0, 3.0]))
    assert seconds.tolist() == [15, 45, 75]
    assert msgspec.json.encode(values.tolist()) == b"[9.0,null,3.0]"
