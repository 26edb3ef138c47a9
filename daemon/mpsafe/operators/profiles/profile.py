# SPDX-License-Identifier: Apache-2.0
"""What a set of tables answers, whoever measured them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path

from mpsafe.operators.model import Device, Floats
from mpsafe.operators.specs import Operator, Spec

__all__ = ["Notes", "Profile"]


@dataclass(eq=False, slots=True)
class Notes:
    """What was taken in place of what was asked for, each said once and in order."""

    said: list[str] = field(default_factory=lambda: list[str]())

    def say(self, sentence: str) -> None:
        if sentence not in self.said:
            self.said.append(sentence)


@dataclass(eq=False)
class Profile(ABC):
    """Times in seconds, of one layer on each of `tensor_parallel` GPUs with all SMs. All methods raise NotMeasured
    where the tables have nothing that can stand for the point.

    `path`: the folder of the tables; `hop_s`: handing a batch from a worker to another, without its bytes. Equal only
    to itself, since what was computed from a profile is kept.
    """

    path: Path
    device: Device
    hop_s: float
    notes: Notes = field(default_factory=Notes, init=False)

    @property
    @abstractmethod
    def name(self) -> str:
        """Whose tables, and of what."""

    @abstractmethod
    def linear(self, spec: Spec, operator: Operator, tensor_parallel: int, tokens: Floats) -> Floats:
        """The operator's time over the tokens of an iteration; the reduction over its GPUs is apart."""

    @abstractmethod
    def prefill(self, spec: Spec, tensor_parallel: int, lengths: Floats) -> Floats:
        """Attention of one whole prompt of each length."""

    @abstractmethod
    def decode(self, spec: Spec, tensor_parallel: int, sequences: Floats, context: Floats) -> Floats:
        """Attention of one token of each of `sequences`, each cache holding `context` tokens: a table."""

    @abstractmethod
    def reduce(self, gpus: int, moved: Floats) -> Floats:
        """An all-reduce of so many bytes over so many GPUs."""
