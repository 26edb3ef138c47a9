# SPDX-License-Identifier: Apache-2.0
"""Errors about files, suites, routers and boards of the arena."""

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from mpsafe.errors.base import CannotRun, Refused

__all__ = ["BadArenaFile", "NoSandbox", "NotComparable"]


@dataclass(eq=False)
class BadArenaFile(Refused):
    """A prediction, result, price or suite file that cannot be read or scored as it is."""

    code: ClassVar[str] = "bad-arena-file"
    hint: ClassVar[str] = "mpsafe arena validate FILE names each row and field that is not as RouterArena wants it"
    file: str
    place: str
    problem: str

    @override
    def __str__(self) -> str:
        return ": ".join(word for word in (self.file, self.place, self.problem) if word)


@dataclass(eq=False)
class NoSandbox(CannotRun):
    """Code of a model was to be executed, and this machine has nothing to shut it in with."""

    code: ClassVar[str] = "no-sandbox"
    hint: ClassVar[str] = "install bubblewrap, or allow user namespaces for unshare; without --execute no code is run"
    problem: str

    @override
    def __str__(self) -> str:
        return f"code is executed only in a sandbox, and there is none here: {self.problem}"


@dataclass(eq=False)
class NotComparable(Refused):
    """A router was to learn from queries that it will be judged on."""

    code: ClassVar[str] = "not-comparable"
    hint: ClassVar[str] = "train on other data, or add --not-comparable: the result is then marked so everywhere"
    queries: int

    @override
    def __str__(self) -> str:
        return f"{self.queries} of the training queries belong to RouterArena, whose data is for evaluation only"
