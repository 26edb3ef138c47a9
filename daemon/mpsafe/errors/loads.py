# SPDX-License-Identifier: Apache-2.0
"""Errors about traces of requests to a served model."""

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from mpsafe.errors.base import Refused

__all__ = ["BadRequestTrace"]


@dataclass(eq=False)
class BadRequestTrace(Refused):
    """A file of requests, with their times and lengths, that cannot be read."""

    code: ClassVar[str] = "bad-request-trace"
    hint: ClassVar[str] = (
        "either a CSV with the columns TIMESTAMP,ContextTokens,GeneratedTokens, "
        'or lines like {"timestamp": 27482, "input_length": 6955, "output_length": 52}; sorted by time'
    )
    file: str
    place: str
    problem: str

    @override
    def __str__(self) -> str:
        return ": ".join(word for word in (self.file, self.place, self.problem) if word)
