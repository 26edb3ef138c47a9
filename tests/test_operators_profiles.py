# SPDX-License-Identifier: Apache-2.0
"""This test will read real tables of measured operators, and tables that are damaged."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest

from mpsafe.errors import BadProfile, NotMeasured
from mpsafe.operators import specs
from mpsafe.operators.curves import along, surface
from mpsafe.operators.profiles import open_profile
from mpsafe.operators.profiles.splitwise import BUSY_POWER, busy_power
from operator_profiles import PROFILES, h200

GEMM = "gemm/vllm/0.24.0/gemm_perf.parquet"


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    shutil.copytree(PROFILES / "aiconfigurator", tmp_path, dirs_exist_ok=True)
    return tmp_path / "h200_sxm"


def linear_s(directory: Path) -> float:
    spec = specs.load("llama-3.1-8b")
    return float(open_profile(str(directory)).linear(spec, spec.operator("o"), 1, np.array([64.0]))[0])


def test_a_measured_shape_is_what_the_table_says() -> None:
    """o of llama-3.1-8b is 4096 x 4096, which was measured."""
    table = pq.read_table(
        PROFILES / "aiconfigurator" / "h200_sxm" / GEMM, filters=[("n", "==", 4096), ("k", "==", 4096)]
    )
    at = {int(m): float(ms) for m, ms in zip(table["m"].to_numpy(), table["latency"].to_numpy(), strict=True)}
    spec = specs.load("llama-3.1-8b")
    found = h200().linear(spec, spec.operator("o"), 1, np.array([64.0, 2048.0, 3072.0]))
    assert found[:2] == pytest.approx([at[64] / 1e3, at[2048] / 1e3])
    assert found[2] == pytest.approx((at[2048] + at[4096]) / 2e3)  # straight between two points


def test_a_shape_that_was_not_measured_is_said() -> None:
    spec = specs.load("qwen2-7b")
    h200().linear(spec, spec.operator("gate_up"), 1, np.array([64.0]))
    assert "gemm of gate_up: (51200, 3584) stands for (37888, 3584), scaled by their rooflines" in h200().notes.said


def test_attention_beyond_the_longest_prompt_grows_as_its_square() -> None:
    spec = specs.load("llama-3.1-8b")
    at = h200().prefill(spec, 1, np.array([16384.0, 32768.0]))
    assert at[1] == pytest.approx(4 * at[0])


def test_decode_attention_rises_with_sequences_and_context() -> None:
    spec = specs.load("qwen2-7b")
    table = h200().decode(spec, 1, np.array([1.0, 16.0, 256.0, 1024.0]), np.array([128.0, 2048.0, 65536.0]))
    assert np.all(np.diff(table, axis=0) > 0) and np.all(np.diff(table[1:], axis=1) > 0)


def test_several_measurements_of_a_point_are_one(copied: Path) -> None:
    file = copied / GEMM
    table = pq.read_table(file)
    before = linear_s(copied)
    slow = table.set_column(table.column_names.index("latency"), "latency", [np.full(table.num_rows, 1e3)])
    pq.write_table(pyarrow.concat_tables([table, table, slow]), file)
    assert linear_s(copied) == before  # the median of three


def test_a_missing_kind_is_an_error(copied: Path) -> None:
    shutil.rmtree(copied / "attention")
    spec, profile = specs.load("llama-3.1-8b"), open_profile(str(copied))
    with pytest.raises(NotMeasured, match="has no measurement for attention: there is no attention/"):
        profile.prefill(spec, 1, np.array([1.0]))


def test_a_shape_far_from_all_is_an_error() -> None:
    small = specs.parse(
        {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "vocab_size": 100,
        },
        "small",
        "small",
    )
    with pytest.raises(NotMeasured, match=r"gemm of o: nothing near the shape \(64, 64\)"):
        h200().linear(small, small.operator("o"), 1, np.array([1.0]))
    with pytest.raises(NotMeasured, match="all-reduce: not over 3 GPUs"):
        h200().reduce(3, np.array([1e6]))


def test_damaged_tables_are_refused_in_a_sentence(copied: Path) -> None:
    file = copied / GEMM
    table = pq.read_table(file)
    pq.write_table(table.drop_columns(["latency"]), file)
    with pytest.raises(BadProfile, match="has no column latency"):
        linear_s(copied)
    negative = table.set_column(table.column_names.index("latency"), "latency", [-table["latency"].to_numpy()])
    pq.write_table(negative, file)
    with pytest.raises(BadProfile, match="has a latency that is not a positive number"):
        linear_s(copied)
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(BadProfile, match=r"gemm_perf\.parquet: "):
        linear_s(copied)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("gpu: {}", "gpu.mem_capacity is not a positive number"),
        ("gpu: [", "is not YAML"),
        ("[]", "gpu.mem_capacity is not a positive number"),
    ],
)
def test_a_system_file_is_checked(copied: Path, text: str, says: str) -> None:
    (copied.parent / "h200_sxm.yaml").write_text(text)
    with pytest.raises(BadProfile, match=says):
        open_profile(str(copied))


def test_a_folder_that_is_no_profile(tmp_path: Path) -> None:
    with pytest.raises(BadProfile, match="is no directory"):
        open_profile(str(tmp_path / "none"))
    with pytest.raises(BadProfile, match="holds no tables that are known here"):
        open_profile(str(tmp_path))
    (tmp_path / "a" / "gemm").mkdir(parents=True)
    with pytest.raises(BadProfile, match="the system's file beside the folder"):
        open_profile(str(tmp_path / "a"))


def test_between_and_beyond_measured_points() -> None:
    points, values = np.array([1.0, 2.0, 4.0]), np.array([10.0, 20.0, 60.0])
    assert along(np.array([0.5, 1.5, 3.0, 5.0]), points, values).tolist() == [10, 15, 40, 80]
    assert along(np.array([8.0]), points, values[::-1].copy()).tolist() == [10]  # what falls is not carried on below
    table = surface(np.array([1.0, 2.0]), np.array([1.0, 8.0]), {1.0: (points, values), 3.0: (points, 2 * values)})
    assert table.tolist() == [[10, 140], [15, 210]]


LLAMA = specs.load("llama-3.1-8b")
SERVING = PROFILES / "llmservingsim" / "RTXPRO6000" / "meta-llama" / "Llama-3.1-8B" / "bf16"
VIDUR = PROFILES / "vidur" / "compute" / "a100" / "meta-llama" / "Meta-Llama-3-8B"


def test_llmservingsim_is_in_microseconds_and_of_one_model() -> None:
    profile = open_profile(str(SERVING))
    assert profile.device.name == "RTXPRO6000"
    lines = (SERVING / "tp1" / "dense.csv").read_text().splitlines()
    told = {row[0]: float(row[2]) for row in csv.reader(lines) if row[1] == "64"}
    o = profile.linear(LLAMA, LLAMA.operator("o"), 1, np.array([64.0]))
    assert o[0] == pytest.approx(told["o_proj"] / 1e6)
    qkv = profile.linear(LLAMA, LLAMA.operator("qkv"), 1, np.array([64.0]))
    assert qkv[0] == pytest.approx((told["layernorm"] + told["qkv_proj"] + told["rotary_emb"]) / 1e6)
    prompts = profile.prefill(LLAMA, 1, np.array([1024.0, 2048.0, 4096.0]))
    assert prompts[0] < prompts[1] and prompts[2] == pytest.approx(4 * prompts[1])
    table = profile.decode(LLAMA, 1, np.array([1.0, 256.0]), np.array([1024.0, 16384.0]))
    assert np.all(np.diff(table, axis=0) > 0) and np.all(np.diff(table, axis=1) > 0)
    with pytest.raises(NotMeasured, match=r"its tables are of Llama-3\.1-8B, not of qwen2-7b"):
        profile.prefill(specs.load("qwen2-7b"), 1, np.array([1.0]))
    with pytest.raises(NotMeasured, match=r"there is no tp2/dense\.csv"):
        profile.linear(LLAMA, LLAMA.operator("o"), 2, np.array([1.0]))


def test_vidur_is_in_milliseconds_and_has_no_attention() -> None:
    profile = open_profile(str(VIDUR))
    one, two = (profile.linear(LLAMA, LLAMA.operator("gate_up"), gpus, np.array([4096.0]))[0] for gpus in (1, 2))
    floor = 4 * 4096 * 4096 * 14336 / profile.device.flops
    assert floor < one < 2 * floor and one / 2 < two < one
    assert profile.prefill(LLAMA, 1, np.array([4096.0]))[0] > 0
    assert profile.decode(LLAMA, 1, np.array([8.0]), np.array([4096.0]))[0, 0] > 0
    assert any("attention: modelled by a roofline" in note for note in profile.notes.said)
    assert 1e-6 < profile.reduce(2, np.array([1e6]))[0] < 1e-3
    with pytest.raises(NotMeasured, match="all-reduce: not over 4 GPUs"):
        profile.reduce(4, np.array([1e6]))
    with pytest.raises(NotMeasured, match="its table is not of qwen2-7b"):
        profile.linear(specs.load("qwen2-7b"), LLAMA.operator("o"), 1, np.array([1.0]))


def test_two_projects_agree_of_llama_on_their_gpus() -> None:
    """A token's FLOPs at 2,048 tokens, as a part of each GPU's peak: both between a third and nine tenths."""
    for profile in (open_profile(str(SERVING)), open_profile(str(VIDUR)), h200()):
        operators = [one for one in LLAMA.operators if one.name in ("qkv", "o", "gate_up", "down")]
        seconds = sum(float(profile.linear(LLAMA, one, 1, np.array([2048.0]))[0]) for one in operators)
        flops = 2 * 2048 * sum(LLAMA.weight_bytes(one) / 2 / LLAMA.layers for one in operators)
        assert 0.33 < flops / seconds / profile.device.flops < 0.9, profile.name


def test_the_power_of_a_gpu_at_work_is_as_splitwise_measured_it(tmp_path: Path) -> None:
    file = PROFILES / "splitwise" / "perf_model.csv"
    assert busy_power(file) == pytest.approx(BUSY_POWER, abs=0.006)
    with pytest.raises(BadProfile, match="whole models and no operators"):
        open_profile(str(file.parent))
    (tmp_path / "none.csv").write_text("average_power\n0\n")
    with pytest.raises(BadProfile, match="has no row with a power"):
        busy_power(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a\n1\n", "has no column average_power"),
        ("average_power\nx\n", "line 2: not a number"),
        ("average_power\n-1\n", "line 2: a negative number"),
        ("average_power\ninf\n", "line 2: a negative number, or none"),
        ("", "has no column average_power"),
    ],
)
def test_a_csv_table_is_checked(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(BadProfile, match=says):
        busy_power(tmp_path / "table.csv")
    with pytest.raises(BadProfile, match="cannot be read"):
        busy_power(tmp_path / "other.csv")
