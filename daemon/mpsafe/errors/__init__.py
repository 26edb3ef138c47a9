# SPDX-License-Identifier: Apache-2.0
"""What can go wrong: each error is data, a sentence and a way out.

The daemon sends an error's code and fields, the client library raises the same class, the command
prints the sentence and the hint. The base class says what an error ends.
"""

from mpsafe.errors.arena import BadArenaFile, NoSandbox, NotComparable
from mpsafe.errors.base import CannotRun, ConnectionEnded, MpsafeError, Refused, SourceLost
from mpsafe.errors.endings import (
    BadConfig,
    BadCudaCall,
    DaemonUnreachable,
    DemoCannotRun,
    ExtraMissing,
    NoCudaDriver,
    PeerMisbehaved,
    SocketTaken,
    SoftwareGpuFailed,
)
from mpsafe.errors.experts import BadModel, BadTrace, LeaseTooSmall, NotMixture, ShardDamaged
from mpsafe.errors.loads import BadRequestTrace
from mpsafe.errors.profiles import BadDemand, BadProfile, BadSpec, NotMeasured
from mpsafe.errors.refusals import (
    BadHandle,
    BadRequest,
    BadTensorFile,
    ContentsChanged,
    ControlFailed,
    DrillRefused,
    EpochHeld,
    InternalError,
    ModelDiffers,
    NoInjection,
    NoStandby,
    NotGranted,
    NotOurs,
    NotPermitted,
    NotSupported,
    QuotaExceeded,
    RegionLost,
    TooManyReports,
    UnknownClient,
    UnknownControl,
    UnknownRegion,
    UnknownTenant,
    UnknownXid,
    VaultClosed,
)
from mpsafe.errors.sharing import (
    BadContent,
    LeasePressed,
    NoRoom,
    StoreFull,
    UnknownContent,
    UnknownDevice,
    UnknownLease,
)

__all__ = [
    "BadArenaFile",
    "BadConfig",
    "BadContent",
    "BadCudaCall",
    "BadDemand",
    "BadHandle",
    "BadModel",
    "BadProfile",
    "BadRequest",
    "BadRequestTrace",
    "BadSpec",
    "BadTensorFile",
    "BadTrace",
    "CannotRun",
    "ConnectionEnded",
    "ContentsChanged",
    "ControlFailed",
    "DaemonUnreachable",
    "DemoCannotRun",
    "DrillRefused",
    "EpochHeld",
    "ExtraMissing",
    "InternalError",
    "LeasePressed",
    "LeaseTooSmall",
    "ModelDiffers",
    "MpsafeError",
    "NoCudaDriver",
    "NoInjection",
    "NoRoom",
    "NoSandbox",
    "NoStandby",
    "NotComparable",
    "NotGranted",
    "NotMeasured",
    "NotMixture",
    "NotOurs",
    "NotPermitted",
    "NotSupported",
    "PeerMisbehaved",
    "QuotaExceeded",
    "Refused",
    "RegionLost",
    "ShardDamaged",
    "SocketTaken",
    "SoftwareGpuFailed",
    "SourceLost",
    "StoreFull",
    "TooManyReports",
    "UnknownClient",
    "UnknownContent",
    "UnknownControl",
    "UnknownDevice",
    "UnknownLease",
    "UnknownRegion",
    "UnknownTenant",
    "UnknownXid",
    "VaultClosed",
    "all_errors",
]


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
