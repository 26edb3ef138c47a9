# SPDX-License-Identifier: Apache-2.0
"""Who holds the vault's descriptors while there is no daemon: systemd, or a keeper process.

Both give back at the start what was put with them before, by name. What is put with them is a copy.
"""

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, Protocol

from mpsafe.errors import VaultClosed
from mpsafed.fdstore import FdStore
from mpsafed.vault.keeper import FDS_MAX, MESSAGE_MAX

__all__ = ["PREFIX", "Holder", "Keeper", "SystemdStore"]

PREFIX: Final = "vault-"
PATIENCE_S: Final = 10.0

_log = logging.getLogger(__name__)


class Holder(Protocol):
    """What holds descriptors for the daemon."""

    name: str

    def handed_over(self) -> dict[str, int]:
        """What an earlier daemon has put here; from here on the descriptors are the caller's."""
        ...

    def hold(self, fds: Mapping[str, int]) -> None:
        """Returns once all are held. VaultClosed: some may be, and are to be let go of."""
        ...

    def let_go(self, names: Iterable[str]) -> None:
        """Lets go of them; of a name that is not there, too."""
        ...


class SystemdStore:
    """systemd's file descriptor store."""

    name = "systemd"

    def __init__(self, store: FdStore) -> None:
        self._store = store

    def handed_over(self) -> dict[str, int]:
        """See Holder."""
        return self._store.taken_all(PREFIX)

    def hold(self, fds: Mapping[str, int]) -> None:
        """See Holder. systemd drops in silence what it has no room for, so it is asked how much it holds."""
        try:
            before = self._store.count()
            for name, fd in fds.items():
                self._store.store(name, fd)
            held = self._store.count()
        except (OSError, subprocess.SubprocessError) as error:
            raise VaultClosed(f"what systemd's store holds cannot be told: {error}") from error
        if held < before + len(fds):
            told = f"systemd's store holds {held} descriptors where there should be {before + len(fds)}"
            raise VaultClosed(f"{told}: see FileDescriptorStoreMax= of the unit")

    def let_go(self, names: Iterable[str]) -> None:
        """See Holder."""
        for name in names:
            self._store.remove(name)


class Keeper:
    """The keeper process that listens on `path`; started when there is something to hold."""

    name = "keeper"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket: socket.socket | None = None

    def handed_over(self) -> dict[str, int]:
        """See Holder."""
        found: dict[str, int] = {}
        if (sock := self._connected()) is None:
            return found
        sock.send(b"list")
        while True:
            data, fds, flags, _ = socket.recv_fds(sock, MESSAGE_MAX, FDS_MAX, socket.MSG_CMSG_CLOEXEC)
            word, *names = data.decode("ascii", "replace").split() or [""]
            if word != "held" or flags & socket.MSG_CTRUNC or len(names) != len(fds):
                for fd in fds:
                    os.close(fd)
                if word != "end":
                    _log.error("the keeper on %s answers %r: what it holds is not taken up", self._path, data[:40])
                return found
            found |= zip(names, fds, strict=True)

    def hold(self, fds: Mapping[str, int]) -> None:
        """See Holder."""
        names = list(fds)
        for first in range(0, len(names), FDS_MAX):
            part = names[first : first + FDS_MAX]
            self._ask(f"hold {' '.join(part)}", [fds[name] for name in part])

    def let_go(self, names: Iterable[str]) -> None:
        """See Holder."""
        names = list(names)
        for first in range(0, len(names), FDS_MAX) if self._connected() else ():
            try:
                self._ask(f"drop {' '.join(names[first : first + FDS_MAX])}", [])
            except VaultClosed as error:
                _log.warning("%s", error)

    def close(self) -> None:
        """Leaves it alone with what it holds."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _ask(self, message: str, fds: list[int]) -> None:
        try:
            sock = self._connected() or self._started()
            socket.send_fds(sock, [message.encode()], fds)
            answer = sock.recv(MESSAGE_MAX)
        except (OSError, subprocess.SubprocessError) as error:
            self.close()
            raise VaultClosed(f"the keeper on {self._path} does not answer: {error}") from error
        if answer != b"ok":
            self.close()
            raise VaultClosed(f"the keeper on {self._path} answers {answer.decode('ascii', 'replace')[:80]!r}")

    def _connected(self) -> socket.socket | None:
        if self._socket is None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            sock.settimeout(PATIENCE_S)
            try:
                sock.connect(os.fspath(self._path))
            except OSError:
                sock.close()
                return None
            self._socket = sock
        return self._socket

    def _started(self) -> socket.socket:
        self._path.unlink(missing_ok=True)
        command = [sys.executable, "-P", "-m", "mpsafed.vault.keeper", os.fspath(self._path)]
        subprocess.run(command, check=True, timeout=PATIENCE_S, stdin=subprocess.DEVNULL)
        if (sock := self._connected()) is None:
            raise OSError(f"no keeper listens on {self._path}")
        return sock
