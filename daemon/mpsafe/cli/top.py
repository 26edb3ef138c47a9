# SPDX-License-Identifier: Apache-2.0
"""mpsafe top: the host as it goes. Tenants come from the status page, read without a call."""

import asyncio
import contextlib
import math
import os
import signal
import sys
import termios
import time
import tty
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Final

import click
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from mpsafe.cli.events import line
from mpsafe.cli.options import console, json_option, print_json, socket_option, words
from mpsafe.cli.status import server_table
from mpsafe.cli.tenants import TenantLine, tenant_lines, tenant_table
from mpsafe.client import AsyncClient, Attachment, Client
from mpsafe.errors import ConnectionEnded
from mpsafe.model import Event
from mpsafe.protocol.host import Description

__all__ = ["top"]

EVENTS_MAX: Final = 100
PICTURE_SECONDS: Final = 0.1
TICK_SECONDS: Final = 1.0
ASK_SECONDS: Final = 5.0
SILENT_NS: Final = 3_000_000_000


@dataclass(slots=True)
class View:
    """What is known now; `trouble` is empty, or why the daemon does not answer."""

    host: Description | None = None
    lines: list[TenantLine] = field(default_factory=lambda: list[TenantLine]())
    events: deque[Event] = field(default_factory=lambda: deque[Event](maxlen=EVENTS_MAX))
    trouble: str = ""


@click.command()
@socket_option
@json_option
@click.option("--once", is_flag=True, help="print one picture and end, which is also what happens in a pipe")
def top(socket: str, as_json: bool, once: bool) -> None:
    """Watch tenants, servers and events; q ends it."""
    out = console()
    if as_json or once or not (out.is_terminal and sys.stdin.isatty()):
        view = _look(socket)
        if as_json:
            assert view.host is not None
            print_json("mpsafe.top/1", tenants=view.lines, servers=view.host.servers, events=list(view.events))
        else:
            out.print(picture(view, out, EVENTS_MAX))
        return
    with _keys(), Live(console=out, auto_refresh=False, screen=True) as live:
        asyncio.run(_follow(socket, lambda view: live.update(_screen(view, out), refresh=True)))


def _look(socket: str) -> View:
    """One look, by calls and the page."""
    with Client(socket) as client, client.attach() as attached:
        host, lines = client.describe(), tenant_lines(attached.page)
        return View(host, lines, deque(client.events(), EVENTS_MAX))


def _screen(view: View, out: Console) -> Group:
    servers = len(view.host.servers) if view.host else 0
    events = max(2, out.height - len(view.lines) - servers - 15)
    return Group(picture(view, out, events), Text("\nq quits", "dim"))


def picture(view: View, out: Console, events: int) -> Group:
    """The newest `events` events below tenants and servers; each event is cut to one line of the screen."""
    shown = [margin + what for margin, what in (line(event, "%H:%M:%S") for event in list(view.events)[-events:])]
    for one in shown:
        one.truncate(out.width, overflow="ellipsis")
    servers = view.host.servers if view.host else []
    return Group(
        _heading(view),
        Text(),
        tenant_table("Tenants", view.lines),
        Text(),
        server_table("MPS servers", servers),
        Text(),
        Text("Last events", "bold"),
        *(shown or [Text("none", "dim")]),
    )


def _heading(view: View) -> Text:
    if view.trouble:
        return words(view.trouble, "red")
    if view.host is None:
        return Text("asking mpsafed ...", "dim")
    acting = "acting" if view.host.acting else "dry run"
    unseen = [source.name for source in view.host.sources if not source.alive]
    blind = words(f", cannot see {', '.join(unseen)}", "yellow") if unseen else Text()
    about = f"mpsafed {view.host.version}, pid {view.host.pid}, driver {view.host.driver}, {acting}"
    return words(about) + blind


@contextlib.contextmanager
def _keys() -> Generator[None]:
    """Keys come one by one and unseen."""
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


async def _follow(socket: str, show: Callable[[View], None]) -> None:
    """Until a key or a signal ends it."""
    loop, quitting, view = asyncio.get_running_loop(), asyncio.Event(), View()

    def key() -> None:
        keys = os.read(sys.stdin.fileno(), 64)
        if not keys or b"q" in keys.lower():
            quitting.set()

    loop.add_reader(sys.stdin, key)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, quitting.set)
    showing = asyncio.create_task(_show(socket, view, show))
    try:
        await asyncio.wait([showing, asyncio.create_task(quitting.wait())], return_when=asyncio.FIRST_COMPLETED)
    finally:
        loop.remove_reader(sys.stdin)
        showing.cancel()
        await asyncio.wait([showing])
    if not showing.cancelled():
        showing.result()


async def _show(socket: str, view: View, show: Callable[[View], None]) -> None:
    """Attaches, shows, and does so again with every daemon that comes."""
    show(view)
    while True:
        try:
            async with AsyncClient(socket) as client:
                view.host = await client.describe()
                view.events.clear()
                with await client.attach() as attached:
                    await _Attached(client, attached, view, show).until_another_comes()
        except* ConnectionEnded as ended:
            view.trouble = f"{ended.exceptions[0]}; asking again"
            show(view)
            await asyncio.sleep(TICK_SECONDS)


class _Attached:
    """One life of the daemon. Drawing never waits for an answer: in a fault MPS may be slow to give any."""

    def __init__(self, client: AsyncClient, attached: Attachment, view: View, show: Callable[[View], None]) -> None:
        self._client = client
        self._attached = attached
        self._view = view
        self._show = show
        self._moved = asyncio.Event()
        self._stale = asyncio.Event()

    async def until_another_comes(self) -> None:
        """Returns when another daemon answers; raises ConnectionEnded where none does."""
        async with asyncio.TaskGroup() as tasks:
            others = [tasks.create_task(self._draw()), tasks.create_task(self._watch())]
            await self._ask()
            for task in others:
                task.cancel()

    async def _ask(self) -> None:
        """For what is not on the page, when the page or the stream has moved, and now and then."""
        while self._view.host is None or self._view.host.epoch == self._attached.epoch:
            self._view.trouble = ""
            self._stale.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ASK_SECONDS):
                    await self._moved.wait()
            self._moved.clear()
            self._view.host = await self._client.describe()
            await asyncio.sleep(TICK_SECONDS)

    async def _watch(self) -> None:
        """The newest entry of each event, in the order of the entries."""
        view = self._view
        since = max(0, view.host.last_event - EVENTS_MAX) if view.host else 0
        async for watched in self._client.watch(since=since, patience_s=math.inf):
            if watched.event is not None:
                for old in [event for event in view.events if event.id == watched.event.id]:
                    view.events.remove(old)
                view.events.append(watched.event)
                self._moved.set()
                self._stale.set()

    async def _draw(self) -> None:
        """When the page was written, which the daemon does every second, or anything else has changed."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._attached, self._wake)
        try:
            while True:
                before, self._view.lines = self._view.lines, tenant_lines(self._attached.page)
                silent = time.monotonic_ns() - self._attached.page.header().heartbeat_ns > SILENT_NS
                if before != self._view.lines or silent:
                    self._moved.set()
                self._show(self._view)
                await asyncio.sleep(PICTURE_SECONDS)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(TICK_SECONDS):
                        await self._stale.wait()
                self._stale.clear()
        finally:
            loop.remove_reader(self._attached)

    def _wake(self) -> None:
        self._attached.wait(0)
        self._stale.set()
