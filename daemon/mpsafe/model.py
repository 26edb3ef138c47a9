# SPDX-License-Identifier: Apache-2.0
"""The words of mpsafe, one per thing. These values travel over the socket as they stand here.

device   one GPU, by UUID; ordinals are never trusted
control  one MPS control daemon with directories of its own; it starts servers
server   one MPS server process
client   one process connected to a server: (pid, start time), never a bare pid
tenant   a named service with a policy: who it is and how its faults are treated
signal   one raw observation by one source
event    what signals are fused into
blame    the client named as the cause, with the evidence; nobody is an answer
fence    the ordered stop of a client
vault    GPU memory held by file descriptors; region: one named piece of it, immutable or durable
epoch    a tenant's right to write its durable regions; one process holds it, a takeover begins the next
lease    a timed grant of a device's memory or SM share to a process: floor, target, ceiling
content  host data by its hash, in the store: one sealed memfd; link: what a device is loaded over
standby  a warm process of a tenant outside the server it protects against; takeover: its promotion
"""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

__all__ = [
    "Action",
    "ActionKind",
    "ActionState",
    "Blame",
    "Client",
    "ClientState",
    "ControlDaemon",
    "ControlState",
    "Device",
    "Event",
    "EventKind",
    "EventPhase",
    "Evidence",
    "EvidenceSource",
    "Fault",
    "FaultClass",
    "Figures",
    "Identity",
    "Limits",
    "MpsInterface",
    "Region",
    "RegionKind",
    "RegionState",
    "Server",
    "ServerState",
    "SourceState",
    "Standby",
    "StandbyPhase",
    "Takeover",
    "Tenant",
    "TenantHealth",
]

EventKind: TypeAlias = Literal["fault", "eviction", "exit", "server", "device"]
EventPhase: TypeAlias = Literal["open", "closed"]
FaultClass: TypeAlias = Literal["mmu", "sm", "device", "other"]
ServerState: TypeAlias = Literal["initializing", "active", "fault", "gone", "unknown"]
ControlState: TypeAlias = Literal["running", "starting", "stopped", "failed"]
MpsInterface: TypeAlias = Literal["v2", "v3", "unknown"]
ClientState: TypeAlias = Literal["connected", "doomed", "fenced", "gone"]
TenantHealth: TypeAlias = Literal["absent", "healthy", "fenced", "lost"]
ActionKind: TypeAlias = Literal["fence", "restart_server", "takeover", "note"]
ActionState: TypeAlias = Literal[
    "requested",
    "frozen",
    "cut",
    "terminating",
    "proven",
    "assumed",
    "killed",
    "started",
    "limited",
    "promoted",
    "granted",
    "done",
    "failed",
]
RegionKind: TypeAlias = Literal["immutable", "durable"]
RegionState: TypeAlias = Literal["open", "committed", "suspect", "lost"]
StandbyPhase: TypeAlias = Literal["warm", "promoted", "granted", "serving"]
EvidenceSource: TypeAlias = Literal["kernel_record", "server_log", "xid_pid", "nvml", "self_report", "exit"]


@dataclass(frozen=True, slots=True, order=True)
class Identity:
    """One process for ever: a pid is used again, a pid with its start time is not.

    `start_ticks` is field 22 of /proc/PID/stat: clock ticks since boot (proc(5)).
    """

    pid: int
    start_ticks: int


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU as NVML describes it. Memory in bytes.

    `compute_mode`: default, exclusive_process, prohibited, or unknown (nvml.h, nvmlComputeMode_t).
    """

    uuid: str
    index: int
    name: str
    pci: str
    driver_version: str
    memory_total_bytes: int
    memory_used_bytes: int
    software: bool
    compute_mode: str = "unknown"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a control daemon grants the clients of its servers; what is left out is MPS's own default.

    `active_thread_percentage` over 0 to 100. `client_priority` 0 normal, 1 below normal. `pinned_mib`:
    device memory in MiB that one client may pin, by device ordinal, which MPS counts itself; in v3 one
    limit for all devices, by "all". `partitions`: sizes in chunks of SMs, by device UUID.
    """

    active_thread_percentage: float | None = None
    client_priority: int | None = None
    pinned_mib: dict[str, int] = field(default_factory=lambda: dict[str, int]())
    partitions: dict[str, list[int]] = field(default_factory=lambda: dict[str, list[int]]())


@dataclass(frozen=True, slots=True)
class ControlDaemon:
    """One MPS control daemon: what is declared for it and what it says.

    `uid`: whose alone it is; None: it serves every user, and one user's fault is everybody's. `wanted`:
    whether it is to run. `declared` limits were asked for, `in_force` were read back, `drift` has a
    sentence for each difference. `trouble` is empty, or why it does not run or cannot be asked.
    `starts` counts how often mpsafed has started it since mpsafed itself was started.
    """

    name: str
    uid: int | None
    pipe_directory: str
    log_directory: str
    identity: Identity | None
    state: ControlState
    interface: MpsInterface
    wanted: bool
    declared: Limits
    in_force: Limits | None
    drift: list[str]
    trouble: str
    starts: int


