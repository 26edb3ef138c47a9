# SPDX-License-Identifier: Apache-2.0
"""mpsafed: arguments, assembly, and the way down in exact reverse."""

import argparse
import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, assert_never

import systemd.daemon

from mpsafe import __version__
from mpsafe.errors import BadConfig, CannotRun, NoInjection, SocketTaken
from mpsafe.model import Identity, Region
from mpsafe.protocol.events import EventsInterface
from mpsafe.protocol.host import HostInterface
from mpsafe.protocol.leases import LeasesInterface
from mpsafe.protocol.mps import MpsInterface
from mpsafe.protocol.standby import StandbyInterface
from mpsafe.protocol.store import StoreInterface
from mpsafe.protocol.vault import VaultInterface
from mpsafed import journal, metrics
from mpsafed.aftermath import Aftermath, TenantAfter
from mpsafed.api.events import EventsService
from mpsafed.api.host import HostService
from mpsafed.api.leases import LeasesService, usage_of
from mpsafed.api.mps import MpsService
from mpsafed.api.service import Service
from mpsafed.api.standby import StandbyService
from mpsafed.api.store import StoreService
from mpsafed.api.vault import VaultService
from mpsafed.config import Config, load
from mpsafed.devices import Devices
from mpsafed.driver import Driver
from mpsafed.driver.software import SoftwareDriver
from mpsafed.driver.uvm import UvmDriver
from mpsafed.engine import Engine
from mpsafed.fdstore import FdStore
from mpsafed.fence import FenceLimits
from mpsafed.freezer import Freezer, cgroup_root
from mpsafed.leases.leases import Leases
from mpsafed.leases.links import Links
from mpsafed.mps.control import Control
from mpsafed.mps.controls import Controls
from mpsafed.mps.directories import writer
from mpsafed.mps.supervisor import Supervisor
from mpsafed.processes import has_ended, identify
from mpsafed.restart import RestartLimits
from mpsafed.signals import MemoryLost
from mpsafed.sources import Source, keep_running, now_ns
from mpsafed.sources.device_events import DeviceEvents
from mpsafed.sources.driver_records import DriverRecords
from mpsafed.sources.kernel_log import kernel_log
from mpsafed.sources.mps_logs import ControlLog, ServerLog
from mpsafed.sources.nvml_events import NvmlEvents
from mpsafed.sources.process_events import ProcessEvents
from mpsafed.state import Line, State
from mpsafed.store import Store
from mpsafed.takeover import TakeoverLimits
from mpsafed.tenants import Tenants
from mpsafed.vault.check import check, known
from mpsafed.vault.holder import PREFIX, Holder, Keeper, SystemdStore
from mpsafed.vault.losses import Losses
from mpsafed.vault.vault import Vault

__all__ = ["main"]

TICK_SECONDS: Final = 1.0
CANNOT_RUN: Final = 77
HEIR_SECONDS: Final = 2.0
# As mpsafed.socket names it, and as the fd store has it.
LISTENER: Final = "varlink"
DRIVER: Final = "driver"

_log = logging.getLogger("mpsafed")


def main() -> int:
    """Runs the daemon until SIGTERM; 77 where it cannot run, with the reason and the way out."""
    options = _parser().parse_args()
    journal.set_up(verbose=options.verbose)
    try:
        config = load(options.config)
        if options.check_config:
            print(f"{options.config or 'the configuration'}: {len(config.tenant)} tenants, nothing wrong")
            return 0
        return asyncio.run(serve(config))
    except CannotRun as error:
        print(f"mpsafed: {error}\n  {error.hint}", file=sys.stderr)
        return CANNOT_RUN


