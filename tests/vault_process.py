# SPDX-License-Identifier: Apache-2.0
"""A process of a tenant with the vault at hand, which does what a test says, word by word.

    python vault_process.py TENANT SOCKET

It has `client`, `context`, `vault` and `kernel` (mpsafe's own kernels by name); see `word_process.py`.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from mpsafe import cuda
from mpsafe.client import Client
from mpsafe.model import Identity
from mpsafe.vault import Vault
from mpsafed.processes import identify
from word_process import WordProcess, obey

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


class VaultProcess(WordProcess):
    """Such a process on a host, a client of its MPS server unless `environment` says otherwise."""

    def __init__(
        self, host: HasEnvironment, tenant: str, socket: str, *, environment: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(Path(__file__), tenant, socket, environment={**host.environment, **(environment or {})})
        identity = identify(self.process.pid)
        assert identity is not None
        self.identity: Identity = identity
        assert self.answer() == "= 'up'"

    def stands_by(self) -> None:
        """Registers as a standby of its tenant, and waits for the word that promotes it."""
        self.do("words = client.stand_by(vault.tenant, resident_bytes=1)")
        assert self.do("next(words).phase") == "'warm'"
        self.begin(PROMOTED)


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
        obey(names, first="up")


if __name__ == "__main__":
    main()
