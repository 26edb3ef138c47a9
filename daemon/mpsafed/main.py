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
from collections.abc import Callable, Generator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final

import systemd.daemon

from mpsafe.errors import BadConfig, CannotRun, SocketTaken
from mpsafe.protocol.events import EventsInterface
from mpsafe.protocol.host import HostInterface
from mpsafed import journal
from mpsafed.api.events import EventsService
from mpsafed.api.host import HostService
from mpsafed.api.service import Service
from mpsafed.config import Config, load
from mpsafed.devices import Devices
from mpsafed.driver import Driver
from mpsafed.driver.software import SoftwareDriver
from mpsafed.engine import Engine
from mpsafed.fence import FenceLimits
from mpsafed.mps.control import Control
from mpsafed.restart import RestartLimits
from mpsafed.sources import Source, keep_running
from mpsafed.sources.driver_records import DriverRecords
from mpsafed.sources.kernel_log import KernelLog
from mpsafed.sources.mps_logs import ControlLog, ServerLog
from mpsafed.state import Line, State
from mpsafed.tenants import Tenants

__all__ = ["main"]

TICK_SECONDS: Final = 1.0
CANNOT_RUN: Final = 77

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
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        with _told("[daemon] key state_directory", config.daemon.state_directory):
            state = State(Path(config.daemon.state_directory))
        stack.callback(state.close)
        environment = _mps_environment(config)
        control = Control(config.mps.control, environment)
        with _told("[daemon] key socket", config.daemon.socket):
            listener = _listener(config.daemon.socket)
        service = Service(listener, config.daemon.admin_group, version("mpsafe"))
        stack.callback(service.close)
        engine = Engine(
            state=state,
            policy=config.decisions(),
            tenants=Tenants(config.tenant, state),
            control=control,
            fence_limits=FenceLimits(config.fence.terminate_deadline_ms / 1000, config.fence.end_deadline_ms / 1000),
            restart_limits=RestartLimits(grace_s=config.fence.grace_ms / 1000),
            cut=service.drop,
        )
        stack.push_async_callback(engine.close)
        devices = Devices(environment=environment)
        stack.push_async_callback(devices.close)
        sources = _sources(config, state)
        state.append(Line(cursors=[source.cursor for source in sources]))
        await engine.resume()
        tasks = [asyncio.create_task(keep_running(source, engine.emit, engine.source_changed)) for source in sources]
        tasks.append(asyncio.create_task(engine.inventory.follow()))
        tasks.append(asyncio.create_task(_tick(engine, state)))
        tasks.append(asyncio.create_task(_find_devices(engine, devices)))
        stack.push_async_callback(_cancel, tasks)
        service.add(HostInterface(HostService(engine, devices, config.driver.kind)))
        service.add(EventsInterface(EventsService(engine)))
        service.start()
        _notify(f"READY=1\nSTATUS=serving, {len(state.events())} events known")
        await stop.wait()
        _notify("STOPPING=1")
    return 0


def _sources(config: Config, state: State) -> list[Source]:
    """All sources, literally: adding one means adding a line."""
    logs = Path(config.mps.log_directory)
    found: list[Source] = [
        KernelLog(Path(config.sources.kernel_log), state.cursors.get(KernelLog.name)),
        ControlLog(logs, state.cursors.get(ControlLog.name)),
        ServerLog(logs, state.cursors.get(ServerLog.name)),
    ]
    opener = _driver(config)
    if opener is not None:
        found.append(DriverRecords(opener, config.driver.mode, state.cursors.get(DriverRecords.name)))
    return found


def _driver(config: Config) -> Callable[[], Driver] | None:
    path = Path(config.driver.path)
    return (lambda: SoftwareDriver(path)) if config.driver.kind == "software" else None


def _mps_environment(config: Config) -> Mapping[str, str]:
    return {
        **os.environ,
        "CUDA_MPS_PIPE_DIRECTORY": config.mps.pipe_directory,
        "CUDA_MPS_LOG_DIRECTORY": config.mps.log_directory,
    }


def _listener(path: str) -> socket.socket:
    """The socket that systemd passes, or one of our own that only a dead daemon's socket makes room for."""
    passed = systemd.daemon.listen_fds()
    if passed:
        return socket.socket(fileno=passed[0])
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
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
            raise SocketTaken(path)
    sock.bind(path)
    Path(path).chmod(0o666)
    return sock


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


async def _find_devices(engine: Engine, devices: Devices) -> None:
    for device in await devices.list():
        domain, _, rest = device.pci.lower().partition(":")
        engine.devices[f"{domain[-4:]}:{rest.partition('.')[0]}"] = device.uuid


async def _tick(engine: Engine, state: State) -> None:
    loop = asyncio.get_running_loop()
    synced = state.next_seq
    while True:
        engine.refresh_page()
        _notify("WATCHDOG=1")
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
