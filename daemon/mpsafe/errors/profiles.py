# SPDX-License-Identifier: Apache-2.0
"""Errors about a model's shape, the tables of measured operators, and the load that a plan is asked for."""

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from mpsafe.errors.base import Refused

__all__ = ["BadDemand", "BadProfile", "BadSpec", "NotMeasured"]


@dataclass(eq=False)
class BadSpec(Refused):
    """A model's config.json that cannot be read, or that describes a model which is not planned for."""

    code: ClassVar[str] = "bad-spec"
    hint: ClassVar[str] = "name the config.json of a decoder-only bfloat16 model, or one of the built-in names"
    file: str
    place: str
    problem: str

    @override
    def __str__(self) -> str:
        return ": ".join(word for word in (self.file, self.place) if word) + f" {self.problem}"


@dataclass(eq=False)
class BadProfile(Refused):
    """A folder of profiles, or a table in it, that is not as its project writes it."""

    code: ClassVar[str] = "bad-profile"
    hint: ClassVar[str] = "name one folder of tables, as aiconfigurator/h200_sxm with h200_sxm.yaml beside it"
    file: str
    problem: str

    @override
    def __str__(self) -> str:
        return f"{self.file}: {self.problem}"


@dataclass(eq=False)
class NotMeasured(Refused):
    """A plan needs a point that no table of the profile has, and that none near it can stand for."""

    code: ClassVar[str] = "not-measured"
    hint: ClassVar[str] = "take a profile that has it, or another parallelism; nothing is guessed in its place"
    profile: str
    operator: str
    problem: str

    @override
    def __str__(self) -> str:
        return f"{self.profile} has no measurement for {self.operator}: {self.problem}"


@dataclass(eq=False)
class BadDemand(Refused):
    """A rate, a length or a promise that no load can have."""

    code: ClassVar[str] = "bad-demand"
    hint: ClassVar[str] = "rates, lengths and times are positive numbers: --rate 8 --slo ttft_ms=1000,tbt_ms=100"
    field: str
    problem: str

    @override
    def __str__(self) -> str:
        return f"{self.field}: {self.problem}"
