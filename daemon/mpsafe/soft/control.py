# SPDX-License-Identifier: Apache-2.0
"""The stand-in for `nvidia-cuda-mps-control`, v2: the front end, and the way to the control daemon.

    -d  start the control daemon in the background      -f  in the foreground, log on stdout
    otherwise: commands from standard input, one a line

It speaks the real program's wire (control_wire.py), so each works with the other's daemon. The exit
status tells that a daemon answered, and the daemon's own after `quit`; of a command judge the text.
"""

import os
import select
import socket
import sys
from typing import Final

from mpsafe.soft.control_wire import GREETING, introduction, parse_reply, request
from mpsafe.soft.pipe_directory import pipe_directory
from mpsafe.soft.sockets import PACKET_MAX, connect

__all__ = ["main"]

NO_DAEMON: Final = "Cannot find MPS control daemon process\n"
HELP: Final = "The stand-in for CUDA MPS control of mpsafe's software GPU: nvidia-cuda-mps-control [-d | -f]\n"


def _connect() -> socket.socket:
    """To the privileged socket if we may, else to the one for all."""
    try:
        sock = connect(pipe_directory() / "control_privileged")
    except OSError:
        sock = connect(pipe_directory() / "control")
    if sock.recv(PACKET_MAX) != GREETING:
        raise ConnectionError("no greeting")
    for packet in introduction():
        sock.send(packet)
    return sock


class FrontEnd:
    """Sends what comes from standard input, prints what comes from the daemon, in whatever order they come."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._typed = b""
        self._reading = True

    def run(self) -> int:
        """Until the daemon ends the exchange; 0, as measured, if the connection breaks before."""
        while True:
            sources: list[socket.socket | int] = [self._sock, 0] if self._reading else [self._sock]
            ready, _, _ = select.select(sources, [], [])
            if 0 in ready:
                self._read()
            if self._sock in ready:
                try:
                    reply = parse_reply(self._sock.recv(PACKET_MAX))
                except (OSError, ValueError):
                    return 0
                if isinstance(reply, int):
                    return reply
                sys.stdout.write(f"{reply}\n")
                sys.stdout.flush()

    def _read(self) -> None:
        more = os.read(0, PACKET_MAX)
        *lines, self._typed = (self._typed + more).split(b"\n")
        if not more and self._typed:
            lines = [self._typed]
        self._reading = bool(more)
        packets = [packet for line in lines for packet in request(line.decode("utf-8", "replace"))]
        try:
            for packet in packets if more else [*packets, *request(None)]:
                self._sock.send(packet)
        except OSError:  # what has come back so far is still to be read
            self._reading = False


def main() -> int:
    """Front end or daemon, as the arguments say."""
    match sys.argv[1:]:
        case ["-d" | "-f" as how]:
            from mpsafe.soft import control_daemon

            return control_daemon.run(background=how == "-d")
        case ["-h" | "--help"]:
            sys.stdout.write(HELP)
            return 0
        case _:
            try:
                sock = _connect()
            except OSError:
                sys.stderr.write(NO_DAEMON)
                return 1
    return FrontEnd(sock).run()


if __name__ == "__main__":
    raise SystemExit(main())
