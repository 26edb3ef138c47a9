# SPDX-License-Identifier: Apache-2.0
"""The tables of NVIDIA's aiconfigurator: <system>/<kind>/<framework>/<version>/<table>.parquet, and <system>.yaml.

Latencies are in ms. Some keys have several measurements: their median is taken. Not every shape was measured: the
nearest is scaled by the ratio of their rooflines, and the notes say so.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, TypeAlias, cast

import numpy as np
import pyarrow.parquet as pq
import yaml
from typing_extensions import override

from mpsafe.errors import BadProfile, NotMeasured
from mpsafe.operators import roofline
from mpsafe.operators.curves import along, surface
from mpsafe.operators.model import Device, Floats
from mpsafe.operators.profiles.datasheets import IDLE_SHARE
from mpsafe.operators.profiles.profile import Profile
from mpsafe.operators.specs import Experts, Operator, Spec

__all__ = ["Aiconfigurator"]

Shape: TypeAlias = tuple[int, ...]
Points: TypeAlias = dict[Shape, tuple[Floats, Floats]]

_FARTHEST: Final = math.log(4.0)  # a shape that differs by more in any dimension cannot stand for another
_ROUTING: Final = ("power_law_1.01", "power_law_1.2", "balanced")


def _numbers(file: Path, wanted: tuple[str, ...], **filters: object) -> dict[str, Floats]:
    """Columns of a table, the rows that match `filters` (on those columns that the table has). Raises BadProfile."""
    try:
        have = pq.read_schema(file).names
        if missing := sorted({*wanted, "latency"} - set(have)):
            raise BadProfile(str(file), f"has no column {missing[0]}")
        test = [(name, "==", value) for name, value in filters.items() if name in have]
        table = pq.read_table(file, columns=[*wanted, "latency"], filters=test or None)
        columns = {name: np.asarray(table[name].to_numpy(), np.float64) for name in (*wanted, "latency")}
    except OSError as error:  # pyarrow's own errors about a damaged file are subclasses of OSError or ValueError
        raise BadProfile(str(file), f"cannot be read: {str(error).splitlines()[0]}") from error
    except ValueError as error:
        raise BadProfile(str(file), f"is not such a table: {str(error).splitlines()[0]}") from error
    if not np.all(np.isfinite(columns["latency"])) or np.any(columns["latency"] <= 0):
        raise BadProfile(str(file), "has a latency that is not a positive number")
    return columns


def _curves(columns: dict[str, Floats], keys: tuple[str, ...], along_column: str) -> Points:
    """By shape: the column's ascending values, and the median latency at each, in seconds."""
    order = np.lexsort([columns[along_column], *[columns[key] for key in reversed(keys)]])
    table = np.stack([columns[name][order] for name in (*keys, along_column)], axis=1)
    latency = columns["latency"][order] / 1e3
    if not len(table):
        return {}
    starts = np.flatnonzero(np.any(np.diff(table, axis=0, prepend=np.nan) != 0, axis=1))
    medians = np.array([np.median(part) for part in np.split(latency, starts[1:])])
    distinct = table[starts]
    shapes = np.flatnonzero(np.any(np.diff(distinct[:, :-1], axis=0, prepend=np.nan) != 0, axis=1))
    parts = zip(np.split(distinct, shapes[1:]), np.split(medians, shapes[1:]), strict=True)
    return {tuple(int(value) for value in rows[0, :-1]): (rows[:, -1].copy(), values) for rows, values in parts}


