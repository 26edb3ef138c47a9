# SPDX-License-Identifier: Apache-2.0
"""This test will show the law of the policy: nobody is fenced without evidence that names it."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from mpsafe.model import Action, Blame, Client, Event, Evidence, Fault, Identity, Server
from mpsafed.policy import Fence, Note, Policy, RestartServer, Takeover, TenantPolicy, decide
from mpsafed.snapshot import Snapshot

SERVER = Server(500, 1000, "fault", 2)
GUILTY = Client(Identity(11, 110), 1000, "python", 500, "embed", "connected")
OTHER = Client(Identity(12, 120), 1000, "python", 500, "chat", "connected")
HOST = Snapshot(clients={c.identity: c for c in (GUILTY, OTHER)}, servers={500: SERVER})
RECORD = Evidence("kernel_record", "pde fault", 11)
ABSORBED = Event(
    1, 1, 0, "fault", "open", "", server=500, fault=Fault("mmu", absorbed=True),
    blame=Blame(GUILTY.identity, "python", "embed", [RECORD]),
)  # fmt: skip
FATAL = replace(ABSORBED, fault=Fault("sm", absorbed=False, xid=13))

identities = st.sampled_from([GUILTY.identity, OTHER.identity, Identity(13, 130)])
evidence = st.builds(
    Evidence,
    st.sampled_from(["kernel_record", "server_log", "xid_pid", "self_report", "exit"]),
    st.just("text"),
    st.sampled_from([None, 11, 12, 13]),
)
blames = st.builds(
    Blame, identities | st.none(), st.none(), st.sampled_from([None, "embed", "chat"]), st.lists(evidence, max_size=3)
)
actions = st.builds(
    Action,
    st.sampled_from(["fence", "restart_server", "note"]),
    st.none() | identities,
    st.sampled_from(["requested", "frozen", "terminating", "killed", "done", "failed"]),
    st.just(""),
)
faults = st.builds(Fault, st.sampled_from(["mmu", "sm", "device", "other"]), absorbed=st.booleans())
events = st.builds(
    Event,
    st.just(1),
    st.just(1),
    st.just(0),
    st.sampled_from(["fault", "fault", "fault", "eviction", "exit", "server", "device"]),
    st.sampled_from(["open", "open", "open", "closed"]),
    st.just(""),
    server=st.sampled_from([None, 500, 600]),
    fault=faults | st.none(),
    blame=blames,
    actions=st.lists(actions, max_size=3),
)
clients = st.builds(
    Client,
    identities,
    st.just(1000),
    st.just("python"),
    st.sampled_from([500, 600]),
    st.none(),
    st.sampled_from(["connected", "doomed", "fenced", "gone"]),
)
servers = st.builds(
    Server, st.sampled_from([500, 600]), st.just(0), st.sampled_from(["active", "fault", "unknown"]), st.just(1)
)
snapshots = st.builds(
    Snapshot,
    st.lists(clients).map(lambda found: {client.identity: client for client in found}),
    st.lists(servers).map(lambda found: {server.pid: server for server in found}),
    standbys=st.dictionaries(st.sampled_from(["embed", "chat"]), identities | st.none(), max_size=2),
    members=st.dictionaries(identities, st.sampled_from(["embed", "chat"]), max_size=3),
)
policies = st.builds(
    Policy,
    st.sampled_from([True, True, False]),
    st.dictionaries(
        st.sampled_from(["embed", "chat"]), st.builds(TenantPolicy, st.sampled_from(["fence", "note"])), max_size=2
    ),
)


@settings(max_examples=400)
@given(snapshots, events, policies)
def test_the_law(snapshot: Snapshot, event: Event, policy: Policy) -> None:
    decisions = decide(snapshot, event, policy)
    assert decide(snapshot, event, policy) == decisions, "the same answer for the same input"
    for decision in decisions:
        match decision:
            case Fence():
                assert event.kind == "fault"
                assert event.fault is not None
                assert event.fault.absorbed
                assert decision.client == event.blame.client
                assert [e for e in event.blame.evidence if (e.source, e.pid) == ("kernel_record", decision.client.pid)]
                assert policy.tenants.get(event.blame.tenant or "", TenantPolicy()).on_fault == "fence"
            case RestartServer():
                assert event.fault is not None
                assert not event.fault.absorbed
                assert decision.server == event.server
                assert snapshot.servers[decision.server].uid == decision.uid
                assert all(snapshot.clients[client].server == decision.server for client in decision.clients)
            case Takeover():
                assert snapshot.standbys[decision.tenant] in (None, decision.victim)
                assert snapshot.tenant_of(decision.victim) == decision.tenant
                assert policy.tenants.get(decision.tenant, TenantPolicy()).on_fault == "fence"
            case Note():
                assert decision.reason
    if event.phase == "closed":
        assert decisions == []
    if not policy.act:
        assert all(isinstance(decision, Note) for decision in decisions), "a dry run acts on nothing"


@settings(max_examples=400)
@given(snapshots, events, policies)
def test_nothing_is_decided_twice(snapshot: Snapshot, event: Event, policy: Policy) -> None:
    taken: list[Action] = []
    for decision in decide(snapshot, event, policy):
        match decision:
            case Fence():
                taken.append(Action("fence", decision.client, "requested", ""))
            case RestartServer():
                taken.append(Action("restart_server", None, "requested", ""))
            case Takeover():
                taken.append(Action("takeover", decision.victim, "requested", ""))
            case Note():
                taken.append(Action("note", None, "done", decision.reason))
    acted = replace(event, actions=[*event.actions, *taken])
    assert decide(snapshot, acted, policy) == []
    if any(action.kind != "note" for action in taken):
        assert decide(Snapshot(), acted, policy) == [], "not even once the server is gone"


def test_an_absorbed_fault_costs_its_own_client_only() -> None:
    assert decide(HOST, ABSORBED, Policy()) == [Fence(GUILTY.identity, 500)]


def test_an_absorbed_fault_that_names_nobody_costs_nobody() -> None:
    (note,) = decide(HOST, replace(ABSORBED, blame=Blame(evidence=[RECORD])), Policy())
    assert isinstance(note, Note)


def test_a_tenant_may_be_left_alone() -> None:
    (note,) = decide(HOST, ABSORBED, Policy(tenants={"embed": TenantPolicy("note")}))
    assert note == Note("tenant embed is configured to be left alone")
    assert decide(HOST, ABSORBED, Policy(tenants={"chat": TenantPolicy("note")})) == [Fence(GUILTY.identity, 500)]


def test_a_fatal_fault_restarts_its_server() -> None:
    assert decide(HOST, FATAL, Policy()) == [RestartServer(500, 1000, (GUILTY.identity, OTHER.identity))]


def test_a_fault_outside_the_known_servers_is_noted() -> None:
    for server in (None, 600):
        (note,) = decide(HOST, replace(FATAL, server=server), Policy())
        assert isinstance(note, Note)


def test_a_class_that_says_nothing_waits_for_the_server() -> None:
    event = replace(FATAL, fault=Fault("other", absorbed=False))
    active = replace(HOST, servers={500: replace(SERVER, state="active")})
    (note,) = decide(active, event, Policy())
    assert isinstance(note, Note)
    noted = replace(event, actions=[Action("note", None, "done", note.reason)])
    assert decide(HOST, noted, Policy()) == [RestartServer(500, 1000, (GUILTY.identity, OTHER.identity))]


def test_a_dry_run_tells_what_it_would_do() -> None:
    dry = Policy(act=False)
    assert decide(HOST, ABSORBED, dry) == [Note("dry run: would fence process 11")]
    assert decide(HOST, FATAL, dry) == [Note("dry run: would restart MPS server 500")]


def test_events_that_are_no_faults_are_told() -> None:
    for kind in ("eviction", "exit", "server", "device"):
        (note,) = decide(HOST, replace(FATAL, kind=kind, fault=None), Policy())
        assert note == Note(f"{kind} events are told, not acted upon")


WAITED_FOR = replace(HOST, standbys={"embed": GUILTY.identity, "chat": None})


def test_a_standby_is_promoted_beside_the_fence_of_its_process() -> None:
    assert decide(WAITED_FOR, ABSORBED, Policy()) == [Takeover("embed", GUILTY.identity), Fence(GUILTY.identity, 500)]


def test_each_tenant_that_lost_its_process_has_its_standby_promoted() -> None:
    lost = (GUILTY.identity, OTHER.identity)
    assert decide(WAITED_FOR, FATAL, Policy()) == [
        Takeover("embed", GUILTY.identity),
        Takeover("chat", OTHER.identity),
        RestartServer(500, 1000, lost),
    ]


def test_a_process_that_does_not_hold_the_epoch_is_nobodys_to_replace() -> None:
    """The tenant's standby was promoted before: what is lost now is the old process."""
    promoted = replace(HOST, standbys={"embed": Identity(13, 130)})
    assert decide(promoted, ABSORBED, Policy()) == [Fence(GUILTY.identity, 500)]


def test_the_end_of_the_process_that_serves_is_a_takeover() -> None:
    ended = replace(ABSORBED, kind="exit", fault=None)
    assert decide(WAITED_FOR, ended, Policy()) == [Takeover("embed", GUILTY.identity)]
    spared = Policy(tenants={"embed": TenantPolicy("note")})
    assert [type(one) for one in decide(WAITED_FOR, ended, spared)] == [Note]
