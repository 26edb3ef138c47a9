# SPDX-License-Identifier: Apache-2.0
"""Requests to one tenant, one after the other, each answer checked against the host's own arithmetic."""

import array
import random
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from mpsafe.demo.tenant import BUGS, SIZE, matrix

__all__ = ["Sample", "Traffic"]

PERIOD_SECONDS: Final = 0.01
ANSWER_SECONDS: Final = 1.0
PACKET_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class Sample:
    """One request: when it was sent (CLOCK_MONOTONIC, s), how long it took, how it ended."""

    sent: float
    took: float
    outcome: str

    @property
    def good(self) -> bool:
        """Whether the right answer came."""
        return self.outcome == "ok"


class Traffic:
    """Asks until its `with` ends. `samples` grows; read it from any thread."""

    def __init__(self, name: str, path: Path) -> None:
        self._matrix = matrix(name)
        self._numbers = random.Random(name)
        self._path = path
        self._connection: socket.socket | None = None
        self._bug: bytes | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._ask_on, daemon=True)
        self.samples: list[Sample] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._hang_up()

    def hit(self, bug: str) -> None:
        """Has the next request hit one of the tenant's bugs."""
        self._bug = BUGS[bug]

    def _ask_on(self) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            outcome = self._ask()
            self.samples.append(Sample(began, time.monotonic() - began, outcome))
            self._stopping.wait(max(0.0, began + PERIOD_SECONDS - time.monotonic()))

    def _ask(self) -> str:
        vector = [float(self._numbers.randint(-8, 8)) for _ in range(SIZE)]
        bug, self._bug = self._bug, None
        request = bug or array.array("f", vector).tobytes()
        try:
            if self._connection is None:
                self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                self._connection.settimeout(ANSWER_SECONDS)
                self._connection.connect(str(self._path))
            self._connection.send(request)
            reply = self._connection.recv(PACKET_MAX)
        except OSError as error:
            self._hang_up()
            return f"no answer: {error.strerror or error}"
        if not reply:
            self._hang_up()
            return "no answer: it hung up"
        if reply.startswith(b"error "):
            return reply.decode("utf-8", "replace")
        if bug is not None:
            return "the bug was hit"
        answer = array.array("f", reply[: SIZE * 4])
        expected = [sum(w * x for w, x in zip(row, vector, strict=True)) for row in self._matrix]
        return "ok" if answer.tolist() == expected else "a wrong answer"

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
