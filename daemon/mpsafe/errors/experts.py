# SPDX-License-Identifier: Apache-2.0
"""Errors about mixture-of-experts models, their traces and their caches."""

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from mpsafe.errors.base import Refused

__all__ = ["BadModel", "BadTrace", "LeaseTooSmall", "NotMixture", "ShardDamaged"]


@dataclass(eq=False)
class BadModel(Refused):
    """A directory that holds no model that can be loaded."""

    code: ClassVar[str] = "bad-model"
    hint: ClassVar[str] = "name a directory with config.json, weights and a tokenizer, as save_pretrained writes it"
    directory: str
    problem: str

    @override
    def __str__(self) -> str:
        return f"{self.directory}: {self.problem}"


@dataclass(eq=False)
class BadTrace(Refused):
    """A file of expert routes that cannot be read."""

    code: ClassVar[str] = "bad-trace"
    hint: ClassVar[str] = (
        'a line is {"tok": 1, "layers": [[3, 17], [0, 5]]}; mpsafe experts record writes the other form'
    )
    file: str
    place: str
    problem: str

    @override
    def __str__(self) -> str:
        return ": ".join(word for word in (self.file, self.place, self.problem) if word)


@dataclass(eq=False)
class LeaseTooSmall(Refused):
    """A cache of experts would be smaller than what one layer needs at once."""

    code: ClassVar[str] = "lease-too-small"
    hint: ClassVar[str] = "ask for a lease whose floor holds that many experts, or serve a smaller model"
    slots: int
    least: int

    @override
    def __str__(self) -> str:
        return f"room for {self.slots} experts is too little: a layer and what is on its way need {self.least}"


@dataclass(eq=False)
class NotMixture(Refused):
    """A model has no experts that could be offloaded."""

    code: ClassVar[str] = "not-mixture"
    hint: ClassVar[str] = (
        "name a Mixtral, Qwen2-MoE, Qwen3-MoE, OLMoE, or another model that transformers runs by that interface"
    )
    model: str
    problem: str

    @override
    def __str__(self) -> str:
        return f"{self.model}: {self.problem}"


@dataclass(eq=False)
class ShardDamaged(Refused):
    """A layer's experts in host memory are not what their hash says."""

    code: ClassVar[str] = "shard-damaged"
    hint: ClassVar[str] = "load the model again from its files; nothing of this shard was used"
    layer: int
    expected: str
    got: str

    @override
    def __str__(self) -> str:
        return f"the experts of layer {self.layer} have the SHA-256 {self.got}, not {self.expected}"
