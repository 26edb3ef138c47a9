# SPDX-License-Identifier: Apache-2.0
"""A process of a tenant with the vault at hand, which does what a test says, word by word.

    python vault_process.py TENANT SOCKET

It has `client`, `context`, `vault` and `kernel` (mpsafe's own kernels by name), evaluates or executes each line of
stdin, a JSON string, and answers with one: "= " and the repr of what came of it, or "! " and the error.
"""

import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

from mpsafe import cuda
from mpsafe.client import Client
from mpsafe.model import Identity
from mpsafe.vault import Vault
from mpsafed.processes import identify

__all__ = ["OUTSIDE", "VaultProcess"]

PROMOTED: Final = """
word = next(words)
client.progress(word.event, received_ns=time.time_ns())
"""
OUTSIDE: Final = {"CUDA_MPS_PIPE_DIRECTORY": "/nonexistent"}


class HasEnvironment(Protocol):
    """A host, as far as a process sees it."""

    @property
    def environment(self) -> Mapping[str, str]: ...


class VaultProcess:
    """Such a process on a host, a client of its MPS server unless `environment` says otherwise."""

    def __init__(
        self, host: HasEnvironment, tenant: str, socket: str, *, environment: Mapping[str, str] | None = None
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, Path(__file__), tenant, socket],
            env={**host.environment, **(environment or {}), "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._begun = "its start"
        identity = identify(self.process.pid)
        assert identity is not None
        self.identity: Identity = identity
        assert self.answer() == "= 'up'"

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

    def stands_by(self) -> None:
        """Registers as a standby of its tenant, and waits for the word that promotes it."""
        self.do("words = client.stand_by(vault.tenant, resident_bytes=1)")
        assert self.do("next(words).phase") == "'warm'"
        self.begin(PROMOTED)

    def answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"process {self.process.pid} ended with {self.process.wait(60)}"
        return str(json.loads(line))


def main() -> None:
    """What the process does."""
    tenant, socket = sys.argv[1:]
    driver = cuda.load()
    driver.init()
    client = Client(socket)
    with (
        cuda.Context(driver, driver.devices()[0]) as context,
        cuda.Module(context, cuda.kernels()) as module,
        client.attach(tenant),
    ):
        names: dict[str, Any] = {
            "client": client,
            "context": context,
            "cuda": cuda,
            "driver": driver,
            "kernel": module.kernel,
            "vault": Vault(client, context, tenant),
        }
        exec("import contextlib, os, time; from mpsafe.vault import *; from mpsafe.cuda._cuda import ffi", names)
        say("= 'up'")
        for line in sys.stdin:
            words = json.loads(line)
            try:
                try:
                    code = compile(words, "<test>", "eval")
                except SyntaxError:
                    exec(words, names)
                    say("= None")
                else:
                    say(f"= {eval(code, names)!r}")
            except Exception as error:
                say(f"! {type(error).__name__}: {error}")


def say(text: str) -> None:
    """One line."""
    sys.stdout.write(json.dumps(text) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
