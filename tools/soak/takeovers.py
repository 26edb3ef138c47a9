# SPDX-License-Identifier: Apache-2.0
"""Rounds of ends at random: of the process that owns a tenant's state, its standby, the daemon, the MPS server.

The owner publishes one generation after the other and tells a file which it has published; somebody ends in the
middle of that. Whoever goes on must find a generation that is no older than what was told, and its data whole. In
the end nothing may be held for anybody.
"""

import os
import random
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final, Literal, TypeAlias

from rich.progress import track

from mpsafe.errors import MpsafeError
from tools.soak.report import Report
from tools.soak.tenants import Mpsafed, Tenant, software_daemon, until
from vault_process import OUTSIDE, VaultProcess

__all__ = ["run"]

End: TypeAlias = Literal["owner", "standby", "daemon", "server"]
ENDS: Final[tuple[tuple[End, ...], ...]] = (
    ("owner",),
    ("owner",),
    ("server",),
    ("standby",),
    ("daemon",),
    ("owner", "daemon"),
    ("daemon", "owner"),
    ("standby", "owner"),
    ("daemon", "standby"),
    ("daemon", "server"),
    ("daemon", "daemon"),
)
APART_SECONDS: Final = 0.15
SPARE_DESCRIPTORS: Final = 4
KEPT: Final = Path("build/soak/takeovers")
# Two places for the data, as there are two for generations: what is published last is not overwritten.
CHURN: Final = """
from mpsafe.errors import DaemonUnreachable

told = os.open({told!r}, os.O_RDWR)

def number_of(generation):
    return int.from_bytes(generation.payload, 'little') if generation is not None else 0

def churn(number):
    while not os.pread(told, 1, 8)[0]:
        number += 1
        kv.data.write(number.to_bytes(8, 'little'), offset=number % 2 * 8)
        kv.commit(number.to_bytes(8, 'little'))
        os.pwrite(told, number.to_bytes(8, 'little'), 0)
    return number

def opened():
    client.close()
    return Durable.open(vault, 'kv')

def found(durable):
    number = number_of(durable.committed())
    return number, int.from_bytes(durable.data.read(8, offset=number % 2 * 8), 'little')

def say_until_heard(**when):
    while True:
        try:
            return client.progress(word.event, **when)
        except DaemonUnreachable:  # it was killed this moment
            time.sleep(0.01)

def begin():
    global kv
    vault.claim()
    kv = Durable.create(vault, 'kv', 16)

def go_on(durable, *, write):
    global kv
    number, _ = found(durable)
    while True:
        try:
            kv = Durable.open(vault, 'kv', write=True) if write else Durable.create(vault, 'kv', 16)
            return churn(number)
        except DaemonUnreachable:  # it was killed, or is another one now
            client.close()
            time.sleep(0.01)
"""
PROMOTED: Final = """
word = next(one for one in words if one.phase == 'promoted')
say_until_heard(received_ns=time.time_ns())
"""


def run(count: int, *, seed: int) -> int:
    """That many rounds on one daemon; the exit status."""
    report = Report("takeovers")
    report.figures |= {"seed": seed, "rounds": 0, "taken over": 0, "published": 0}
    with software_daemon() as daemon, tempfile.TemporaryDirectory(prefix="mpsafe-told-") as name:
        before = daemon.descriptors()
        soak = _Soak(daemon, report, Path(name) / "told")
        for number in track(range(count), description="rounds", transient=True):
            try:
                soak.round(seed + number)
            except (AssertionError, MpsafeError, TimeoutError, subprocess.TimeoutExpired) as error:
                report.complain(f"seed {seed + number}: {soak.doing}: {error}; {soak.newest_event()}")
            if report.wrong:
                _keep(daemon.host.directory)
                break
        soak.close()
        if not report.wrong:
            soak.check_nothing_is_left(before)
    return report.finish()


def _keep(directory: Path) -> None:
    """Copies what the daemon and MPS wrote, to be read after a round that went wrong."""
    for name in ("state/state.jsonl", "mpsafed.log", "log/control.log", "log/server.log", "kmsg"):
        kept = KEPT / name
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(directory / name, kept)


