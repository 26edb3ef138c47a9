# SPDX-License-Identifier: Apache-2.0
"""One connection of the Varlink service: bounded input, one call at a time, replies in order.

A call is a JSON object that ends with a zero byte (varlink.org, "Method Call"). A method that
returns at once is answered in the same turn of the event loop. While one runs, what comes is kept,
MESSAGE_MAX bytes of it, and a hang-up is noticed; a stream waits until its reader has taken what
was sent.
"""

import asyncio
import contextvars
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Final, Protocol, TypeAlias

import msgspec
from asyncvarlink import (
    AnnotatedResult,
    FileDescriptor,
    FileDescriptorArray,
    GenericVarlinkErrorReply,
    VarlinkErrorReply,
    VarlinkMethodSignature,
)
from asyncvarlink.conversion import ConversionError, FileDescriptorVarlinkType

from mpsafe.errors import InternalError, MpsafeError
from mpsafe.protocol.replies import to_reply
from mpsafed.peer import Peer

__all__ = ["CURRENT", "Connection"]

MESSAGE_MAX: Final = 1 << 20
CHUNK: Final = 64 << 10
FDS_MAX: Final = 64

_log = logging.getLogger(__name__)


class Lookup(Protocol):
    """Finds a method by its full name; raises VarlinkErrorReply."""

    def __call__(self, name: str, *, more: bool) -> tuple[Callable[..., Any], VarlinkMethodSignature]: ...


class _Call(msgspec.Struct):
    method: str
    parameters: dict[str, Any] = {}
    oneway: bool = False
    more: bool = False


Reply: TypeAlias = dict[str, object]

_decoder = msgspec.json.Decoder(_Call)

CURRENT: contextvars.ContextVar["Connection"] = contextvars.ContextVar("connection")


