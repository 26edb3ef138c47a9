# SPDX-License-Identifier: Apache-2.0
"""Births and ends of processes as the kernel tells them: the process connector (connector(7), cn_proc.h).

It tells of every process of the machine, so a datagram is looked at with one `struct` call, and only what
concerns somebody whom we know is taken further. It wants CAP_NET_ADMIN and the first pid namespace; where
those are missing, the ends of clients are seen all the same, but not how they ended (process_ends.py).
"""

import asyncio
import errno
import importlib
import socket
import struct
from collections.abc import Callable, Container
from typing import Final

from mpsafe.errors import SourceLost
from mpsafed.signals import Cursor, SignalsLost
from mpsafed.sources import Emit, now_ns, readable
from mpsafed.sources.process_ends import ProcessEnds

__all__ = ["ProcessEvents"]

BUFFER_BYTES: Final = 4 << 20
READ_MAX: Final = 256
ANSWER_SECONDS: Final = 2.0
# In a storm of forks, waking up for each one would cost many times what reading it costs.
GATHER_SECONDS: Final = 0.01
TELL_SECONDS: Final = 1.0

_NETLINK_CONNECTOR: Final = 11
_SO_RCVBUFFORCE: Final = 33
_HEADERS_BYTES: Final = 36
_FORK: Final = 0x1
_EXIT: Final = 0x80000000
# nlmsghdr and cn_msg, `what`, cpu and timestamp, then four words: of a fork the pid and tgid of the parent and of
# the child, of an exit pid, tgid, wait status and the signal for the parent.
_EVENT: Final = struct.Struct(f"={_HEADERS_BYTES}xI12xIIII")
_WHAT: Final = struct.Struct(f"={_HEADERS_BYTES}xI12xI")


class ProcessEvents:
    """Tells `ends` how processes end, and `born(parent, child)` who is born of one of `parents`, as pids.

    Emits SignalsLost where the kernel had no room, and has `missed` look at everything again.
    """

    name = "process-events"

    def __init__(
        self,
        ends: ProcessEnds,
        *,
        parents: Callable[[], Container[int]],
        born: Callable[[int, int], None],
        missed: Callable[[], None],
    ) -> None:
        self._ends = ends
        self._parents = parents
        self._born = born
        self._missed = missed
        self._lost = 0
        self._told_at = 0.0

    @property
    def cursor(self) -> Cursor:
        """Always the same: what happens while nobody listens is not kept."""
        return Cursor(self.name, "now", 0)

    async def run(self, emit: Emit, alive: Callable[[str], None]) -> None:
        """Listens for ever. Raises SourceLost where the kernel will not tell."""
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_CONNECTOR) as events:
            await _subscribe(events)
            alive("births and ends of processes")
            self._ends.heard = True
            try:
                while True:
                    await readable(events.fileno())
                    while self._read(events):
                        await asyncio.sleep(0)
                    self._tell_lost(emit)
                    await asyncio.sleep(GATHER_SECONDS)
            finally:
                self._ends.heard = False

    def _read(self, events: socket.socket) -> bool:
        """Reads what is there, READ_MAX datagrams at most; says whether there may be more."""
        parents = self._parents()
        datagram = bytearray(_EVENT.size)
        for _ in range(READ_MAX):
            try:
                size = events.recv_into(datagram)
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._lost += 1
                self._missed()
                continue
            if size < _EVENT.size:
                continue
            what, _, second, third, fourth = _EVENT.unpack_from(datagram)
            if what == _EXIT and self._ends.watches(second):
                self._ends.thread_ended(second, third)
            elif what == _FORK and third == fourth and second in parents:
                self._born(second, third)
        return True

    def _tell_lost(self, emit: Emit) -> None:
        """At most once in TELL_SECONDS: whoever makes the kernel lose events must not fill the stream."""
        now = asyncio.get_running_loop().time()
        if self._lost and now - self._told_at >= TELL_SECONDS:
            emit(SignalsLost(time_ns=now_ns(), source=self.name, count=self._lost))
            self._lost, self._told_at = 0, now


async def _subscribe(events: socket.socket) -> None:
    """Asks for the events and waits until the kernel says that it will tell them: it refuses in silence."""
    # Only this needs pyroute2, and it takes long to import: the loop must not wait for it.
    await asyncio.to_thread(importlib.import_module, "pyroute2.netlink.connector.cn_proc")
    from pyroute2.netlink import NLMSG_DONE
    from pyroute2.netlink.connector import cn_proc

    events.setblocking(False)
    message = cn_proc.proc_event_control()
    message["header"] = {"type": NLMSG_DONE, "flags": 0, "sequence_number": 0, "pid": 0}
    message.update(idx=cn_proc.CN_IDX_PROC, val=cn_proc.CN_VAL_PROC, len=4, action=cn_proc.PROC_CN_MCAST_LISTEN)
    message.encode()
    try:
        events.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER_BYTES)
        events.bind((0, cn_proc.CN_IDX_PROC))
        events.send(message.data)
    except PermissionError as error:
        raise SourceLost(ProcessEvents.name, "it wants CAP_NET_ADMIN; ends of clients are seen, not how") from error
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            while True:
                await readable(events.fileno())
                what, refused = _WHAT.unpack_from(events.recv(1 << 16))
                if what == cn_proc.PROC_EVENT_NONE:
                    break
    except TimeoutError as error:
        reason = "outside the first pid namespace the kernel tells nothing; ends of clients are seen, not how"
        raise SourceLost(ProcessEvents.name, reason) from error
    if refused:
        raise SourceLost(ProcessEvents.name, f"the kernel refuses: {errno.errorcode.get(refused, refused)}")