class _Soak:
    """One tenant's owner and standby from round to round. `number`: the generation that is known to be published."""

    def __init__(self, daemon: Mpsafed, report: Report, told: Path) -> None:
        self.doing = ""
        self._daemon = daemon
        self._report = report
        self._told = told
        self._owner: VaultProcess | None = None
        self._outside: bool = False
        self._standby: VaultProcess | None = None
        self._in_mps: bool = False
        self._churns = False

    def round(self, seed: int) -> None:
        """One round."""
        dice = random.Random(seed)
        self._tell(0)
        if self._owner is None:
            self._outside = dice.random() < 0.3
            self._owner = self._process(outside=self._outside)
            self._owner.do("begin()")
            self._owner.begin("churn(0)")
        elif not self._churns:
            self._owner.begin("go_on(kv, write=True)")
        self._churns = True
        if self._standby is None:
            self._in_mps = self._outside and dice.random() < 0.5
            self._standby = self._process(outside=not self._in_mps)
            self._standby.do("words = client.stand_by('chat'); next(words)")
            self._standby.begin(PROMOTED)
        ends = dice.choice(ENDS)
        self.doing = f"{' and '.join(ends)} of an owner {'outside' if self._outside else 'in'} MPS"
        time.sleep(dice.random() * APART_SECONDS)
        for end in ends:
            self._end(end)
            time.sleep(dice.random() * APART_SECONDS)
        self._settle()
        self._report.count("rounds")

    def close(self) -> None:
        """All processes end."""
        for process in (self._owner, self._standby):
            if process is not None:
                process.close()

    def newest_event(self) -> str:
        """What the daemon has done about the newest fault."""
        try:
            event = [*self._daemon.client.events()][-1]
        except (IndexError, MpsafeError) as error:
            return f"no event: {error!r}"
        return f"event {event.id} is {event.phase}: " + "; ".join(str(one) for one in event.actions)

    def check_nothing_is_left(self, descriptors: int) -> None:
        """After the end of all processes."""
        until(lambda: not [e for e in self._daemon.client.events() if e.phase == "open"], "all is dealt with")
        self._daemon.client.drain()
        self._daemon.client.close()
        if regions := self._daemon.client.vault().regions:
            self._report.complain(f"regions are left: {regions}")
        until(lambda: self._daemon.descriptors() <= descriptors + SPARE_DESCRIPTORS, "no descriptor is left open")

    def _process(self, *, outside: bool) -> VaultProcess:
        environment = OUTSIDE if outside else None
        process = VaultProcess(self._daemon.host, "chat", self._daemon.socket, environment=environment)
        process.do(CHURN.format(told=os.fspath(self._told)))
        return process

    def _end(self, what: End) -> None:
        self._report.count(f"ends: {what}")
        match what:
            case "owner":
                assert self._owner is not None
                self._owner.close()
                self._owner = None
            case "standby":
                assert self._standby is not None
                self._standby.close()
                self._standby = None
            case "daemon":
                self._daemon.kill()
                self._daemon.client.close()
                self._daemon.start(ready_for="calls")
            case "server":
                before = max((entry.seq for entry in self._daemon.written()), default=0)
                with Tenant(self._daemon.host, "batch", self._daemon.socket) as neighbour:
                    neighbour.say("trap")
                    neighbour.wait()
                if not self._outside and self._owner is not None:
                    self._owner.process.wait(60)
                    self._owner.close()
                    self._owner = None
                if self._in_mps and self._standby is not None:
                    self._standby.process.wait(60)
                    self._standby.close()
                    self._standby = None
                if self._outside:  # whoever comes to a server that is being ended is lost with it, as he should be
                    self._daemon.fault_closed(since=before)

    def _settle(self) -> None:
        """Whoever is left goes on; what it finds is compared with what was told."""
        if self._owner is not None:
            self._stop()
            self._look(self._owner, "kv")
            return
        told = self._last()
        if self._standby is None:
            self._owner, self._outside = self._process(outside=True), True
            until(self._claimed, "the epoch is free")
            # The end of a client of MPS proves nothing: what it wrote can be read, and goes on in a new region.
            write = self._may_write()
        else:
            self._owner, self._standby = self._standby, None
            self._owner.result()
            self._report.count("taken over")
            self._look(self._owner, "opened()", told)
            write = self._owner.do("next(words).phase") == "'granted'"
            self._report.count("granted" if write else "refused")
            self._outside = not self._in_mps
            self._owner.do("say_until_heard(serving_ns=time.time_ns())")
        self._look(self._owner, "opened()", told)
        self._owner.begin(f"go_on(opened(), write={write})")
        until(lambda: self._last() > told or self._ended(), "the new owner publishes")
        self._stop()
        self._daemon.client.collect()

    def _claimed(self) -> bool:
        assert self._owner is not None
        self._owner.begin("vault.claim()")
        return self._owner.answer().startswith("= ")

    def _may_write(self) -> bool:
        assert self._owner is not None
        self._owner.begin("Durable.open(vault, 'kv', write=True).close()")
        return self._owner.answer().startswith("= ")

    def _ended(self) -> bool:
        """Whether the owner gave up: what it says of that is asked for next."""
        assert self._owner is not None
        return self._owner.has_answered()

    def _stop(self) -> None:
        assert self._owner is not None
        self._tell(1)
        published = int(self._owner.result())
        self._report.figures["published"] = published
        self._churns = False

    def _look(self, process: VaultProcess, durable: str, told: int | None = None) -> None:
        told = self._last() if told is None else told
        number, data = eval(process.do(f"found({durable})"))
        if not told <= number <= told + 1 or data != number:
            self._report.complain(f"{self.doing}: {told} was told, {number} is found, with the data of {data}")

    def _tell(self, stop: int) -> None:
        fd = os.open(self._told, os.O_RDWR | os.O_CREAT, 0o644)
        if os.fstat(fd).st_size < 9:
            os.pwrite(fd, bytes(9), 0)
        os.pwrite(fd, bytes([stop]), 8)
        os.close(fd)

    def _last(self) -> int:
        """The generation that was told last."""
        return int.from_bytes(self._told.read_bytes()[:8], "little")