async def serve(config: Config) -> int:
    """Assembles the daemon and serves until SIGTERM or SIGINT."""
    store = FdStore([LISTENER, f"{PREFIX}*", *([] if config.driver.kind == "none" else [DRIVER])])
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        with _told("[daemon] key state_directory", config.daemon.state_directory):
            state = State(Path(config.daemon.state_directory))
        stack.callback(state.close)
        with _told("[daemon] key socket", config.daemon.socket):
            listener = _listener(config.daemon.socket, store.taken(LISTENER))
        # What ends with connections is there until the last one is closed.
        leases = Leases(config.leases.rules(), look=lambda: usage_of(devices))
        links = Links(config.leases.link_mib_s << 20)
        stack.callback(links.close)
        contents = Store({one.name: one.store_bytes for one in config.tenant}, grace_s=config.store.grace_ms / 1000)
        stack.callback(contents.close)
        service = Service(listener, config.daemon.admin_group, __version__)
        stack.callback(service.close)
        with _told("[metrics] key listen", config.metrics.listen):
            counted = metrics.serve(config.metrics.listen)
        stack.callback(counted.close)
        devices = Devices(environment=_nvml_environment(config))
        stack.push_async_callback(devices.close)
        stack.push_async_callback(leases.close)
        declared = config.control_daemons()
        controls = Controls(Control(one, _programs_environment()) for one in declared)
        supervisor = Supervisor(
            declared,
            controls=controls,
            choices=state.choices,
            remember=lambda choice: state.append(Line(choice=choice)),
            emit=lambda signal: engine.emit(signal),
        )
        stack.callback(supervisor.close)
        changed = asyncio.Event()
        changed.set()
        vault = Vault(
            _holder(config, store),
            config.quotas(),
            handles_max=config.vault.handles,
            check=partial(check, environment=_programs_environment()),
            alive=lambda process: not has_ended(process),
            changed=lambda: engine.board.refresh(),
        )
        stack.callback(vault.close)
        tenants = Tenants(config.tenant, state)

        def devices_changed() -> None:
            changed.set()
            losses.look()

        def ended(process: Identity) -> None:
            vault.ended(process)
            leasing.ended(process)

        engine = Engine(
            state=state,
            policy=config.decisions(),
            tenants=tenants,
            controls=controls,
            apply_limits=lambda control, server: supervisor.apply_limits(control.name, server),
            fence_limits=FenceLimits(
                config.fence.terminate_deadline_ms / 1000,
                config.fence.end_deadline_ms / 1000,
                hold_s=config.driver.hold_ms / 1000 if config.driver.kind != "none" else 0,
            ),
            restart_limits=RestartLimits(grace_s=config.fence.grace_ms / 1000),
            takeover_limits=TakeoverLimits(
                received_s=config.takeover.received_ms / 1000, serving_s=config.takeover.serving_ms / 1000
            ),
            epochs=vault.epochs,
            ended=ended,
            freezer=Freezer(cgroup_root()),
            release=lambda client: _release(sources, client),
            metrics=counted,
            cut=service.drop,
            devices_changed=devices_changed,
        )
        stack.push_async_callback(engine.close)
        leasing = LeasesService(leases, links, devices, tenants, engine.ends.watch)
        sources: list[Source] = _sources(config, state, store, engine, supervisor)
        state.append(Line(cursors=[source.cursor for source in sources]))
        await engine.resume()
        for process in vault.processes():
            engine.ends.watch(process)
        aftermath = Aftermath(
            {one.name: TenantAfter(one.standby == "systemd", one.after_takeover == "return") for one in config.tenant},
            holder_of=vault.epochs.holder_of,
            in_mps=lambda process: process in engine.inventory.clients,
            standbys=engine.takeovers.standbys.overview,
            figures_of=tenants.reports.of_one,
            events=state.recent,
        )
        stack.push_async_callback(aftermath.close)
        losses = Losses(
            vault,
            known=partial(known, environment=_programs_environment()),
            tell=lambda regions: _tell_losses(engine, regions),
        )
        tasks = [asyncio.create_task(keep_running(source, engine.emit, engine.source_changed)) for source in sources]
        tasks.append(asyncio.create_task(engine.inventory.follow()))
        tasks.append(asyncio.create_task(losses.run()))
        tasks.append(asyncio.create_task(supervisor.run()))
        tasks.append(asyncio.create_task(_tick(engine, state, supervisor, sources, aftermath)))
        tasks.append(asyncio.create_task(_find_devices(engine, devices, changed)))
        stack.push_async_callback(_cancel, tasks)
        service.add(HostInterface(HostService(engine, devices, config.driver.kind)))
        service.add(EventsInterface(EventsService(engine, inject=partial(_inject, sources))))
        service.add(MpsInterface(MpsService(supervisor)))
        service.add(StandbyInterface(StandbyService(engine, tenants)))
        service.add(VaultInterface(VaultService(vault, tenants, engine.ends.watch)))
        service.add(LeasesInterface(leasing))
        service.add(StoreInterface(StoreService(contents, tenants, shared=config.store.shared)))
        service.start()
        _notify(f"READY=1\nSTATUS=serving, {len(state.events())} events known")
        await stop.wait()
        _notify("STOPPING=1")
    return 0


def _sources(config: Config, state: State, store: FdStore, engine: Engine, supervisor: Supervisor) -> list[Source]:
    """All sources, literally: adding one means adding a line."""
    cursors = state.cursors
    found: list[Source] = [kernel_log(config.sources.kernel_log, cursors.get("kernel-log"))]
    for one in config.control_daemons():
        for log in (ControlLog, ServerLog):
            start = cursors.get(log.name_of(one.name))
            found.append(log(one.log_directory, start, control=one.name, writer=partial(writer, one)))
    if config.sources.nvml_events:
        found.append(NvmlEvents(environment=_nvml_environment(config)))
    if config.sources.process_events:
        found.append(
            ProcessEvents(
                engine.ends,
                parents=lambda: {one.identity.pid for one in supervisor.overview() if one.identity is not None},
                born=lambda parent, child: engine.inventory.invalidate(),
                missed=engine.inventory.invalidate,
            )
        )
    if config.sources.device_events:
        found.append(DeviceEvents())
    opener = _driver(config, store)
    if opener is not None:
        found.append(DriverRecords(opener, config.driver.policy(), cursors.get(DriverRecords.name)))
    return found


