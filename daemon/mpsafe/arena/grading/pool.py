# SPDX-License-Identifier: Apache-2.0
"""Grading of many rows. A mathematical answer can take for ever: those are graded in processes that end in time."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Final

from mpsafe.arena.grading.families import CODE, Grade, grade

__all__ = ["Task", "grade_all"]

SLOW: Final = "math_metric"


@dataclass(frozen=True, slots=True)
class Task:
    """One answer, what it is graded by, and the truth."""

    metric: str
    answer: str
    truth: str


class _Worker:
    """A process that grades one task at a time. It is ended when it is closed, whatever it does."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other,), daemon=True)
        self._process.start()
        other.close()
        self.number = -1
        self.deadline = 0.0

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()

    def begin(self, number: int, task: Task, seconds: float) -> None:
        """Sends a task; a new process gets ten seconds to come up."""
        grace = 10.0 if self.number < 0 else 0.0
        self.number, self.deadline = number, time.monotonic() + seconds + grace
        self.connection.send(task)


def grade_all(
    tasks: Sequence[Task], *, seconds: float, workers: int, done: Callable[[], None] = lambda: None
) -> list[Grade]:
    """A grade for each task, in order. A row that takes more than `seconds`, or ends its process, scores 0 and says so.

    Code is not executed here: such a row has no grade.
    """
    found: dict[int, Grade] = {}
    slow: list[int] = []
    for number, task in enumerate(tasks):
        if task.metric == SLOW:
            slow.append(number)
            continue
        if task.metric == CODE:
            found[number] = Grade(None, "", CODE, "code is executed only when asked for")
        else:
            found[number] = grade(task.metric, task.answer, task.truth)
        done()
    for number, one in _in_processes(tasks, slow, seconds, workers, done).items():
        found[number] = one
    return [found[number] for number in range(len(tasks))]


def _in_processes(
    tasks: Sequence[Task], numbers: Sequence[int], seconds: float, workers: int, done: Callable[[], None]
) -> dict[int, Grade]:
    found: dict[int, Grade] = {}
    waiting = list(reversed(numbers))
    with ExitStack() as stack:
        busy: dict[Connection, _Worker] = {}

        def start(worker: _Worker) -> None:
            if waiting:
                number = waiting.pop()
                worker.begin(number, tasks[number], seconds)
                busy[worker.connection] = worker

        for _ in range(min(workers, len(numbers))):
            start(stack.enter_context(_Worker()))
        while busy:
            left = min(worker.deadline for worker in busy.values()) - time.monotonic()
            for ready in wait(list(busy), max(0.0, left)):
                assert isinstance(ready, Connection)
                worker = busy.pop(ready)
                try:
                    found[worker.number] = ready.recv()
                except EOFError:
                    found[worker.number] = Grade(0.0, "", SLOW, "its grader ended")
                    worker.__exit__()
                    worker = stack.enter_context(_Worker())
                done()
                start(worker)
            for worker in [one for one in busy.values() if one.deadline < time.monotonic()]:
                del busy[worker.connection]
                found[worker.number] = Grade(0.0, "", SLOW, f"it takes more than {seconds:g} s")
                done()
                worker.__exit__()
                start(stack.enter_context(_Worker()))
    return found


def _serve(connection: Connection) -> None:
    while True:
        try:
            task = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        connection.send(grade(task.metric, task.answer, task.truth))
