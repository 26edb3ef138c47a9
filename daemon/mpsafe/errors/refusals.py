# SPDX-License-Identifier: Apache-2.0
"""Errors that end one request."""

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from mpsafe.errors.base import Refused

__all__ = [
    "BadHandle",
    "BadRequest",
    "BadTensorFile",
    "ContentsChanged",
    "ControlFailed",
    "DrillRefused",
    "EpochHeld",
    "InternalError",
    "ModelDiffers",
    "NoInjection",
    "NoStandby",
    "NotGranted",
    "NotOurs",
    "NotPermitted",
    "NotSupported",
    "QuotaExceeded",
    "RegionLost",
    "TooManyReports",
    "UnknownClient",
    "UnknownControl",
    "UnknownRegion",
    "UnknownTenant",
    "UnknownXid",
    "VaultClosed",
]


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
    hint: ClassVar[str] = "see what is expected with: varlinkctl introspect, or the command with --help"
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
class UnknownRegion(Refused):
    """The vault has no such region, or none that this peer may see."""

    code: ClassVar[str] = "unknown-region"
    hint: ClassVar[str] = "see which there are with: mpsafe vault ls"
    region: str

    @override
    def __str__(self) -> str:
        return f"the vault has no region {self.region}"


@dataclass(eq=False)
class QuotaExceeded(Refused):
    """A tenant's regions would be more than the configuration grants it. `what`: bytes or handles."""

    code: ClassVar[str] = "quota-exceeded"
    hint: ClassVar[str] = "release regions, or raise vault_bytes or vault_handles of the tenant in mpsafe.toml"
    tenant: str
    what: str
    limit: int
    wanted: int

    @override
    def __str__(self) -> str:
        return f"tenant {self.tenant} may hold {self.limit} {self.what} in the vault, and would hold {self.wanted}"


@dataclass(eq=False)
class BadHandle(Refused):
    """A file descriptor is not the device memory that it is said to be."""

    code: ClassVar[str] = "bad-handle"
    hint: ClassVar[str] = "pass what cuMemExportToShareableHandle gave, and the size that cuMemCreate was asked for"
    index: int
    expected: str
    got: str

    @override
    def __str__(self) -> str:
        return f"handle {self.index}: expected {self.expected}, got {self.got}"


@dataclass(eq=False)
class ContentsChanged(Refused):
    """A region's bytes are not those that were committed."""

    code: ClassVar[str] = "contents-changed"
    hint: ClassVar[str] = "release the region and make it again; mpsafe events tells of faults that may have done it"
    region: int
    expected: str
    got: str

    @override
    def __str__(self) -> str:
        return f"region {self.region}: expected {self.expected}, got {self.got}"


@dataclass(eq=False)
class RegionLost(Refused):
    """The device was reset or the driver unloaded, and the region's memory with it."""

    code: ClassVar[str] = "region-lost"
    hint: ClassVar[str] = "make it anew; mpsafe vault gc lets go of what is lost"
    region: int
    name: str
    problem: str

    @override
    def __str__(self) -> str:
        return f"region {self.region}, {self.name}, is lost: {self.problem}"


@dataclass(eq=False)
class ModelDiffers(Refused):
    """A module is not of the class, or of the size, that a region's tensors were made of."""

    code: ClassVar[str] = "model-differs"
    hint: ClassVar[str] = "attach a model of the same configuration, or release the region and make it anew"
    region: str
    tensor: str
    expected: str
    got: str

    @override
    def __str__(self) -> str:
        return f"region {self.region}, tensor {self.tensor}: the model has {self.expected}, the region {self.got}"


@dataclass(eq=False)
class BadTensorFile(Refused):
    """A file of tensors that cannot be read, or not together with the others."""

    code: ClassVar[str] = "bad-tensor-file"
    hint: ClassVar[str] = "name the safetensors files of one model, each once"
    file: str
    problem: str

    @override
    def __str__(self) -> str:
        return f"{self.file}: {self.problem}"


@dataclass(eq=False)
class DrillRefused(Refused):
    """A drill would cost somebody what it is not meant to, or has nothing to do."""

    code: ClassVar[str] = "drill-refused"
    hint: ClassVar[str] = "start the standbys that are missing: mpsafe standby ls; --force goes on without them"
    problem: str

    @override
    def __str__(self) -> str:
        return self.problem


@dataclass(eq=False)
class EpochHeld(Refused):
    """Another process holds the tenant's epoch: it alone may create and write durable regions."""

    code: ClassVar[str] = "epoch-held"
    hint: ClassVar[str] = "register as a standby, or end the process that holds it"
    tenant: str
    epoch: int
    pid: int

    @override
    def __str__(self) -> str:
        return f"process {self.pid} holds epoch {self.epoch} of tenant {self.tenant}"


@dataclass(eq=False)
class NotGranted(Refused):
    """A durable region's last writer is not proven stopped: it may be read and checked, not written."""

    code: ClassVar[str] = "not-granted"
    hint: ClassVar[str] = "copy what is committed in it into a region of your own epoch, or wait for the proof"
    region: int
    reason: str

    @override
    def __str__(self) -> str:
        return f"region {self.region} is not to be written: {self.reason}"


@dataclass(eq=False)
class NoStandby(Refused):
    """Nobody waits to take over for this tenant."""

    code: ClassVar[str] = "no-standby"
    hint: ClassVar[str] = "start one: systemctl start mpsafe-standby@TENANT, or see mpsafe standby ls"
    tenant: str

    @override
    def __str__(self) -> str:
        return f"tenant {self.tenant} has no standby that is warm"


@dataclass(eq=False)
class VaultClosed(Refused):
    """The vault takes nothing in: it is being drained, or what holds it refuses."""

    code: ClassVar[str] = "vault-closed"
    hint: ClassVar[str] = "see why with: mpsafe vault ls; after a drain restart mpsafed.service"
    reason: str

    @override
    def __str__(self) -> str:
        return f"the vault takes nothing in: {self.reason}"


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
class NoInjection(Refused):
    """A fault was to be injected, and the driver does not let anybody."""

    code: ClassVar[str] = "no-injection"
    hint: ClassVar[str] = "on a machine that is for tests, load nvidia-uvm with mpsafe_inject=1"
    problem: str

    @override
    def __str__(self) -> str:
        return f"no fault can be injected: {self.problem}"


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
class ControlFailed(Refused):
    """`nvidia-cuda-mps-control` did not do what it was asked, or did not answer in time."""

    code: ClassVar[str] = "control-failed"
    hint: ClassVar[str] = "read control.log in the MPS log directory"
    command: str
    problem: str

    @override
    def __str__(self) -> str:
        return f"nvidia-cuda-mps-control, {self.command!r}: {self.problem}"
