# SPDX-License-Identifier: Apache-2.0
"""What is to be done that a control daemon is as declared; pure.

It adopts what runs, starts what does not, and stops only what it has started itself, or an admin told
it to: a daemon that somebody put there has clients that nobody asked about.
"""

from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from mpsafed.declared import Choice, Declared

__all__ = ["BACK_OFF_MAX_SECONDS", "SETTLED_SECONDS", "BackOff", "Observed", "Step", "plan"]

BACK_OFF_SECONDS: Final = 1.0
BACK_OFF_MAX_SECONDS: Final = 60.0
SETTLED_SECONDS: Final = 60.0

Step: TypeAlias = Literal["adopt", "start", "stop", "apply_limits"]


@dataclass(frozen=True, slots=True)
class Observed:
    """A control daemon as it is: whether one answers, is held by us, was started by us, and was told to quit.

    One that was told is told again at each look: nothing says that the first time was heard.

    `wait_s`: how long no start is to be tried.
    """

    answers: bool = False
    adopted: bool = False
    started: bool = False
    stopping: bool = False
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class BackOff:
    """How long to wait before the next start, by a clock that only goes on: 1 s, doubling to 60 s.

    Once a daemon has lived for 60 s, the next start is tried at once.
    """

    delay_s: float = 0.0
    until_s: float = 0.0

    def after_failure(self, now_s: float) -> "BackOff":
        """A start failed, or a daemon ended before it had settled."""
        delay_s = min(max(2 * self.delay_s, BACK_OFF_SECONDS), BACK_OFF_MAX_SECONDS)
        return replace(self, delay_s=delay_s, until_s=now_s + delay_s)

    def after_end(self, now_s: float, lived_s: float) -> "BackOff":
        """A daemon ended that had lived so long."""
        return BackOff() if lived_s >= SETTLED_SECONDS else self.after_failure(now_s)

    def wait_s(self, now_s: float) -> float:
        """What is left to wait; never more than the delay, whatever the clock does."""
        return min(max(self.until_s - now_s, 0.0), self.delay_s)


def plan(declared: Declared, choice: Choice, observed: Observed) -> list[Step]:
    """The next steps, in order; none where all is as it is to be, or has to be waited for."""
    if not observed.answers:
        may_start = choice.wanted and declared.how != "adopt" and observed.wait_s <= 0
        return ["start", "adopt", "apply_limits"] if may_start else []
    steps: list[Step] = [] if observed.adopted else ["adopt"]
    if observed.stopping:
        return [*steps, "stop"]
    if choice.wanted or declared.how == "adopt":
        return [*steps, "apply_limits"]
    return [*steps, "stop"] if observed.started else steps
