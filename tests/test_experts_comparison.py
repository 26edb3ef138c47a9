# SPDX-License-Identifier: Apache-2.0
"""This test will compare all policies on made traces, and open the page about it in a browser."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typing_extensions import override

from expert_traces import OLMOE, made
from mpsafe.errors import BadRequest
from mpsafe.experts.comparison import Comparison, compare
from mpsafe.experts.policies import POLICIES
from mpsafe.experts.report import page, verdict
from mpsafe.experts.trace import write


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    directory = tmp_path_factory.mktemp("traces")
    paths = [directory / f"{seed}.npz" for seed in range(3)]
    for seed, path in enumerate(paths):
        write(path, made(seed, tokens=80))
    return paths


@pytest.fixture(scope="module")
def found(traces: list[Path]) -> Comparison:
    (only,) = compare(traces[:2], traces[2:], [25], prefetch=1, link_bytes_s=1e9, workers=2)
    return only


def test_each_policy_met_the_same_requests(found: Comparison) -> None:
    assert [arm.policy for arm in found.arms] == [known.name for known in POLICIES]
    assert (found.requests, found.tokens, found.slots) == (8, 160, 8)
    for arm in found.arms:
        assert 0 <= arm.hit_rate <= 1 and arm.lead.low <= arm.lead.mean <= arm.lead.high
        assert arm.stall_ms == pytest.approx((1 - arm.hit_rate) * 4 * 2 * 1e-6)
        assert arm.lead.mean == pytest.approx(found.arm("mpsafe").hit_rate - arm.hit_rate)


def test_the_gap_goes_from_the_best_causal_baseline_to_the_joint_oracle(found: Comparison) -> None:
    causal = {arm.policy: arm for arm in found.arms if arm.role == "baseline"}
    best, ours, bound = causal[found.best], found.arm("mpsafe"), found.arm("joint-oracle")
    assert best.hit_rate == max(arm.hit_rate for arm in causal.values())
    assert found.closed.mean == pytest.approx((ours.hit_rate - best.hit_rate) / (bound.hit_rate - best.hit_rate))
    assert causal[found.best_lean].bytes_ratio <= 1.05


def test_a_policy_that_has_learned_starts_each_trace_as_it_was(traces: list[Path]) -> None:
    both = compare(traces[:2], traces[2:], [25], prefetch=1, link_bytes_s=1e9, workers=1)[0]
    other = compare(traces[1::-1], traces[2:], [25], prefetch=1, link_bytes_s=1e9, workers=1)[0]
    for arm in both.arms:
        assert arm.hit_rate == pytest.approx(other.arm(arm.policy).hit_rate), arm.policy


def test_the_page_is_whole_by_itself_and_has_each_policy(found: Comparison) -> None:
    text = page([found], about="made & <traces>", link="a link")
    seen: list[str] = []

    class Parser(HTMLParser):
        @override
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            seen.extend(value or "" for name, value in attrs if name in ("src", "href"))

    Parser().feed(text)
    assert not seen and "http" not in text and "made &amp; &lt;traces&gt;" in text
    for known in POLICIES:
        assert len(re.findall(rf">{known.name}<", text)) == 2
    assert len(verdict(found)) == 3


def test_the_command_prints_the_same_and_writes_the_page(traces: list[Path], found: Comparison, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from mpsafe.cli import main; main()", "experts", "bench", "--json"]
    out = tmp_path / "page.html"
    files = [f"--trace={traces[0]}", f"--trace={traces[1]}", f"--train={traces[2]}", f"--html={out}"]
    done = subprocess.run([*command, *files, "--cache=25", "--prefetch=1"], check=True, capture_output=True, text=True)
    (told,) = json.loads(done.stdout)["comparisons"]
    assert [arm["hit_rate"] for arm in told["arms"]] == [arm.hit_rate for arm in found.arms]
    assert out.read_text().startswith("<!doctype html>")


def test_traces_of_ids_alone_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="mpsafe experts record"):
        compare([OLMOE], [], [25], prefetch=1, link_bytes_s=1e9, workers=1)
