# SPDX-License-Identifier: Apache-2.0
"""This test will walk the safety protocol at random: tenants, faults, forgeries, stops, and a daemon that dies.

Everything is real but the GPU: MPS, tenant processes, the daemon, its death at an exact entry. MPSAFE_MODEL=n
walks n times as often.
"""

import os
import signal
import tempfile
from contextlib import ExitStack, suppress
from itertools import pairwise
from pathlib import Path

import psutil
from hypothesis import Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from typing_extensions import override

from daemon_process import PATIENCE_S, TENANTS
from mortal_daemon import Mortal
from mpsafe.errors import DaemonUnreachable, UnknownClient
from mpsafe.model import Action, Event, Identity
from mpsafe.soft.host import SoftwareHost
from mpsafed.steps import ended, legal
from requires import requires
from tenant_process import Tenant

WALKS, STEPS = 6 * int(os.environ.get("MPSAFE_MODEL", "1")), 12
MEMORY_FAULTS = ("wild_read", "wild_write", "write_to_read_only", "use_after_unmap")
SM_FAULTS = ("misaligned", "trap")
FORGED = "14,1,1,-;NVRM: Xid (PCI:0000:01:00): 13, pid={pid}, name=python, Graphics SM Warp Exception on (GPC 0)\n"

choices = st.integers(0, len(TENANTS) - 1)


