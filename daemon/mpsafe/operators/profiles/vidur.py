# SPDX-License-Identifier: Apache-2.0
"""The tables of Vidur: compute/<gpu>/<organisation>/<model>/mlp.csv and network/<node>/all_reduce.csv, in ms.

One layer of one model; the model's shape is in each row. Attention and lm_head are in none of the tables that the
project publishes beside its code: a roofline stands for them, and the notes say "modelled".
"""

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from typing_extensions import override

from mpsafe.errors import BadProfile, NotMeasured
from mpsafe.operators import roofline
from mpsafe.operators.curves import along
from mpsafe.operators.model import Floats
from mpsafe.operators.profiles.csv_table import curve, rows
from mpsafe.operators.profiles.datasheets import DATASHEETS, HOP_S
from mpsafe.operators.profiles.profile import Profile
from mpsafe.operators.specs import Operator, Spec

__all__ = ["Vidur"]

Curves: TypeAlias = dict[tuple[str, int], tuple[Floats, Floats]]
_PARTS: Final = {
    "embed": ("emb",),
    "qkv": ("input_layernorm", "attn_pre_proj", "attn_rope"),
    "o": ("attn_post_proj", "add"),
    "gate_up": ("post_attention_layernorm", "mlp_up_proj", "mlp_act"),
    "down": ("mlp_down_proj", "add"),
}
_SHAPE: Final = ("n_head", "n_kv_head", "n_embd", "n_expanded_embd", "vocab_size")
_KERNEL_S: Final = 3e-6  # a kernel's launch and drain, as aiconfigurator's system files have it


@dataclass(eq=False)
class Vidur(Profile):
    """One GPU and model: the folder that has mlp.csv."""

    @staticmethod
    def open(path: Path) -> "Vidur":
        """Raises BadProfile."""
        gpu = next((part.name for part in path.resolve().parents if part.name in DATASHEETS), None)
        if gpu is None:
            raise BadProfile(str(path), "is not under compute/<gpu> of Vidur")
        return Vidur(path, DATASHEETS[gpu], HOP_S)

    @property
    @override
    def name(self) -> str:
        return f"vidur/{self.device.name}/{self.path.name}"

    @cached_property
    def _table(self) -> tuple[tuple[int, ...], Curves]:
        """The model's shape, and seconds over tokens by part and parallelism."""
        parts = sorted({part for some in _PARTS.values() for part in some})
        names = {part: f"time_stats.{part}.median" for part in parts}
        points = defaultdict[tuple[str, int], list[tuple[float, float]]](list)
        shapes = set[tuple[int, ...]]()
        keys = ("num_tokens", "num_tensor_parallel_workers")
        for row, _ in rows(self.path / "mlp.csv", (*keys, *_SHAPE, *names.values())):
            shapes.add(tuple(int(row[name]) for name in _SHAPE))
            for part, name in names.items():
                points[part, int(row[keys[1]])].append((row[keys[0]], row[name] / 1e3))
        if len(shapes) != 1:
            raise BadProfile(str(self.path / "mlp.csv"), f"has {len(shapes)} shapes of models, not one")
        return shapes.pop(), {key: curve(measured) for key, measured in points.items()}

    @cached_property
    def _reduce(self) -> dict[int, tuple[Floats, Floats]]:
        node = {"a100": "a100_dgx", "h100": "h100_dgx"}.get(self.device.name, "none")
        root = next((part for part in self.path.resolve().parents if (part / "network").is_dir()), self.path)
        points = defaultdict[int, list[tuple[float, float]]](list)
        file = root / "network" / node / "all_reduce.csv"
        if file.is_file():
            for row, _ in rows(file, ("size", "num_workers", "devices_per_node", "time_stats.all_reduce.median")):
                if row["num_workers"] == row["devices_per_node"]:  # inside one node
                    points[int(row["num_workers"])].append((row["size"], row["time_stats.all_reduce.median"] / 1e3))
        return {gpus: curve(measured) for gpus, measured in points.items()}

    @override
    def linear(self, spec: Spec, operator: Operator, tensor_parallel: int, tokens: Floats) -> Floats:
        shape, curves = self._table
        if (spec.heads, spec.kv_heads, spec.hidden, spec.inner, spec.vocabulary) != shape or spec.experts is not None:
            raise NotMeasured(self.name, operator.name, f"its table is not of {spec.name}")
        if operator.name == "attention":
            return np.zeros_like(tokens)
        if operator.name == "lm_head":
            self.notes.say("lm_head: modelled by a roofline, Vidur has no table of it")
            n, k = operator.gemms[0].shard(tensor_parallel)
            return self._modelled(roofline.gemm(tokens, n, k))
        seconds = np.zeros_like(tokens)
        for part in _PARTS[operator.name]:
            if (part, tensor_parallel) not in curves:
                raise NotMeasured(self.name, operator.name, f"not on {tensor_parallel} GPUs")
            seconds = seconds + along(tokens, *curves[part, tensor_parallel])
        return seconds

    def _modelled(self, work: roofline.Work) -> Floats:
        return roofline.work_s(self.device, work) / roofline.REACHED + _KERNEL_S

    @override
    def prefill(self, spec: Spec, tensor_parallel: int, lengths: Floats) -> Floats:
        self.notes.say("attention: modelled by a roofline, Vidur has no table of it")
        kv_heads = max(1, spec.kv_heads / tensor_parallel)
        return self._modelled(roofline.attend(lengths, spec.heads / tensor_parallel, kv_heads, spec.head_dim))

    @override
    def decode(self, spec: Spec, tensor_parallel: int, sequences: Floats, context: Floats) -> Floats:
        rows_, columns = sequences[:, np.newaxis], context[np.newaxis, :]
        kv_heads = max(1, spec.kv_heads / tensor_parallel)
        heads = spec.heads / tensor_parallel
        return self._modelled(roofline.attend_cached(rows_, columns, heads, kv_heads, spec.head_dim))

    @override
    def reduce(self, gpus: int, moved: Floats) -> Floats:
        if gpus not in self._reduce:
            raise NotMeasured(self.name, "all-reduce", f"not over {gpus} GPUs")
        return along(moved, *self._reduce[gpus])