class Connection:
    """Takes over the socket. `left` is called once, when it is closed."""

    def __init__(self, sock: socket.socket, peer: Peer, lookup: Lookup, left: Callable[["Connection"], None]) -> None:
        sock.setblocking(False)
        self.peer = peer
        self._socket = sock
        self._lookup = lookup
        self._left = left
        self._loop = asyncio.get_running_loop()
        self._input = bytearray()
        self._fds: list[int] = []
        self._output = bytearray()
        self._flushed: asyncio.Future[None] | None = None
        self._running: asyncio.Task[None] | None = None
        self._streaming = False
        self._ended = False
        self._at_end: list[Callable[[], None]] = []
        self.attachments = 0
        self._loop.add_reader(sock, self._readable)

    def at_end(self, undo: Callable[[], None]) -> None:
        """Has `undo` called when the connection is closed."""
        self._at_end.append(undo)

    def close(self) -> None:
        """Closes it: a call that runs is cancelled, what was not sent yet is not sent."""
        if self._socket.fileno() < 0:
            return
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        self._input.clear()
        for fd in self._fds:
            os.close(fd)
        if self._running is not None:
            self._running.cancel()
        for undo in self._at_end:
            undo()
        self._left(self)

    def _readable(self) -> None:
        try:
            data, fds, flags, _ = socket.recv_fds(self._socket, CHUNK, FDS_MAX, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        self._fds += fds
        self._input += data
        if flags & socket.MSG_CTRUNC or len(self._fds) > FDS_MAX:
            self._refuse("more than %d file descriptors", FDS_MAX)
        elif not data:
            self._end_of_input()
        else:
            self._take_calls()

    def _end_of_input(self) -> None:
        """A peer may stop sending and still wait for its reply; a stream ends with its reader."""
        self._ended = True
        self._loop.remove_reader(self._socket)
        if self._running is None or self._streaming:
            self.close()

    def _take_calls(self) -> None:
        while self._running is None and not self._output and (end := self._input.find(0)) >= 0:
            message = bytes(self._input[:end])
            del self._input[: end + 1]
            self._take_call(message)
        if len(self._input) <= MESSAGE_MAX:
            return
        if self._running is None and not self._output:
            self._refuse("a call of over %d bytes", MESSAGE_MAX)
        else:
            self._loop.remove_reader(self._socket)

    def _take_call(self, message: bytes) -> None:
        try:
            call = _decoder.decode(message)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            self._refuse("what is no Varlink call (%s)", error)
            return
        held = object()
        fds = FileDescriptorArray(held, self._fds)
        self._fds = []
        token = CURRENT.set(self)
        running: asyncio.Task[None] | None = None
        try:
            self.peer.demand(call.method)
            method, signature = self._lookup(call.method, more=call.more)
            parameters = signature.parameter_type.fromjson(call.parameters, {FileDescriptorVarlinkType: fds})
            if signature.more:
                self._streaming = True
                running = self._run(call, self._stream(call, method(**parameters)))
            elif signature.asynchronous:
                running = self._run(call, self._single(call, method(**parameters)))
            else:
                self._reply(call, method(**parameters))
        except Exception as error:
            self._reply_error(call, error)
        finally:
            CURRENT.reset(token)
            if running is None:
                fds.release(held)
            else:
                running.add_done_callback(lambda _: fds.release(held))

    def _run(self, call: _Call, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self._running = self._loop.create_task(work)
        self._running.add_done_callback(lambda task: self._ran(call, task))
        return self._running

    def _ran(self, call: _Call, task: asyncio.Task[None]) -> None:
        self._running = None
        self._streaming = False
        if task.cancelled() or self._socket.fileno() < 0:
            return
        if (error := task.exception()) is not None:
            self._reply_error(call, error)
        self._go_on()

    async def _single(self, call: _Call, result: Awaitable[AnnotatedResult]) -> None:
        self._reply(call, await result)

    async def _stream(self, call: _Call, results: AsyncIterator[AnnotatedResult]) -> None:
        async for result in results:
            self._reply(call, result)
            if self._output:
                self._flushed = self._loop.create_future()
                await self._flushed

    def _reply(self, call: _Call, result: AnnotatedResult) -> None:
        reply: Reply = {"parameters": result.parameters}
        if result.continues:
            reply["continues"] = True
        if not call.oneway:
            self._send(reply)

    def _reply_error(self, call: _Call, error: BaseException) -> None:
        match error:
            case VarlinkErrorReply():
                reply = error
            case MpsafeError():
                reply = to_reply(call.method.rpartition(".")[0], error)
            case ConversionError():
                parameter = str(error.location[0]) if error.location else ""
                reply = GenericVarlinkErrorReply("org.varlink.service.InvalidParameter", {"parameter": parameter})
            case _:
                _log.error("%s failed", call.method, exc_info=error)
                reply = to_reply(call.method.rpartition(".")[0], InternalError(call.method))
        if not call.oneway:
            self._send({"error": reply.name, "parameters": reply.paramstojson()})

    def _send(self, reply: Reply) -> None:
        fds: list[int] = []

        def place(value: object) -> int:
            if not isinstance(value, FileDescriptor):
                raise TypeError(f"{value!r} cannot be sent")
            fds.append(value.fileno())
            return len(fds) - 1

        data = msgspec.json.encode(reply, enc_hook=place) + b"\0"
        try:
            sent = socket.send_fds(self._socket, [data], fds) if fds else self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        if sent < len(data):
            self._output += data[sent:]
            self._loop.add_writer(self._socket, self._writable)

    def _writable(self) -> None:
        try:
            del self._output[: self._socket.send(self._output)]
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if not self._output:
            self._loop.remove_writer(self._socket)
            if self._flushed is not None and not self._flushed.done():
                self._flushed.set_result(None)
            self._go_on()

    def _go_on(self) -> None:
        """Nothing runs or nothing waits to be sent: the next call, or the end."""
        if self._running is not None or self._output:
            return
        if not self._ended:
            self._loop.add_reader(self._socket, self._readable)
        self._take_calls()
        if self._ended and self._running is None and not self._output:
            self.close()

    def _refuse(self, what: str, *arguments: object) -> None:
        _log.warning("uid %d, pid %d sent " + what + ": closed", self.peer.uid, self.peer.pid, *arguments)
        self.close()
