# SPDX-License-Identifier: Apache-2.0
"""A process that does what a test says, word by word: `WordProcess` in the test, `obey` in the process.

Each line of its stdin is a JSON string that it evaluates or executes; it answers with one: "= " and the repr of what
came of it, or "! " and the error. The first answer, unasked, is that of its start.
"""

import json
import os
import select
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fork_server import Forked

__all__ = ["WordProcess", "obey"]


class WordProcess:
    """`program` with `arguments`, on a host with that environment."""

    def __init__(self, program: Path, *arguments: str, environment: Mapping[str, str]) -> None:
        more = {"PYTHONPATH": os.pathsep.join(sys.path)}
        self.process = Forked(program.stem, arguments, environment={**environment, **more})
        self._begun = "its start"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kills it, if it is still there, and closes its pipes."""
        self.kill()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()

    def kill(self) -> None:
        """SIGKILL, and waits for its end."""
        self.process.kill()
        self.process.wait(60)

    def begin(self, words: str) -> None:
        """Has it do something and does not wait."""
        assert self.process.stdin is not None
        self._begun = words
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()

    def do(self, words: str) -> str:
        """Has it do something that goes well; returns the repr of an expression's value."""
        self.begin(words)
        return self.result()

    def fails(self, words: str) -> str:
        """Has it do something that fails; returns the error's class and text."""
        self.begin(words)
        answer = self.answer()
        assert answer.startswith("! "), answer
        return answer[2:]

    def result(self) -> str:
        """What came of what was begun."""
        answer = self.answer()
        assert answer.startswith("= "), f"{self._begun}: {answer}"
        return answer[2:]

    def has_answered(self) -> bool:
        """Whether what was begun has come to its end."""
        assert self.process.stdout is not None
        poll = select.poll()
        poll.register(self.process.stdout, select.POLLIN)
        return bool(poll.poll(0))

    def answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"process {self.process.pid} ended with {self.process.wait(60)}"
        return str(json.loads(line))


def obey(names: dict[str, Any], *, first: object) -> None:
    """Says `first`, and does what stdin says with these names, until it ends."""
    _say(f"= {first!r}")
    for line in sys.stdin:
        words = json.loads(line)
        try:
            try:
                code = compile(words, "<test>", "eval")
            except SyntaxError:
                exec(words, names)
                _say("= None")
            else:
                _say(f"= {eval(code, names)!r}")
        except Exception as error:
            _say(f"! {type(error).__name__}: {error}")


def _say(text: str) -> None:
    """One line."""
    sys.stdout.write(json.dumps(text) + "\n")
    sys.stdout.flush()