def _driver(config: Config, store: FdStore) -> Callable[[], Driver] | None:
    path = Path(config.driver.path)
    match config.driver.kind:
        case "none":
            return None
        case "software":
            kind: type[SoftwareDriver | UvmDriver] = SoftwareDriver
        case "uvm":
            kind = UvmDriver
        case _:
            assert_never(config.driver.kind)
    return lambda: store.kept(DRIVER, take=lambda fd: kind(path, fd), make=lambda: kind(path))


def _holder(config: Config, store: FdStore) -> Holder:
    """systemd where it started us (systemd.exec(5), SYSTEMD_EXEC_PID), else a process of our own."""
    if os.environ.get("SYSTEMD_EXEC_PID") == str(os.getpid()) and "NOTIFY_SOCKET" in os.environ:
        return SystemdStore(store)
    return Keeper(Path(config.vault.keeper))


def _release(sources: Sequence[Source], client: Identity) -> None:
    for source in sources:
        if isinstance(source, DriverRecords):
            source.release(client)


def _inject(sources: Sequence[Source], client: Identity) -> None:
    for source in sources:
        if isinstance(source, DriverRecords):
            return source.inject(client)
    raise NoInjection("mpsafed was told of no patched driver")


def _programs_environment() -> Mapping[str, str]:
    """Ours, without what systemd says to us alone (sd_notify(3), sd_listen_fds(3))."""
    ours = ("LISTEN_", "NOTIFY_SOCKET", "WATCHDOG_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def _nvml_environment(config: Config) -> Mapping[str, str]:
    """That of the NVML helpers: NVML looks for MPS's clients where its directories say."""
    declared = config.control_daemons()
    if len(declared) != 1:
        return _programs_environment()
    return {**_programs_environment(), "CUDA_MPS_PIPE_DIRECTORY": os.fspath(declared[0].pipe_directory)}


def _listener(path: str, passed: int | None) -> socket.socket:
    """The socket that systemd passes, or one of our own that only a dead daemon's socket makes room for."""
    if passed is not None:
        return socket.socket(fileno=passed)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    ends = time.monotonic() + HEIR_SECONDS
    while (owner := _listens(path)) is not None:
        # A child that a killed daemon had not executed yet has its socket for a moment.
        process = identify(owner)
        if (process is not None and not has_ended(process)) or time.monotonic() > ends:
            raise SocketTaken(path)
        time.sleep(HEIR_SECONDS / 100)
    sock.bind(path)
    Path(path).chmod(0o666)
    return sock


def _listens(path: str) -> int | None:
    """The pid of who began to listen there (SO_PEERCRED, unix(7)), if a connection is to be had; else makes room."""
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        try:
            probe.connect(path)
        except FileNotFoundError:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        except ConnectionRefusedError:
            if not Path(path).is_socket():
                raise FileExistsError(errno.EEXIST, "a file that is no socket is there", path) from None
            Path(path).unlink()
        else:
            return int.from_bytes(probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 4), sys.byteorder)
    return None


@contextlib.contextmanager
def _told(place: str, value: str) -> Generator[None]:
    """What the host refuses is told as a mistake of the configuration."""
    try:
        yield
    except OSError as error:
        raise BadConfig("the configuration", place, f"{value}: {error.strerror or error}", "") from error


def _notify(text: str) -> None:
    """Tells systemd; while it executes itself anew nobody listens, and the next word will be heard."""
    with contextlib.suppress(OSError):
        systemd.daemon.notify(text)


def _tell_losses(engine: Engine, regions: Sequence[Region]) -> None:
    """One event for each device, which names the regions as their tenants know them."""
    for device in sorted({region.device for region in regions}):
        names = tuple(f"{one.tenant}/{one.name} ({one.id})" for one in regions if one.device == device)
        engine.emit(MemoryLost(time_ns=now_ns(), device=device, regions=names))


async def _find_devices(engine: Engine, devices: Devices, changed: asyncio.Event) -> None:
    while True:
        await changed.wait()
        changed.clear()
        for device in await devices.list():
            domain, _, rest = device.pci.lower().partition(":")
            engine.devices[f"{domain[-4:]}:{rest.partition('.')[0]}"] = device.uuid


async def _tick(
    engine: Engine, state: State, supervisor: Supervisor, sources: list[Source], aftermath: Aftermath
) -> None:
    loop = asyncio.get_running_loop()
    driver = next((source for source in sources if isinstance(source, DriverRecords)), None)
    synced = state.next_seq
    while True:
        engine.board.refresh()
        engine.measure(supervisor.overview(), beat_ns=driver.beat_ns if driver else None)
        _notify("WATCHDOG=1")
        aftermath.look()
        if state.next_seq != synced:
            synced = state.next_seq
            await loop.run_in_executor(None, state.sync)
        await asyncio.sleep(TICK_SECONDS)


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mpsafed", description="makes NVIDIA MPS safe to share")
    parser.add_argument("--config", type=Path, help="instead of /etc/mpsafe/mpsafe.toml")
    parser.add_argument("--check-config", action="store_true", help="check it and exit")
    parser.add_argument("--verbose", action="store_true", help="tell more on standard error")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
