# SPDX-License-Identifier: Apache-2.0
"""Rounds of faults at random, with forgeries around them: is anybody blamed or fenced who did nothing?

A round has one to three guilty among the tenants, at once or shortly after each other, and any of: kernel log
lines of the facility that every process may use, lines in MPS's server.log, which everybody may write here,
reports of innocents about themselves, and a new process with the pid of one that was fenced. A round's seed is
the first one's and its number.
"""

import os
import random
import signal
import subprocess
import time
from contextlib import ExitStack
from datetime import datetime
from typing import Final

from rich.progress import track

from mpsafe.model import Event, Identity
from mpsafed.blame import is_proven
from mpsafed.steps import ended
from old_pid import start_with_pid
from tools.soak.report import Report
from tools.soak.tenants import TENANTS, Mpsafed, Tenant, software_daemon, until

__all__ = ["run"]

MEMORY_FAULTS: Final = ("wild_read", "wild_write", "write_to_read_only", "use_after_unmap", "read_without_access")
SM_FAULTS: Final = ("misaligned", "trap")
APART_SECONDS: Final = 0.3
BYSTANDER: Final = ("sleep", "infinity")
FORGED_XID: Final = "14,{seq},{usec},-;NVRM: Xid (PCI:0000:01:00): {xid}, pid={pid}, name=python, Ch 00000008\n"
FORGED_BLAME: Final = (
    "[{stamp} Server {server:>5}] Client {{PID: {pid}, Context: 1}} encountered a fatal GPU error.\n",
    "[{stamp} Server {server:>5}] Server is handling a fatal GPU error.\n",
)


def run(count: int, *, seed: int) -> int:
    """That many rounds on one daemon; the exit status."""
    report = Report("rounds")
    report.figures |= {"seed": seed, "rounds": 0, "faults": 0, "unknown": 0, "innocent blamed": 0, "innocent fenced": 0}
    with software_daemon() as daemon, ExitStack() as stack:
        daemon.host.log_directory.chmod(0o755)
        (daemon.host.log_directory / "server.log").chmod(0o666)
        soak = _Soak(daemon, stack, report)
        for number in track(range(count), description="rounds", transient=True):
            try:
                soak.round(seed + number)
            except (TimeoutError, subprocess.TimeoutExpired) as error:
                report.complain(f"seed {seed + number}: {error}")
                break
            if report.wrong:
                break
        soak.end_bystanders()
    faults, unknown = report.figures["faults"], report.figures["unknown"]
    assert isinstance(faults, int)
    assert isinstance(unknown, int)
    report.figures["share of unknown, %"] = round(100 * unknown / max(1, faults), 2)
    return report.finish()


