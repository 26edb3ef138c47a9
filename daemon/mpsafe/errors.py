# SPDX-License-Identifier: Apache-2.0
"""What can go wrong: each error is data, a sentence and a way out.

The daemon sends an error's code and fields, the client library raises the same class, the command
prints the sentence and the hint. The base class says what an error ends: `Refused` the one
request, `ConnectionEnded` the connection, `SourceLost` one source until it is back, `CannotRun`
the program.
"""

from dataclasses import dataclass, fields
from typing import ClassVar

from typing_extensions import override

__all__ = [
    "BadConfig",
    "BadCudaCall",
    "BadRequest",
    "CannotRun",
    "ConnectionEnded",
    "ControlFailed",
    "DaemonUnreachable",
    "DemoCannotRun",
    "InternalError",
    "MpsafeError",
    "NoCudaDriver",
    "NotOurs",
    "NotPermitted",
    "NotSupported",
    "PeerMisbehaved",
    "Refused",
    "SocketTaken",
    "SoftwareGpuFailed",
    "SourceLost",
    "TooManyReports",
    "UnknownClient",
    "UnknownControl",
    "UnknownTenant",
    "UnknownXid",
    "all_errors",
]


@dataclass(eq=False)
class MpsafeError(Exception):
    """Base of all errors that mpsafe raises on purpose."""

    code: ClassVar[str] = "mpsafe"
    hint: ClassVar[str] = "see the journal of mpsafed.service"

    def fields(self) -> dict[str, str | int]:
        """The error's own data by field name, as it travels over the socket."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


class Refused(MpsafeError):
    """Ends one request; the connection and everybody else go on."""


class ConnectionEnded(MpsafeError):
    """Ends one connection."""


@dataclass(eq=False)
class SourceLost(MpsafeError):
    """Ends one source of signals until it is back; the daemon says what it cannot see."""

    code: ClassVar[str] = "source-lost"
    hint: ClassVar[str] = "mpsafe status lists the sources and what each one sees"
    source: str
    reason: str

    @override
    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


class CannotRun(MpsafeError):
    """Ends the program before it has done anything: exit status 77."""


@dataclass(eq=False)
class NotPermitted(Refused):
    """The peer lacks the role that this method or object wants."""

    code: ClassVar[str] = "not-permitted"
    hint: ClassVar[str] = "ask a member of the group mpsafe-admin, or run the command as root"
    method: str
    role: str
    uid: int

    @override
    def __str__(self) -> str:
        return f"{self.method} wants the role {self.role}; uid {self.uid} does not have it"


@dataclass(eq=False)
class BadRequest(Refused):
    """A parameter has the right type and a value that makes no sense."""

    code: ClassVar[str] = "bad-request"
    hint: ClassVar[str] = "see what the method expects with: varlinkctl introspect"
    parameter: str
    expected: str
    got: str

    @override
    def __str__(self) -> str:
        return f"parameter {self.parameter}: expected {self.expected}, got {self.got}"


@dataclass(eq=False)
class UnknownClient(Refused):
    """No such client is connected to a server that the daemon manages."""

    code: ClassVar[str] = "unknown-client"
    hint: ClassVar[str] = "see who is connected with: mpsafe clients"
    pid: int

    @override
    def __str__(self) -> str:
        return f"process {self.pid} is not a client of an MPS server that mpsafed knows"


@dataclass(eq=False)
class UnknownControl(Refused):
    """The configuration leads to no MPS control daemon of that name."""

    code: ClassVar[str] = "unknown-control"
    hint: ClassVar[str] = "see which there are with: mpsafe mps status"
    control: str

    @override
    def __str__(self) -> str:
        return f"there is no MPS control daemon named {self.control!r}"


@dataclass(eq=False)
class NotOurs(Refused):
    """mpsafed only watches this control daemon: the configuration says that somebody else runs it."""

    code: ClassVar[str] = "not-ours"
    hint: ClassVar[str] = 'give it to mpsafed with [mps] mode = "each-user" or "shared", see mpsafe.toml(5)'
    control: str

    @override
    def __str__(self) -> str:
        return f"the MPS control daemon {self.control} is not started and stopped by mpsafed"


@dataclass(eq=False)
class NotSupported(Refused):
    """The MPS that runs has no such command."""

    code: ClassVar[str] = "not-supported"
    hint: ClassVar[str] = "mpsafe mps status tells which interface each control daemon speaks"
    what: str
    wants: str

    @override
    def __str__(self) -> str:
        return f"{self.what} wants {self.wants}"


@dataclass(eq=False)
class TooManyReports(Refused):
    """A user's processes report faster than reports are taken in."""

    code: ClassVar[str] = "too-many-reports"
    hint: ClassVar[str] = "report when something changed, a few times a second at most"
    uid: int
    per_second: int

    @override
    def __str__(self) -> str:
        return f"uid {self.uid} sends more than {self.per_second} reports a second"


@dataclass(eq=False)
class UnknownTenant(Refused):
    """The configuration has no tenant of that name."""

    code: ClassVar[str] = "unknown-tenant"
    hint: ClassVar[str] = "name it in /etc/mpsafe/mpsafe.toml as [[tenant]]; mpsafe status lists them"
    tenant: str

    @override
    def __str__(self) -> str:
        return f"there is no tenant named {self.tenant!r} in the configuration"