@dataclass(eq=False)
class Aiconfigurator(Profile):
    """One system's folder."""

    @staticmethod
    def open(path: Path) -> "Aiconfigurator":
        """Raises BadProfile."""
        file = path.with_name(path.name + ".yaml")
        try:
            system = yaml.safe_load(file.read_bytes())
        except OSError as error:
            raise BadProfile(str(file), f"the system's file beside the folder: {error.strerror}") from error
        except yaml.YAMLError as error:
            raise BadProfile(str(file), "is not YAML") from error

        def number(part: str, name: str) -> float:
            section = cast("dict[str, object]", system).get(part) if isinstance(system, dict) else None
            value = cast("dict[str, object]", section).get(name) if isinstance(section, dict) else None
            if not isinstance(value, int | float) or value <= 0:
                raise BadProfile(str(file), f"{part}.{name} is not a positive number")
            return float(value)

        device = Device(
            name=path.name,
            memory_bytes=number("gpu", "mem_capacity") - number("misc", "other_mem"),
            flops=number("gpu", "bfloat16_tc_flops"),
            memory_bytes_per_s=number("gpu", "mem_bw"),
            link_bytes_per_s=number("node", "intra_node_bw"),
            idle_w=number("gpu", "power") * IDLE_SHARE,
            peak_w=number("gpu", "power"),
            clients_max=48,
        )
        return Aiconfigurator(path, device, number("node", "p2p_latency"))

    @property
    @override
    def name(self) -> str:
        return f"aiconfigurator/{self.path.name}"

    def _tables(self, kind: str, table: str) -> list[Path]:
        """The newest version of each framework first."""
        found = list(self.path.glob(f"{kind}/*/*/{table}_perf.parquet"))
        if not found:
            raise NotMeasured(self.name, kind, f"there is no {kind}/*/*/{table}_perf.parquet")
        return sorted(found, key=lambda file: [int(part) for part in file.parent.name.split(".") if part.isdigit()])[
            ::-1
        ]

    @cached_property
    def _gemm(self) -> Points:
        file = self._tables("gemm", "gemm")[0]
        return _curves(_numbers(file, ("m", "n", "k"), gemm_dtype="bfloat16"), ("n", "k"), "m")

    @cached_property
    def _prefill(self) -> Points:
        file = self._tables("attention", "context_attention")[0]
        keys = ("num_heads", "num_key_value_heads", "head_dim")
        columns = _numbers(file, (*keys, "isl"), kv_cache_dtype="bfloat16", window_size=0, batch_size=1, step=0)
        return _curves(columns, keys, "isl")

    @cached_property
    def _decode(self) -> dict[Shape, dict[float, tuple[Floats, Floats]]]:
        file = self._tables("attention", "generation_attention")[0]
        keys = ("num_heads", "num_key_value_heads", "head_dim")
        columns = _numbers(file, (*keys, "batch_size", "step"), kv_cache_dtype="bfloat16", window_size=0)
        found: dict[Shape, dict[float, tuple[Floats, Floats]]] = {}
        for shape, curve in _curves(columns, (*keys, "batch_size"), "step").items():
            found.setdefault(shape[:-1], {})[float(shape[-1])] = curve
        return found

    @cached_property
    def _moe(self) -> Points:
        file = self._tables("moe", "moe")[0]
        keys = ("hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size")
        for distribution in _ROUTING:
            filters = {"moe_dtype": "bfloat16", "moe_ep_size": 1, "distribution": distribution}
            if points := _curves(_numbers(file, (*keys, "num_tokens"), **filters), keys, "num_tokens"):
                self.notes.say(f"experts: measured with the routing {distribution}")
                return points
        raise NotMeasured(self.name, "experts", "no bfloat16 rows")

    @cached_property
    def _reduce(self) -> Points:
        for file in self._tables("comm", "nccl"):
            filters = {"op_name": "all_reduce", "nccl_dtype": "half"}
            if points := _curves(
                _numbers(file, ("num_gpus", "message_size"), **filters), ("num_gpus",), "message_size"
            ):
                return points
        raise NotMeasured(self.name, "all-reduce", "no such rows in any nccl table")

    def _nearest(self, what: str, asked: Shape, have: list[Shape]) -> Shape:
        """The shape itself, or that with the least sum of squared log ratios. Raises NotMeasured."""
        if asked in have:
            return asked
        apart = [[abs(math.log(one / other)) for one, other in zip(asked, shape, strict=True)] for shape in have]
        best = min(range(len(have)), key=lambda index: sum(value**2 for value in apart[index]), default=None)
        if best is None or max(apart[best]) > _FARTHEST:
            raise NotMeasured(self.name, what, f"nothing near the shape {asked}")
        self.notes.say(f"{what}: {have[best]} stands for {asked}, scaled by their rooflines")
        return have[best]

    def _scaled(self, seconds: Floats, asked: roofline.Work, had: roofline.Work) -> Floats:
        return seconds * roofline.work_s(self.device, asked) / roofline.work_s(self.device, had)

    @override
    def linear(self, spec: Spec, operator: Operator, tensor_parallel: int, tokens: Floats) -> Floats:
        seconds = roofline.passes(self.device, tokens, operator.pass_bytes / tensor_parallel, operator.kernels)
        for gemm in operator.gemms:
            n, k = gemm.shard(tensor_parallel)
            near = self._nearest(f"gemm of {operator.name}", (n, k), list(self._gemm))
            measured = along(tokens, *self._gemm[near])
            seconds = seconds + self._scaled(measured, roofline.gemm(tokens, n, k), roofline.gemm(tokens, *near))
        if operator.experts is not None:
            seconds = seconds + self._experts(spec.hidden, operator.experts, tensor_parallel, tokens)
        return seconds

    def _experts(self, hidden: int, experts: Experts, tensor_parallel: int, tokens: Floats) -> Floats:
        asked = (hidden, experts.inner, experts.top, experts.count)
        have = [shape[:-1] for shape in self._moe if shape[-1] == tensor_parallel]
        near = self._nearest(f"experts on {tensor_parallel} GPUs", asked, have)
        measured = along(tokens, *self._moe[(*near, tensor_parallel)])
        had = roofline.mixture(tokens, near[0], Experts(near[3], near[2], near[1]), tensor_parallel)
        return self._scaled(measured, roofline.mixture(tokens, hidden, experts, tensor_parallel), had)

    def _heads(self, spec: Spec, tensor_parallel: int) -> Shape:
        return spec.heads // tensor_parallel, max(1, spec.kv_heads // tensor_parallel), spec.head_dim

    @override
    def prefill(self, spec: Spec, tensor_parallel: int, lengths: Floats) -> Floats:
        asked = self._heads(spec, tensor_parallel)
        near = self._nearest("prefill attention", asked, list(self._prefill))
        points, values = self._prefill[near]
        measured = along(np.minimum(lengths, points[-1]), points, values)
        # Beyond the longest measured prompt the time grows as the FLOPs do, which is quadratic.
        measured = measured * np.maximum(1.0, lengths / points[-1]) ** 2
        return self._scaled(measured, roofline.attend(lengths, *asked), roofline.attend(lengths, *near))

    @override
    def decode(self, spec: Spec, tensor_parallel: int, sequences: Floats, context: Floats) -> Floats:
        asked = self._heads(spec, tensor_parallel)
        near = self._nearest("decode attention", asked, list(self._decode))
        measured = surface(sequences, context, self._decode[near])
        rows, columns = sequences[:, np.newaxis], context[np.newaxis, :]
        had = roofline.attend_cached(rows, columns, *near)
        return self._scaled(measured, roofline.attend_cached(rows, columns, *asked), had)

    @override
    def reduce(self, gpus: int, moved: Floats) -> Floats:
        if (gpus,) not in self._reduce:
            raise NotMeasured(self.name, "all-reduce", f"not over {gpus} GPUs")
        points, values = self._reduce[(gpus,)]
        return along(moved / 2, points, values)  # message_size counts values of two bytes
