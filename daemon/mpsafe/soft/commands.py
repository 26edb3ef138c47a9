# SPDX-License-Identifier: Apache-2.0
"""The v2 commands of the control daemon, with the replies of the real program.

Replies that need no device, and refusals: as measured on 550.163.01. What needs one follows NVIDIA's
v2 interface page and the program's own format strings; `get_device_client_list` is our reading of them.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mpsafe.soft.servers import Answer, Server, Servers
from mpsafe.soft.settings import Settings, number

__all__ = ["Commands"]

NO_PRIVILEGE: Final = "Insufficient privileges for UID {uid}. "
SETTINGS_ARE_THE_STARTER_S: Final = (
    NO_PRIVILEGE + "Control deamon settings can only be modified by the user started it or by the root user."
)
ONLY_ROOT: Final = NO_PRIVILEGE + "Only the root user may {what}."
_CLIENT_ON_DEVICE: Final = re.compile(r"(\d{1,4}) (GPU-[0-9a-f-]{36}) (\d{1,10})")
TABLE: Final = "{:<10}{:<10}{:<15}{:<24}{:<15}{:<15}"


class Commands:
    """Answers commands. `start` starts a server for a user; `end` ends the daemon, after that many seconds by force."""

    def __init__(
        self,
        settings: Settings,
        servers: Servers,
        *,
        log: Callable[[str], None],
        start: Callable[[int], None],
        end: Callable[[float | None], None],
    ) -> None:
        self._settings = settings
        self._servers = servers
        self._log = log
        self._start = start
        self._end = end

    def run(self, text: str, uid: int, answer: Answer) -> None:
        """Runs one command for a user; `answer` gets the lines of the reply, now or later. `quit` gets none."""
        words = text.split()
        match words:
            case ["get_server_list", *_]:
                answer([str(server.pid) for server in self._servers.all()])
            case ["get_server_status", *_]:
                self._status(words, answer)
            case ["get_client_list", *_]:
                self._of_server(words, answer, lambda server: self._servers.ask(server, "clients", answer))
            case ["ps", *_]:
                self._ps(words, answer)
            case ["get_device_client_list", *_]:
                self._device_clients(words, answer)
            case ["terminate_client", *_]:
                self._terminate(words, uid, answer)
            case ["start_server", *_]:
                self._start_server(words, uid, answer)
            case ["shutdown_server", *_]:
                self._shutdown(words, uid, answer)
            case ["quit", *_]:
                self._quit(words, uid, answer)
            case [name, *_] if "_default_" in name:
                self._default(words, uid, answer)
            case ["get_active_thread_percentage", *_]:
                self._of_server(words, answer, lambda server: answer([server.settings.percentage_text()]))
            case ["set_active_thread_percentage", *_]:
                self._of_server(words, answer, lambda server: self._set_percentage(server, words, uid, answer))
            case ["get_device_pinned_mem_limit", *_]:
                self._of_server(words, answer, lambda server: answer(_pinned(server.settings, words[2:])))
            case ["set_device_pinned_mem_limit", *_]:
                self._of_server(words, answer, lambda server: self._set_pinned(server, words, uid, answer))
            case _:
                answer([_unknown(words)])

    def _of_server(self, words: list[str], answer: Answer, then: Callable[[Server], None]) -> None:
        pid = number(words, 1)
        server = self._servers.get(pid)
        if server is None:
            answer([f"Server {pid} not found"])
        else:
            then(server)

    def _status(self, words: list[str], answer: Answer) -> None:
        if not any(word[:1].isdecimal() for word in words[1:2]):
            answer(["A server PID is required"])
            return
        self._of_server(
            words,
            answer,
            lambda server: self._servers.ask(server, "status", answer) if server.ready else answer(["INITIALIZING"]),
        )

    def _default(self, words: list[str], uid: int, answer: Answer) -> None:
        settings, argument = self._settings, words[1] if len(words) > 1 else ""
        if words[0].startswith("set_") and not _is_owner(uid):
            answer([SETTINGS_ARE_THE_STARTER_S.format(uid=uid)])
            return
        match words[0]:
            case "get_default_active_thread_percentage":
                answer([settings.percentage_text()])
            case "set_default_active_thread_percentage":
                if not settings.set_percentage(argument):
                    self._log("Invalid percentage, expected between (0.0, 100.0]")
                answer([settings.percentage_text()])
            case "get_default_client_priority":
                answer([str(settings.priority)])
            case "set_default_client_priority":
                answer([] if settings.set_priority(argument) else ["Invalid priority value - must be 0 or 1!"])
            case "get_default_device_pinned_mem_limit":
                if not (lines := _pinned(settings, words[1:])):
                    self._log("No default pinned memory limit set for the device!")
                answer(lines)
            case "set_default_device_pinned_mem_limit":
                settings.set_pinned(argument, words[2] if len(words) > 2 else "")
                answer([])
            case _:
                answer([_unknown(words)])

    def _set_percentage(self, server: Server, words: list[str], uid: int, answer: Answer) -> None:
        if not _may(uid, server):
            answer([ONLY_ROOT.format(uid=uid, what="change settings for another user's server")])
            return
        if not server.settings.set_percentage(words[2] if len(words) > 2 else ""):
            self._log("Invalid percentage, expected between (0.0, 100.0]")
        answer([server.settings.percentage_text()])

    def _set_pinned(self, server: Server, words: list[str], uid: int, answer: Answer) -> None:
        if not _may(uid, server):
            answer([ONLY_ROOT.format(uid=uid, what="change settings for another user's server")])
            return
        device, value = [*words[2:4], "", ""][:2]
        server.settings.set_pinned(device, value)
        answer([])

    def _terminate(self, words: list[str], uid: int, answer: Answer) -> None:
        pid, client = number(words, 1), number(words, 2)
        server = self._servers.get(pid)
        if server is None or not server.ready:
            answer([f"Server {pid} not found", f"Server {pid} not found!", "1"])
        elif not _may(uid, server):
            answer([ONLY_ROOT.format(uid=uid, what="terminate clients on another user's server")])
        else:
            self._servers.ask(server, f"terminate {client}", answer)

    def _start_server(self, words: list[str], uid: int, answer: Answer) -> None:
        if words[1:2] != ["-uid"] or not any(word.lstrip("-")[:1].isdecimal() for word in words[2:3]):
            answer(["A user id (UID) is required to start a new server"])
        elif uid not in (0, number(words, 2)):
            answer([ONLY_ROOT.format(uid=uid, what="start server for another user")])
        else:
            answer([])
            self._start(number(words, 2))

    def _shutdown(self, words: list[str], uid: int, answer: Answer) -> None:
        def shut(server: Server) -> None:
            if not _may(uid, server):
                answer([ONLY_ROOT.format(uid=uid, what="shutdown another user's server")])
                return
            answer([])
            if "-f" in words[2:]:
                self._servers.kill(server)
            else:
                server.leaving = True
                self._servers.settle(server)

        self._of_server(words, answer, shut)

    def _quit(self, words: list[str], uid: int, answer: Answer) -> None:
        if not _is_owner(uid):
            answer(["Not enough privilege to execute quit command"])
        elif words[1:2] == ["-t"]:
            self._log(f"quit command issued with timeout of {number(words, 2)}")
            self._end(float(number(words, 2)))
        else:
            self._end(None)

    def _ps(self, words: list[str], answer: Answer) -> None:
        pid = number(words, 2) if words[1:2] == ["-p"] else None
        server = self._first_ready() if pid is None else self._servers.get(pid)
        if server is None or not server.ready:
            answer(["Server not found"] if pid is None else [f"Server {pid} not found", f"Server {pid} not found\n"])
            return
        of = server.pid

        def listed(lines: list[str]) -> None:
            rows = _rows(lines)
            header = _row("PID", "ID", "SERVER", "DEVICE", "NAMESPACE", "COMMAND")
            answer(lines if rows is None else [header, *(_ps_row(of, uuid, client) for _, uuid, client in rows)])

        self._servers.ask(server, "devices", listed)

    def _device_clients(self, words: list[str], answer: Answer) -> None:
        def listed(lines: list[str]) -> None:
            rows = _rows(lines)
            if rows is None:
                answer(lines)
                return
            clients: dict[str, list[str]] = {}
            for index, uuid, client in rows:
                clients.setdefault(f"[{index}] {uuid}", []).append(client)
            answer([line for device, pids in clients.items() for line in (device, *pids)])

        if words[1:] and not words[1][:1].isdecimal():
            answer([])
        elif words[1:]:
            self._of_server(words, answer, lambda server: self._servers.ask(server, "devices", listed))
        elif (server := self._first_ready()) is None:
            answer([])
        else:
            self._servers.ask(server, "devices", listed)

    def _first_ready(self) -> Server | None:
        return next((server for server in self._servers.all() if server.ready), None)


def _is_owner(uid: int) -> bool:
    """The user who started the daemon, or root."""
    return uid in (0, os.geteuid())


def _may(uid: int, server: Server) -> bool:
    return uid in (0, server.uid)


def _unknown(words: list[str]) -> str:
    return f'Unknown command "{words[0] if words else ""}"'


def _pinned(settings: Settings, words: list[str]) -> list[str]:
    text = settings.pinned_text(words[0] if words else "0")
    return [text] if text else []


def _rows(lines: list[str]) -> list[tuple[str, str, str]] | None:
    """Index and UUID of a device and a client's pid in each line; None if it is another reply: no such server."""
    found = [match.groups() for line in lines if (match := _CLIENT_ON_DEVICE.fullmatch(line))]
    return [(index, uuid, pid) for index, uuid, pid in found] if len(found) == len(lines) else None


def _row(*cells: str) -> str:
    return TABLE.format(*cells).rstrip()


def _ps_row(server: int, uuid: str, pid: str) -> str:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
        namespace = os.readlink(f"/proc/{pid}/ns/pid").removeprefix("pid:[").removesuffix("]")
    except OSError:
        raw, namespace = b"", ""
    command = raw.rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")
    return _row(pid, "0", str(server), uuid.rsplit("-", 2)[0], namespace, command)
