# SPDX-License-Identifier: Apache-2.0
"""The language of MPS v3, driver r615 and newer: "module verb arguments", lists as CSV.

Documented (docs.nvidia.com/deploy/mps/mpsv3-interface.html) and never run by us; tests/data/mps_v3
says what each form rests on. Servers have names, limits belong to a server's default namespace, and
there are no defaults for servers to come. CSV is asked for because the table cuts pids short.
"""

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from mpsafe.errors import ControlFailed, NotSupported
from mpsafe.model import Limits, MpsInterface, ServerState
from mpsafed.mps.front_end import FrontEnd
from mpsafed.mps.limits import ALL_DEVICES, mib_of

__all__ = ["V3"]

CSV: Final = "--format=csv,noheader"
COLUMNS: Final = 7
PARTITION_PREFIX: Final = "mpsafe_"

# The page shows Ready; the others are the states that the architecture page names.
_STATES: Final[dict[str, ServerState]] = {
    "ready": "active",
    "active": "active",
    "initializing": "initializing",
    "fault": "fault",
}
_NAME: Final = re.compile(r"[a-z0-9_]{1,64}")
_NUMBER: Final = re.compile(r"\d{1,10}")
_PERCENTAGE: Final = re.compile(r"\d{1,3}(\.\d{1,6})?")


@dataclass(frozen=True, slots=True)
class _Row:
    """One server of `server list`. `pid` None: it has no process yet. `devices`: all where it is empty."""

    name: str
    uid: int
    pid: int | None
    status: str
    devices: str