@dataclass(eq=False)
class UnknownXid(Refused):
    """The catalogue has no entry of that number."""

    code: ClassVar[str] = "unknown-xid"
    hint: ClassVar[str] = "mpsafe explain without an argument lists the numbers that it knows"
    xid: int

    @override
    def __str__(self) -> str:
        return f"the catalogue has no Xid {self.xid}"


@dataclass(eq=False)
class InternalError(Refused):
    """The daemon has a defect; the request failed, the daemon goes on."""

    code: ClassVar[str] = "internal"
    hint: ClassVar[str] = "journalctl -u mpsafed has the traceback; please report it"
    method: str

    @override
    def __str__(self) -> str:
        return f"{self.method} failed inside mpsafed"


@dataclass(eq=False)
class BadConfig(CannotRun):
    """A configuration file cannot be used."""

    code: ClassVar[str] = "bad-config"
    hint: ClassVar[str] = "check it with: mpsafe config check"
    file: str
    place: str
    problem: str
    advice: str

    @override
    def __str__(self) -> str:
        place = f", {self.place}" if self.place else ""
        advice = f"; {self.advice}" if self.advice else ""
        return f"{self.file}{place}: {self.problem}{advice}"


@dataclass(eq=False)
class DaemonUnreachable(ConnectionEnded):
    """Nobody answers on the daemon's socket."""

    code: ClassVar[str] = "daemon-unreachable"
    hint: ClassVar[str] = "start it with: systemctl start mpsafed.socket"
    socket: str
    reason: str

    @override
    def __str__(self) -> str:
        return f"mpsafed does not answer on {self.socket}: {self.reason}"


@dataclass(eq=False)
class PeerMisbehaved(ConnectionEnded):
    """The other end sent something that is no Varlink, or not what the interface says."""

    code: ClassVar[str] = "peer-misbehaved"
    hint: ClassVar[str] = "compare the versions of both ends with: mpsafe status"
    peer: str
    expected: str
    got: str

    @override
    def __str__(self) -> str:
        return f"{self.peer}: expected {self.expected}, got {self.got}"


@dataclass(eq=False)
class ControlFailed(Refused):
    """`nvidia-cuda-mps-control` did not do what it was asked, or did not answer in time."""

    code: ClassVar[str] = "control-failed"
    hint: ClassVar[str] = "read control.log in the MPS log directory"
    command: str
    problem: str

    @override
    def __str__(self) -> str:
        return f"nvidia-cuda-mps-control, {self.command!r}: {self.problem}"


@dataclass(eq=False)
class NoCudaDriver(CannotRun):
    """libcuda.so.1 cannot be opened."""

    code: ClassVar[str] = "no-cuda-driver"
    hint: ClassVar[str] = "install the NVIDIA driver, or name a library in MPSAFE_LIBCUDA"
    path: str
    problem: str

    @override
    def __str__(self) -> str:
        return f"{self.path} cannot be opened: {self.problem}"


@dataclass(eq=False)
class SoftwareGpuFailed(CannotRun):
    """The software GPU could not be started."""

    code: ClassVar[str] = "software-gpu-failed"
    hint: ClassVar[str] = "build it with: make; a C compiler is needed"
    problem: str

    @override
    def __str__(self) -> str:
        return f"the software GPU did not start: {self.problem}"


@dataclass(eq=False)
class SocketTaken(CannotRun):
    """Another daemon serves the socket already."""

    code: ClassVar[str] = "socket-taken"
    hint: ClassVar[str] = "stop it with: systemctl stop mpsafed.socket mpsafed.service"
    socket: str

    @override
    def __str__(self) -> str:
        return f"another process answers on {self.socket}"


@dataclass(eq=False)
class DemoCannotRun(CannotRun):
    """What the demo needs is not there, or did not come up."""

    code: ClassVar[str] = "demo-cannot-run"
    hint: ClassVar[str] = "without a GPU run it on the software one: mpsafe demo"
    problem: str

    @override
    def __str__(self) -> str:
        return f"the demo cannot run: {self.problem}"


@dataclass(eq=False)
class BadCudaCall(MpsafeError):
    """A call of the CUDA driver API returned something other than CUDA_SUCCESS."""

    code: ClassVar[str] = "cuda"
    hint: ClassVar[str] = "see the CUDA driver API manual, CUresult; mpsafe events tells what happened"
    call: str
    result: int
    name: str
    text: str

    @override
    def __str__(self) -> str:
        return f"{self.call}: {self.name} ({self.result}), {self.text}"


def all_errors() -> dict[str, type[MpsafeError]]:
    """Each concrete error class by its code."""
    found: dict[str, type[MpsafeError]] = {}
    todo: list[type[MpsafeError]] = [MpsafeError]
    while todo:
        cls = todo.pop()
        todo.extend(cls.__subclasses__())
        if "code" in vars(cls) and cls is not MpsafeError:
            found[cls.code] = cls
    return found
