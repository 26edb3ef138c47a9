# SPDX-License-Identifier: Apache-2.0
"""Asks the serving example for tokens, and does not lose one when the process that serves is replaced."""

import contextlib
import json
import os
import select
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

__all__ = ["Asked", "ask"]

PACKET_MAX: Final = 4096
LOOK_S: Final = 0.001


class _Token(msgspec.Struct):
    id: str
    at: int
    token: int


@dataclass(slots=True)
class Asked:
    """One request: how many tokens, those that came, and when (CLOCK_REALTIME, ns)."""

    prompt: bytes
    tokens: int
    said: bytearray = field(default_factory=bytearray)
    came_ns: list[int] = field(default_factory=lambda: list[int]())


def ask(
    path: Path,
    requests: Mapping[str, Asked],
    *,
    patience_s: float,
    each: Callable[[], None] | None = None,
) -> list[int]:
    """Asks until all has come; returns when it connected (CLOCK_REALTIME, ns). TimeoutError after `patience_s`.

    `each` is called after each token. The path leads to whoever serves now: it is looked at while nothing comes, since
    a process that is stopped keeps its connections open.
    """
    end = time.monotonic() + patience_s
    connected: list[int] = []
    while any(len(one.said) < one.tokens for one in requests.values()):
        if time.monotonic() > end:
            raise TimeoutError(f"{path}: not all tokens within {patience_s:g} s")
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(os.fspath(path))
            connected.append(time.time_ns())
            inode = path.stat().st_ino
            for name, one in requests.items():
                if len(one.said) < one.tokens:
                    question = {"id": name, "prompt": one.prompt.hex(), "tokens": one.tokens, "seen": len(one.said)}
                    sock.send(json.dumps(question).encode())
            _listen(sock, requests, path, inode, end, each)
            continue
        time.sleep(LOOK_S)
    return connected


def _listen(
    sock: socket.socket,
    requests: Mapping[str, Asked],
    path: Path,
    inode: int,
    end: float,
    each: Callable[[], None] | None,
) -> None:
    """Takes in tokens until all are there, the connection ends, or somebody else serves."""
    while any(len(one.said) < one.tokens for one in requests.values()) and time.monotonic() < end:
        if not select.select([sock], [], [], LOOK_S)[0]:
            if path.stat().st_ino != inode:
                return
            continue
        packet = sock.recv(PACKET_MAX)
        if not packet:
            return
        token = msgspec.json.decode(packet, type=_Token)
        one = requests[token.id]
        if token.at == len(one.said):
            one.said.append(token.token)
            one.came_ns.append(time.time_ns())
            if each is not None:
                each()