class _Soak:
    """The tenants of one daemon from round to round."""

    def __init__(self, daemon: Mpsafed, stack: ExitStack, report: Report) -> None:
        self._daemon = daemon
        self._stack = stack
        self._report = report
        self._present: list[Tenant] = []
        self._bystanders: list[int] = []
        self._guilty: set[Identity] = set()
        self._settled: dict[int, int] = {}
        self._began = 0

    def round(self, seed: int) -> None:
        """One round."""
        dice = random.Random(seed)
        while len(self._present) < 4:
            self._present.append(self._new_tenant(dice.choice(TENANTS)))
        guilty = dice.sample(self._present, dice.choice((1, 1, 2, 3)))
        innocent = [tenant for tenant in self._present if tenant not in guilty]
        for tenant in guilty:
            self._forge(dice, innocent)
            fault = dice.choice(SM_FAULTS if dice.random() < 0.25 else MEMORY_FAULTS)
            try:
                tenant.say(fault)
            except BrokenPipeError:
                self._report.count("lost before they could fault")
            if dice.random() < 0.5:
                time.sleep(dice.random() * APART_SECONDS)
        self._forge(dice, innocent)
        for tenant in guilty:
            tenant.wait()
        try:
            until(lambda: self._is_quiet(guilty), "all faults are dealt with")
        except TimeoutError as error:
            told = [f"{event.id} {event.summary} {event.actions}" for event in self._events()]
            raise TimeoutError(f"{error}; guilty: {[tenant.pid for tenant in guilty]}; {told}") from error
        self._look(seed, guilty, innocent)
        if dice.random() < 0.5:
            self._use_again(dice.choice(guilty).pid)
        self._report.count("rounds")

    def _new_tenant(self, name: str) -> Tenant:
        try:
            return self._stack.enter_context(Tenant(self._daemon.host, name, self._daemon.socket))
        except AssertionError as error:
            told = [f"{event.id} {event.summary} {event.actions}" for event in self._daemon.client.events(limit=5)]
            raise TimeoutError(f"{error}; {self._daemon.client.describe().servers}; {told}") from error

    def end_bystanders(self) -> None:
        """Those that were given the pid of a tenant, and are nobody's client: each must live until now."""
        for pid in self._bystanders:
            if os.waitpid(pid, os.WNOHANG) != (0, 0):
                self._report.complain(f"process {pid}, which has the pid of one that was fenced, was ended")
                continue
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def _events(self) -> list[Event]:
        """Those of this round: also one of a round before that a fault of this one has joined, and done more about."""
        events = self._daemon.client.events(since=self._began)
        return [event for event in events if len(event.actions) > self._settled.get(event.id, -1)]

    def _is_quiet(self, guilty: list[Tenant]) -> bool:
        events = self._events()
        faults = [event for event in events if event.kind == "fault"]
        blamed = {event.blame.client for event in faults}
        told = any(map(_is_fatal, faults)) or all(tenant.identity in blamed for tenant in guilty)
        decided = all(event.actions or event.phase == "closed" for event in events)
        return told and decided and all(ended(a.kind, a.state) for event in events for a in event.actions)

    def _look(self, seed: int, guilty: list[Tenant], innocent: list[Tenant]) -> None:
        """Counts what was said of whom, and drops those that are lost."""
        report, events = self._report, self._events()
        self._guilty.update(tenant.identity for tenant in guilty)
        fatal = False
        for event in events:
            fatal = fatal or _is_fatal(event)
            if event.kind == "fault":
                proven = is_proven(event)
                report.count("faults" if proven else "said and not proven")
                report.count("unknown", int(proven and event.blame.client is None))
                if proven:
                    self._settled[event.id] = len(event.actions)
                if event.blame.client is not None and event.blame.client not in self._guilty:
                    report.count("innocent blamed")
                    report.complain(f"seed {seed}: {event.blame.client} is blamed: {event.blame.evidence}")
            for action in event.actions:
                if action.kind == "fence" and action.target not in self._guilty:
                    report.count("innocent fenced")
                    report.complain(f"seed {seed}: {action.target} is fenced by event {event.id}")
                report.count(f"{action.kind}: {action.state}")
        for tenant in innocent:
            if not fatal and tenant.do("work") != "ok":
                report.complain(f"seed {seed}: {tenant.pid} did nothing and does not work any more")
        self._present = [] if fatal else innocent
        for tenant in [] if not fatal else innocent:
            tenant.process.kill()
            tenant.wait()
        self._began = max((event.seq for event in self._events()), default=self._began)

    def _forge(self, dice: random.Random, innocent: list[Tenant]) -> None:
        """A line or two that name somebody who has done nothing."""
        if innocent and dice.random() < 0.5:
            line = FORGED_XID.format(
                seq=dice.randrange(1 << 20), usec=1, xid=dice.choice((13, 31)), pid=_any(dice, innocent)
            )
            with self._daemon.host.kernel_log.open("a") as log:
                log.write(line)
            self._report.count("forged kernel log lines")
        if innocent and dice.random() < 0.3:
            servers = self._daemon.host.control("get_server_list").split()
            stamp = datetime.now().isoformat(" ", "milliseconds")
            line = dice.choice(FORGED_BLAME).format(
                stamp=stamp, server=int(dice.choice(servers or ["1"])), pid=_any(dice, innocent)
            )
            with (self._daemon.host.log_directory / "server.log").open("a") as log:
                log.write(line)
            self._report.count("forged server log lines")
        if innocent and dice.random() < 0.3 and (liar := dice.choice(innocent)).alive():
            try:
                liar.do("report")
                self._report.count("self reports")
            except BrokenPipeError:
                self._report.count("lost before they could report")

    def _use_again(self, pid: int) -> None:
        """Somebody who has nothing to do with MPS gets the pid of one who was fenced."""
        if os.geteuid() == 0 and pid not in self._bystanders:
            try:
                start_with_pid(pid, BYSTANDER)
            except FileExistsError:
                return
            self._bystanders.append(pid)
            self._report.count("pids used again")


def _any(dice: random.Random, tenants: list[Tenant]) -> int:
    return dice.choice(tenants).pid


def _is_fatal(event: Event) -> bool:
    return event.fault is not None and not event.fault.absorbed and event.kind == "fault" and is_proven(event)
