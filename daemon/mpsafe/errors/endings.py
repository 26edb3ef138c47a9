# SPDX-License-Identifier: Apache-2.0
"""Errors that end a connection or the program, and those of CUDA."""

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from mpsafe.errors.base import CannotRun, ConnectionEnded, MpsafeError

__all__ = [
    "BadConfig",
    "BadCudaCall",
    "DaemonUnreachable",
    "DemoCannotRun",
    "ExtraMissing",
    "NoCudaDriver",
    "PeerMisbehaved",
    "SocketTaken",
    "SoftwareGpuFailed",
]


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
class ExtraMissing(CannotRun):
    """What is asked for needs packages that are not installed."""

    code: ClassVar[str] = "extra-missing"
    hint: ClassVar[str] = "install them with: pip install 'mpsafe[experts,arena]'"
    extra: str
    module: str

    @override
    def __str__(self) -> str:
        return f"the module {self.module} is missing, which the extra {self.extra} brings"


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