class V3:
    """A control daemon that speaks v3."""

    interface: MpsInterface = "v3"

    def __init__(self, front_end: FrontEnd) -> None:
        self._call = front_end.call
        self._ended: dict[int, _Row] = {}

    async def servers(self) -> list[int]:
        """server list"""
        return [row.pid for row in await self._rows() if row.pid is not None]

    async def server_state(self, server: int) -> ServerState:
        """The status column of server list."""
        row = await self._row(server)
        return "gone" if row is None else _STATES.get(row.status.lower(), "unknown")

    async def clients(self, server: int) -> list[int]:
        """client list, each confirmed by client get.

        The last column is the client's command, which is the client's to choose: with a line feed in it
        a row can be anybody's.
        """
        row = await self._row(server)
        if row is None:
            return []
        text = await self._call("client", "list", f"--server={row.name}", CSV)
        named = dict.fromkeys(pid for pid, _, _ in (line.partition(",") for line in text.splitlines()))
        return [int(pid) for pid in named if _NUMBER.fullmatch(pid) and await self._is_client(pid, row.name)]

    async def terminate_client(self, server: int, client: int, *, deadline_s: float) -> bool:
        """client terminate. What it answers when the work has stopped is not documented: never a proof."""
        await self._call("client", "terminate", str(client), deadline_s=deadline_s)
        return False

    async def shutdown_server(self, server: int) -> None:
        """server delete --force; start_server makes one of the same name again."""
        if (row := await self._row(server)) is not None:
            self._ended[row.uid] = row
            await self._call("server", "delete", row.name, "--force")

    async def start_server(self, uid: int) -> None:
        """server create, as the one that was ended for this user was; by the user's uid if none was."""
        ended = self._ended.pop(uid, None)
        if ended is None:
            await self._call("server", "create", f"--uid={uid}")
        else:
            devices = [f"--allowed-devices={ended.devices}"] if ended.devices else []
            await self._call("server", "create", ended.name, f"--uid={uid}", *devices)

    async def limited(self) -> list[int | None]:
        """Servers alone: there are no defaults."""
        return list(await self.servers())

    async def limits(self, server: int | None, devices: Collection[str]) -> Limits:
        """namespace get of the server's default namespace."""
        name = await self._name(server)
        found = {
            field: (await self._call("namespace", "get", "default", name, field)).strip()
            for field in ("active-thread-percentage", "client-priority", "pinned-memory-limit")
        }
        percentage, priority = found["active-thread-percentage"].rstrip("%"), found["client-priority"]
        mib = mib_of(found["pinned-memory-limit"])
        return Limits(
            float(percentage) if _PERCENTAGE.fullmatch(percentage) else None,
            int(priority) if priority in ("0", "1") else None,
            {} if mib is None else {ALL_DEVICES: mib},
        )

    async def set_limits(self, server: int | None, limits: Limits) -> None:
        """server set; one limit of memory for all devices."""
        if limits.pinned_mib.keys() - {ALL_DEVICES}:
            raise NotSupported("a limit of pinned memory for one device", "MPS v2")
        options: list[str] = []
        if limits.active_thread_percentage is not None:
            options.append(f"--active-thread-percentage={limits.active_thread_percentage:g}")
        if limits.client_priority is not None:
            options.append(f"--client-priority={limits.client_priority}")
        if mib := limits.pinned_mib.get(ALL_DEVICES):
            options.append(f"--pinned-memory-limit={mib}M")
        elif ALL_DEVICES in limits.pinned_mib:
            raise NotSupported("taking a limit of pinned memory away", "a new server: its form is not documented")
        if options:
            await self._call("server", "set", await self._name(server), *options)

    async def partitions(self) -> dict[str, list[int]]:
        """sm-partition list of all servers; the rest of a device is a row without a name."""
        found: dict[str, list[int]] = {}
        for row in await self._rows():
            for device, _, chunks in await self._partitions(row.name):
                found.setdefault(device, []).append(chunks)
        return found

    async def partition(self, device: str, chunks: list[int]) -> None:
        """sm-partition delete and create, on the one server that there is."""
        rows = await self._rows()
        if len(rows) != 1:
            raise NotSupported("a partition of SMs", f"exactly one server, and this control daemon has {len(rows)}")
        server, there = rows[0].name, [row for row in await self._partitions(rows[0].name) if row[0] == device]
        missing, names = Counter(chunks), {name for _, name, _ in there}
        for _, name, size in there:
            if missing[size]:
                missing[size] -= 1
            else:
                await self._call("sm-partition", "delete", name, f"--server={server}", f"--device={device}")
        free = (
            name for index in range(len(names) + len(chunks)) if (name := f"{PARTITION_PREFIX}{index}") not in names
        )
        for size, name in zip(missing.elements(), free, strict=False):
            where = f"--server={server}", f"--device={device}", f"--chunks={size}"
            await self._call("sm-partition", "create", name, *where)

    async def quit(self, *, force: bool) -> None:
        """-q, which ends everything at once as far as the page tells: without force only if nobody is connected."""
        if not force and any([await self.clients(server) for server in await self.servers()]):
            raise NotSupported("a stop that waits for its clients", "MPS v2; end the clients first, or use force")
        await self._call("-q")

    async def _rows(self) -> list[_Row]:
        """name, uid, pid, status, pipe-directory, allowed-devices, context-ids; devices may hold commas."""
        rows: list[_Row] = []
        for line in (await self._call("server", "list", CSV)).splitlines():
            fields = [field.strip() for field in line.split(",")]
            if len(fields) < COLUMNS or not (_NAME.fullmatch(fields[0]) and _NUMBER.fullmatch(fields[1])):
                raise ControlFailed("server list", f"expected name, uid, pid, status and more, got {line[:80]!r}")
            name, uid, pid, status, _, *devices, _ = fields
            found = int(pid) if _NUMBER.fullmatch(pid) else 0
            rows.append(_Row(name, int(uid), found or None, status, ",".join(devices) if devices != ["-"] else ""))
        return rows

    async def _row(self, server: int) -> _Row | None:
        return next((row for row in await self._rows() if row.pid == server), None)

    async def _name(self, server: int | None) -> str:
        row = None if server is None else await self._row(server)
        if row is None:
            raise ControlFailed("server list", f"server {server} is gone")
        return row.name

    async def _is_client(self, pid: str, server: str) -> bool:
        try:
            return (await self._call("client", "get", pid, "server")).strip() == server
        except ControlFailed:
            return False

    async def _partitions(self, server: str) -> list[tuple[str, str, int]]:
        """Device, name and chunks: server, device, name, chunks, sm-count and more."""
        text = await self._call("sm-partition", "list", f"--server={server}", CSV)
        rows = [line.split(",") for line in text.splitlines() if line.count(",") > 3]
        return [(row[1], row[2], int(row[3])) for row in rows if _NAME.fullmatch(row[2]) and _NUMBER.fullmatch(row[3])]
