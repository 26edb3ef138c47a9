# SPDX-License-Identifier: Apache-2.0
"""A Varlink connection without an event loop: one call at a time, descriptors with the reply.

Made for a low cost a call: one send and, as a rule, one receive, replies decoded by msgspec straight
into the model. What the daemon sends is checked like anybody's input.
"""

import array
import os
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self, TypeVar

import msgspec

from mpsafe.errors import DaemonUnreachable, MpsafeError, PeerMisbehaved
from mpsafe.protocol.replies import from_reply

__all__ = ["Wire", "sent_error"]

CHUNK: Final = 64 << 10
REPLY_MAX: Final = 64 << 20
FDS_MAX: Final = 64
TIMEVAL: Final = struct.Struct("@ll")
INT_BYTES: Final = array.array("i").itemsize
ANCILLARY_BYTES: Final = socket.CMSG_SPACE(FDS_MAX * INT_BYTES)

T = TypeVar("T")


class _Reply(msgspec.Struct):
    parameters: msgspec.Raw = msgspec.Raw(b"{}")
    continues: bool = False
    error: str | None = None


class Wire:
    """One connection. Raises DaemonUnreachable where nobody answers."""

    def __init__(self, path: str, *, timeout_s: float | None) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._buffer = bytearray()
        self._replies = msgspec.json.Decoder(_Reply)
        self._decoders: dict[type[Any], msgspec.json.Decoder[Any]] = {}
        self.fds: list[int] = []
        try:
            # Without blocking, connect(2) fails where too many others wait to be accepted.
            seconds = timeout_s or 0.0
            timeval = TIMEVAL.pack(int(seconds), int(seconds % 1 * 1e6))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
            self._socket.connect(path)
            self._socket.settimeout(timeout_s)
        except OSError as error:
            self._socket.close()
            raise DaemonUnreachable(path, error.strerror or str(error)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    @property
    def pending(self) -> bool:
        """Whether a reply is there already, also where the socket has nothing more to read."""
        return 0 in self._buffer

    def call(self, method: str, parameters: dict[str, Any], kind: type[T], fds: Sequence[int] = ()) -> T:
        """One call, one reply. `fds` go with it, and stay the caller's."""
        self.send(method, parameters, more=False, fds=fds)
        return self.receive(kind)[0]

    def send(self, method: str, parameters: dict[str, Any], *, more: bool, fds: Sequence[int] = ()) -> None:
        """Sends a call; `more` asks for a stream of replies."""
        call: dict[str, object] = {"method": method, "parameters": parameters}
        if more:
            call["more"] = True
        try:
            data = msgspec.json.encode(call) + b"\0"
            sent = socket.send_fds(self._socket, [data], fds) if fds else 0
            self._socket.sendall(data[sent:])
        except OSError as error:
            raise DaemonUnreachable(self._path, error.strerror or str(error)) from error

    def receive(self, kind: type[T]) -> tuple[T, bool]:
        """The next reply's parameters, and whether more will come. Raises the error that was sent."""
        raw = self._message()
        try:
            reply = self._replies.decode(raw)
            if reply.error is not None:
                raise sent_error(reply.error, msgspec.json.decode(reply.parameters, type=dict[str, Any]), self._path)
            return self._decoder_of(kind).decode(reply.parameters), reply.continues
        except msgspec.MsgspecError as error:
            raise PeerMisbehaved(self._path, "a Varlink reply of this interface", str(error)) from error

    def take_fds(self, count: int) -> list[int]:
        """Takes over the descriptors that came with the last reply."""
        fds, self.fds = self.fds, []
        if len(fds) != count:
            for fd in fds:
                os.close(fd)
            raise PeerMisbehaved(self._path, f"{count} file descriptors", str(len(fds)))
        return fds

    def close(self) -> None:
        """Closes the connection and descriptors that nobody took."""
        self._socket.close()
        for fd in self.fds:
            os.close(fd)
        self.fds = []

    def _decoder_of(self, kind: type[T]) -> msgspec.json.Decoder[T]:
        if kind not in self._decoders:
            self._decoders[kind] = msgspec.json.Decoder(kind)
        return self._decoders[kind]

    def _message(self) -> bytes:
        while (end := self._buffer.find(0)) < 0:
            if len(self._buffer) > REPLY_MAX:
                raise PeerMisbehaved(self._path, f"a reply of at most {REPLY_MAX} bytes", "more")
            try:
                data, ancillary, flags, _ = self._socket.recvmsg(CHUNK, ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
            except TimeoutError as error:
                raise DaemonUnreachable(self._path, "no answer in time") from error
            except OSError as error:
                raise DaemonUnreachable(self._path, error.strerror or str(error)) from error
            for level, kind, payload in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    self.fds += array.array("i", payload[: len(payload) // INT_BYTES * INT_BYTES])
            if flags & socket.MSG_CTRUNC:
                raise PeerMisbehaved(self._path, f"at most {FDS_MAX} file descriptors", "more")
            if not data:
                raise DaemonUnreachable(self._path, "it closed the connection")
            self._buffer += data
        message = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return message


def sent_error(name: str, parameters: Mapping[str, Any], peer: str) -> MpsafeError:
    """The error that the daemon sent, as we know it; PeerMisbehaved where we do not."""
    known = from_reply(name, parameters)
    if known is not None:
        return known
    return PeerMisbehaved(peer, "a reply", f"error {name} {parameters.get('message', parameters)}")
