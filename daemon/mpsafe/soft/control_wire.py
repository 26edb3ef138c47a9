# SPDX-License-Identifier: Apache-2.0
"""What goes over the control daemon's sockets, as measured on 535.309.01 and 550.163.01.

The daemon greets with OUTBHELL. A front end sends OUTBCRED, its kind (4), then a length and a text
that ends with "\\n\\0" for each command, and a length of 0 behind the last, each in a packet of its
own; replies are (0, text) for each line, and (1, status) ends. A software libcuda sends magic, kind
(1) and 0 in one packet (ffi/soft/wire.h): fields count, not packets.
"""

import struct
from typing import Final

__all__ = [
    "GREETING",
    "KIND_CLIENT",
    "KIND_FRONT_END",
    "Incoming",
    "introduction",
    "parse_reply",
    "reply_end",
    "reply_line",
    "request",
]

GREETING: Final = b"OUTBHELL\0"
MAGIC: Final = b"OUTBCRED\0"
KIND_CLIENT: Final = 1
KIND_FRONT_END: Final = 4
COMMAND_MAX: Final = 4096

_WORD: Final = struct.Struct("<I")
_LENGTH: Final = struct.Struct("<Q")
_END: Final = struct.Struct("<II")


def request(command: str | None) -> list[bytes]:
    """The packets of one command of a front end; None ends the commands."""
    if command is None:
        return [_LENGTH.pack(0)]
    text = command.encode() + b"\n\0"
    return [_LENGTH.pack(len(text)), text]


def introduction() -> list[bytes]:
    """The packets with which a front end begins."""
    return [MAGIC, _WORD.pack(KIND_FRONT_END)]


def reply_line(text: str) -> bytes:
    """One line of a reply."""
    return _WORD.pack(0) + text.encode()


def reply_end(status: int) -> bytes:
    """The end of the exchange, and the front end's exit status."""
    return _END.pack(1, status)


def parse_reply(packet: bytes) -> str | int:
    """A line's text, or the exit status that ends the exchange. ValueError if it is neither."""
    if len(packet) < _WORD.size:
        raise ValueError("no reply of a control daemon")
    if _WORD.unpack_from(packet)[0] == 0:
        return packet[_WORD.size :].decode("utf-8", "replace")
    return int(_END.unpack_from(packet)[1]) if len(packet) >= _END.size else 1


class Incoming:
    """What one connection has sent so far: the magic, its kind, then commands. `ended`: the 0 has come."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._credited = False
        self.kind: int | None = None
        self.ended = False

    def feed(self, packet: bytes) -> list[str]:
        """The commands that are complete now. ValueError, with the log's sentence, if it is none of this."""
        self._bytes += packet
        if not self._credited and len(self._bytes) >= len(MAGIC):
            if self._take(len(MAGIC)) != MAGIC:
                raise ValueError("Unable to read new connection type information")
            self._credited = True
        if self._credited and self.kind is None and len(self._bytes) >= _WORD.size:
            self.kind = int(_WORD.unpack(self._take(_WORD.size))[0])
            if self.kind not in (KIND_CLIENT, KIND_FRONT_END):
                raise ValueError("Unknown type of connection")
        commands: list[str] = []
        while self.kind is not None and not self.ended and len(self._bytes) >= _LENGTH.size:
            length = int(_LENGTH.unpack_from(self._bytes)[0])
            if length > COMMAND_MAX:
                raise ValueError("UI closed")
            if len(self._bytes) < _LENGTH.size + length:
                break
            self._take(_LENGTH.size)
            text = self._take(length)
            self.ended = length == 0
            if length:
                commands.append(text.rstrip(b"\n\0").decode("utf-8", "replace"))
        return commands

    def _take(self, size: int) -> bytes:
        taken = bytes(self._bytes[:size])
        del self._bytes[:size]
        return taken
