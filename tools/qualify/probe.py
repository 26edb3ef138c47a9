# SPDX-License-Identifier: Apache-2.0
"""One question to the machine, and how it is put."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tools.qualify.finding import Finding, Json
from tools.qualify.stage import Broken, NotRun, Stage, Target

__all__ = ["Answer", "Probe"]


@dataclass(slots=True)
class Answer:
    """What a probe found (see Finding), and sentences about what the design did not expect."""

    outcome: Json = field(default_factory=lambda: dict[str, Any]())
    measured: Json = field(default_factory=lambda: dict[str, Any]())
    raw: Json = field(default_factory=lambda: dict[str, Any]())
    wrong: list[str] = field(default_factory=lambda: list[str]())

    def expect(self, holds: bool, sentence: str) -> None:
        """Notes the sentence if it does not hold. Only what mpsafe's design rests on is expected."""
        if not holds:
            self.wrong.append(f"not so: {sentence}")


@dataclass(frozen=True, slots=True)
class Probe:
    """A named question. `reproduced` are the keys of the outcome that the software GPU claims to give as well."""

    name: str
    question: str
    ask: Callable[[Stage, Answer], None]
    reproduced: tuple[str, ...] = ()
    limit_s: float = 90.0

    def run(self, target: Target) -> Finding:
        """Asks it, within `limit_s` and the few seconds that ending its processes may take."""
        answer = Answer()
        began = time.monotonic()
        try:
            with Stage(target, limit_s=self.limit_s) as stage:
                self.ask(stage, answer)
        except NotRun as reason:
            return Finding(self.name, "not run", reason=str(reason))
        except (Broken, TimeoutError) as error:
            answer.wrong.append(str(error))
        except Exception as error:  # a probe that breaks takes no other with it, and what it had found is kept
            answer.wrong.append(f"the probe itself is wrong: {error!r}")
        return Finding(
            name=self.name,
            status="failed" if answer.wrong else "ok",
            reason="; ".join(answer.wrong),
            seconds=round(time.monotonic() - began, 3),
            outcome=answer.outcome,
            measured=answer.measured,
            raw=answer.raw,
        )

    def differences(self, recorded: Finding, replayed: Finding) -> list[str]:
        """Where a run on the software GPU does not give what was recorded, of what it claims to give."""
        return [
            f"{self.name}: {key} was {recorded.outcome[key]!r}, the software GPU gives {replayed.outcome.get(key)!r}"
            for key in self.reproduced
            if key in recorded.outcome and recorded.outcome[key] != replayed.outcome.get(key)
        ]