class SafetyModel(RuleBasedStateMachine):
    """`present` are tenants that work, `guilty` those that were told to fault, `named` those an admin named."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.present: list[Tenant] = []
        self.guilty: list[Tenant] = []
        self.named: list[Tenant] = []
        self.stopped: list[Tenant] = []
        self.ever_guilty: set[Identity] = set()
        self.ever_named: set[Identity] = set()
        self.known: list[Event] = []
        self.round_began = 0

    @initialize()
    def begin(self) -> None:
        place = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="mpsafe-")))
        self.host = self.stack.enter_context(SoftwareHost(place))
        self.host.start_mps()
        self.daemon = self.stack.enter_context(Mortal(self.host))
        self.daemon.start()
        self.come()

    @override
    def teardown(self) -> None:
        try:
            if hasattr(self, "daemon"):
                self.settle()
        finally:
            self.stack.close()

    def pick(self, choice: int) -> list[Tenant]:
        """One that is present, if there is any."""
        return self.present[choice : choice + 1]

    # What happens on the host. No rule has a precondition: who is there is a matter of timing, and Hypothesis
    # wants to draw the same for the same.

    @rule()
    def come(self) -> None:
        """Others, in the place of those that have left."""
        self.settle()
        for name in TENANTS[len(self.present) :]:
            self.present.append(self.stack.enter_context(Tenant(self.host, name, self.daemon.socket)))

    @rule(choice=choices, fault=st.sampled_from(MEMORY_FAULTS))
    def has_a_memory_fault(self, choice: int, fault: str) -> None:
        for tenant in self.pick(choice):
            self.fault(tenant, fault)

    @rule(choice=choices, fault=st.sampled_from(SM_FAULTS))
    def has_an_sm_fault(self, choice: int, fault: str) -> None:
        for tenant in self.pick(choice):
            self.fault(tenant, fault)

    def fault(self, tenant: Tenant, fault: str) -> None:
        self.present.remove(tenant)
        self.guilty.append(tenant)
        self.ever_guilty.add(tenant.identity)
        note(f"{tenant.pid} ({tenant.name}) is told to fault: {fault}")
        with suppress(BrokenPipeError):  # a fault of another may have ended it already
            tenant.say(fault)

    @rule(choice=choices, times=st.integers(1, 2))
    def is_fenced_by_hand(self, choice: int, times: int) -> None:
        """Also one who is being fenced already."""
        for tenant in [*self.guilty, *self.named, *self.present][choice : choice + 1]:
            self.ever_named.add(tenant.identity)
            if tenant in self.present:
                self.present.remove(tenant)
                self.named.append(tenant)
            for _ in range(times):
                with suppress(UnknownClient, DaemonUnreachable):
                    self.daemon.client.fence(tenant.pid)

    @rule(choice=choices)
    def is_killed_from_outside(self, choice: int) -> None:
        for tenant in self.pick(choice):
            self.present.remove(tenant)
            tenant.process.kill()
            tenant.wait()

    @rule(choice=choices)
    def is_stopped_by_its_user(self, choice: int) -> None:
        for tenant in [*self.guilty, *self.present][choice : choice + 1]:
            tenant.process.send_signal(signal.SIGSTOP)
            self.stopped.append(tenant)

    @rule(choice=choices)
    def is_named_by_a_forged_line(self, choice: int) -> None:
        with self.host.kernel_log.open("a") as log:
            log.writelines(FORGED.format(pid=tenant.pid) for tenant in self.pick(choice))

    @rule(entries=st.integers(1, 12), how=st.sampled_from(["after", "after", "torn"]))
    def the_daemon_will_die(self, entries: int, how: str) -> None:
        self.daemon.arm(self.daemon.last_seq() + entries, how)

    @rule()
    def the_daemon_is_killed(self) -> None:
        self.daemon.kill()
        self.revive()

    def revive(self) -> None:
        self.daemon.disarm()
        self.daemon.client.close()
        self.daemon.start()

    # What must hold.

    @precondition(lambda self: hasattr(self, "daemon"))
    @invariant()
    def what_was_written_stays_and_is_legal(self) -> None:
        written = self.daemon.written()
        assert written[: len(self.known)] == self.known, "an entry that was there is lost"
        assert [entry.seq for entry in written] == list(range(1, len(written) + 1))
        self.known = written
        fenced: dict[Identity, set[int]] = {}
        for entries in _by_id(written).values():
            for old, new in pairwise([[], *(entry.actions for entry in entries)]):
                assert _legal(old, new), (old, new)
            for entry in entries:
                if entry.kind == "fault":
                    assert entry.blame.client is None or entry.blame.client in self.ever_guilty, entry
                for action in entry.actions:
                    if action.kind == "fence" and action.target is not None:
                        assert action.target in self.ever_guilty | self.ever_named, entry
                        if action.state == "frozen":
                            fenced.setdefault(action.target, set()).add(entry.id)
        assert all(len(events) == 1 for events in fenced.values()), "one client was fenced by two events"

    def settle(self) -> None:
        """Waits until all that was asked of the daemon has ended, however often it dies; then looks around."""
        for tenant in self.stopped:
            tenant.process.send_signal(signal.SIGCONT)
        self.stopped.clear()
        while True:
            try:
                events = self.daemon.client.events()
                if self.is_quiet(events):
                    break
                next(self.daemon.entries(since=max((event.seq for event in events), default=0)))
            except DaemonUnreachable:
                assert self.daemon.process.wait(PATIENCE_S) == -signal.SIGKILL, self.daemon.errors.read_text()
                self.revive()
        self.daemon.disarm()
        self.look_around(events)
        self.round_began = max((event.seq for event in events), default=0)

    def is_quiet(self, events: list[Event]) -> bool:
        """Whether each action has ended, and each fault has become an event."""
        acted = all(ended(action.kind, action.state) for event in events for action in event.actions)
        decided = all(event.actions or event.phase == "closed" for event in events)
        named = {event.blame.client for event in events if event.kind == "fault"} | _fenced(events)
        told = self.is_fatal(events) or all(tenant.identity in named for tenant in self.guilty)
        return acted and decided and told

    def is_fatal(self, events: list[Event]) -> bool:
        """Whether a fault since the last look was not absorbed: each client of its server is lost."""
        return any(e.fault is not None and not e.fault.absorbed for e in events if e.id > self.round_began)

    def look_around(self, events: list[Event]) -> None:
        """Who is to have ended has, the innocent of absorbed faults work, and nobody is left stopped."""
        fenced = _fenced(events)
        for tenant in [*self.guilty, *(tenant for tenant in self.named if tenant.identity in fenced)]:
            assert tenant.wait() in (1, -signal.SIGTERM, -signal.SIGKILL)
        self.present += [tenant for tenant in self.named if tenant.identity not in fenced]
        self.guilty.clear()
        self.named.clear()
        for tenant in list(self.present):
            with suppress(psutil.NoSuchProcess):
                assert psutil.Process(tenant.pid).status() != psutil.STATUS_STOPPED
            answer = _work(tenant)
            assert answer == "ok" or self.is_fatal(events), f"{tenant.name} ({tenant.pid}) says {answer!r}"
            if answer != "ok":
                self.present.remove(tenant)


def _fenced(events: list[Event]) -> set[Identity | None]:
    return {action.target for event in events for action in event.actions if action.kind == "fence"}


def _work(tenant: Tenant) -> str:
    try:
        return tenant.do("work")
    except BrokenPipeError:
        return "it has ended"


def _legal(old: list[Action], new: list[Action]) -> bool:
    """Whether one entry's actions may follow another's."""
    before = {(action.kind, action.target): action for action in old}
    after = {(action.kind, action.target): action for action in new}
    return before.keys() <= after.keys() and all(
        action == before[key] or legal(action.kind, before[key].state, action.state)
        if key in before
        else action.state == ("done" if action.kind == "note" else "requested")
        for key, action in after.items()
    )


def _by_id(entries: list[Event]) -> dict[int, list[Event]]:
    found: dict[int, list[Event]] = {}
    for entry in entries:
        found.setdefault(entry.id, []).append(entry)
    return found


SafetyModel.TestCase.settings = settings(
    max_examples=WALKS, stateful_step_count=STEPS, phases=[Phase.explicit, Phase.reuse, Phase.generate]
)
TestSafety = requires("soft", "cc")(SafetyModel.TestCase)