@dataclass(frozen=True, slots=True)
class Server:
    """One MPS server process; `control` names the control daemon that it belongs to."""

    pid: int
    uid: int
    state: ServerState
    clients: int
    control: str = ""


@dataclass(frozen=True, slots=True)
class Client:
    """One process connected to a server."""

    identity: Identity
    uid: int
    name: str
    server: int
    tenant: str | None
    state: ClientState


@dataclass(frozen=True, slots=True)
class Figures:
    """What one process says of its own work; None: nothing new, what it said before counts on."""

    queue: int | None = None
    in_flight: int | None = None
    latency_ns: int | None = None
    resident_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Tenant:
    """One tenant and how it is. `generation` counts the processes that attached for it."""

    name: str
    uid: int | None
    health: TenantHealth
    generation: int
    clients: list[Identity]
    figures: Figures = field(default_factory=Figures)


@dataclass(frozen=True, slots=True)
class Region:
    """One named piece of the vault, on one device: `sizes` are the bytes of its handles, in order.

    `immutable`: open until its creator commits it with a digest of its contents, then only ever read.
    `durable`: written by the process that holds the tenant's epoch where that is the region's `epoch`;
    suspect from the moment that its writer is cut off until that writer's work is proven stopped: what is
    committed in it may be read and checked, nothing written. `lost`: its device was reset, or the driver unloaded, and
    the memory is gone. `created_ns`, `committed_ns`: since the epoch of
    the clock; 0: not yet.
    """

    id: int
    tenant: str
    name: str
    kind: RegionKind
    state: RegionState
    device: str
    sizes: list[int]
    epoch: int
    uid: int
    creator: Identity
    digest: str = ""
    layout_bytes: int = 0
    created_ns: int = 0
    committed_ns: int = 0

    @property
    def nbytes(self) -> int:
        """All of it, in bytes."""
        return sum(self.sizes)


@dataclass(frozen=True, slots=True)
class Standby:
    """A process that waits to take over for a tenant, and the device memory that waiting costs, by its own word."""

    tenant: str
    identity: Identity
    uid: int
    phase: StandbyPhase
    since_ns: int
    resident_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Takeover:
    """The timeline of one takeover, in nanoseconds since the epoch of the clock; 0: not reached (yet).

    The fault itself is the event's `time_ns`. `signal_ns`: the daemon had its first signal; `decided_ns`: what to do
    was written down; `promoted_ns`: the standby was told; `received_ns`: it had read that; `proven_ns`: the old
    client's work is proven stopped; `granted_ns`: the durable regions are the standby's to write; `serving_ns`: its
    first correct answer. `received_ns` and `serving_ns` are the standby's own word.
    """

    tenant: str
    victim: Identity | None
    standby: Identity | None
    epoch: int = 0
    signal_ns: int = 0
    decided_ns: int = 0
    promoted_ns: int = 0
    received_ns: int = 0
    proven_ns: int = 0
    granted_ns: int = 0
    serving_ns: int = 0


@dataclass(frozen=True, slots=True)
class SourceState:
    """One source of signals, whether it is seen, and if not, why."""

    name: str
    alive: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Fault:
    """What is known of a GPU fault. `address` is hexadecimal with 0x."""

    fault_class: FaultClass
    absorbed: bool
    xid: int | None = None
    address: str | None = None
    access: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """Why a client is blamed: who said it, the text as it was said, and of which process."""

    source: EvidenceSource
    text: str
    pid: int | None


@dataclass(frozen=True, slots=True)
class Blame:
    """The client named as the cause; None is an answer: the evidence does not say."""

    client: Identity | None = None
    name: str | None = None
    tenant: str | None = None
    evidence: list[Evidence] = field(default_factory=lambda: list[Evidence]())


@dataclass(frozen=True, slots=True)
class Action:
    """One thing the daemon does about an event, and how far it has come."""

    kind: ActionKind
    target: Identity | None
    state: ActionState
    detail: str


@dataclass(frozen=True, slots=True)
class Event:
    """What happened, who did it, what was done. Each change is a new entry of the stream.

    `seq` is the entry's place in the stream, from 1 without a gap; `id` is the `seq` of the event's
    first entry and names the event. `time_ns` is when it happened by its source's clock, `entered_ns`
    when this entry was made: nanoseconds since the epoch. `uid` is the user whose client it is about,
    where that is known.
    """

    seq: int
    id: int
    time_ns: int
    kind: EventKind
    phase: EventPhase
    summary: str
    device: str | None = None
    server: int | None = None
    fault: Fault | None = None
    blame: Blame = field(default_factory=Blame)
    actions: list[Action] = field(default_factory=lambda: list[Action]())
    lost_signals: int = 0
    uid: int | None = None
    entered_ns: int = 0
    takeovers: list[Takeover] = field(default_factory=lambda: list[Takeover]())
