# SPDX-License-Identifier: Apache-2.0
"""What a probe has in hand: CUDA processes, the kernel log, a deadline, and the end of all of it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tools.qualify.finding import Json
from tools.qualify.kernel_log import KernelLog, XidLine

__all__ = ["Actor", "Broken", "NotRun", "Reply", "Stage", "Target"]

ROOT: Final = Path(__file__).parents[2]
ASK_S: Final = 30.0
_PACKET_MAX: Final = 65536
_END_S: Final = 3.0


class NotRun(Exception):
    """The probe cannot be run here; the text says why."""


class Broken(Exception):
    """The probe did not come to an answer; the text says where it stopped."""


@dataclass(frozen=True, slots=True)
class Target:
    """The machine under test: how to reach its driver, which device, where its kernel log is.

    After a fault the log is waited for: `first_xid_s` for the first line, `quiet_s` without another.
    """

    environment: Mapping[str, str]
    uuid: str
    kernel_log: Path
    software: bool
    first_xid_s: float
    quiet_s: float


@dataclass(frozen=True, slots=True)
class Reply:
    """What an actor answered: 0 or the CUresult of `call`, and a descriptor that is now ours."""

    result: int
    call: str
    data: Json
    fd: int = -1

    @property
    def correct(self) -> bool:
        """The call succeeded and the memory held what it should."""
        return self.result == 0 and bool(self.data.get("correct"))


class Actor:
    """One process of actor.py or nvml_watch.py, and the conversation with it."""

    def __init__(self, stage: "Stage", role: str, *, module: str, environment: Mapping[str, str]) -> None:
        self.role = role
        self._stage = stage
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._errors = stage.directory / f"{theirs.fileno()}.txt"
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, str(theirs.fileno()), stage.target.uuid],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        theirs.close()
        self.pid = self._process.pid

    def ask(self, do: str, *, limit_s: float = ASK_S, fd: int = -1, **arguments: object) -> Reply:
        """One request. TimeoutError: no answer in time. Broken: the process ended."""
        self.begin(do, fd=fd, **arguments)
        return self.receive(limit_s=limit_s)

    def begin(self, do: str, *, fd: int = -1, **arguments: object) -> None:
        """One request whose answer somebody will `receive`."""
        packet = json.dumps({"do": do} | arguments).encode()
        with contextlib.suppress(BrokenPipeError):
            socket.send_fds(self._socket, [packet], [fd] if fd >= 0 else [])

    def receive(self, *, limit_s: float = ASK_S) -> Reply:
        """The next packet that it sends."""
        self._socket.settimeout(self._stage.bounded_s(limit_s))
        try:
            packet, fds, _, _ = socket.recv_fds(self._socket, _PACKET_MAX, 1)
        except ConnectionResetError:
            packet, fds = b"", []
        except TimeoutError:
            raise TimeoutError(f"the {self.role} did not answer within {limit_s:g} s") from None
        if not packet:
            raise Broken(f"the {self.role} ended with status {self._wait(_END_S)}: {self._last_words()}")
        data: Json = json.loads(packet)
        return Reply(data.pop("result"), data.pop("call"), data, fds[0] if fds else -1)

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal; one that has ended is left alone."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and waits for its end. Broken: the kernel holds on to it."""
        self._process.kill()
        if self._wait(_END_S * 5) is None:
            raise Broken(f"the {self.role} was killed and does not end")

    def end(self) -> bool:
        """Lets it end by itself, with SIGKILL after three seconds; False: not even that ended it."""
        self._socket.close()
        if self._wait(_END_S) is None:
            self._process.kill()
        self._wait(_END_S)
        return self._process.returncode is not None

    def _wait(self, limit_s: float) -> int | None:
        try:
            return self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return None

    def _last_words(self) -> str:
        return (self._errors.read_text(errors="replace").splitlines() or ["it said nothing"])[-1]


class Stage:
    """One probe's surroundings. Everything started here is ended with it."""

    def __init__(self, target: Target, *, limit_s: float) -> None:
        self.target = target
        self._open = contextlib.ExitStack()
        self.directory = Path(self._open.enter_context(tempfile.TemporaryDirectory(prefix="qualify-")))
        nowhere = self.directory / "no-mps"
        nowhere.mkdir()
        paths = [os.fspath(ROOT / "daemon"), os.fspath(ROOT), target.environment.get("PYTHONPATH", "")]
        inherited = {name: value for name, value in target.environment.items() if not name.startswith("CUDA_")}
        self.environment: Mapping[str, str] = inherited | {
            "CUDA_MPS_PIPE_DIRECTORY": os.fspath(nowhere),
            "LC_ALL": "C",
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        }
        self._ends = time.monotonic() + limit_s
        self._limit_s = limit_s
        self._actors: list[Actor] = []
        self.log: KernelLog | None = None

    def __enter__(self) -> Self:
        with contextlib.suppress(OSError):
            self.log = self._open.enter_context(KernelLog(self.target.kernel_log))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stuck = [actor.role for actor in self._actors if not actor.end()]
        self._open.close()
        if stuck and error is None:
            raise Broken(f"killed and still there: {', '.join(stuck)}")

    def bounded_s(self, limit_s: float) -> float:
        """The shorter of the limit and what is left of the probe's own. Broken: nothing is left."""
        left_s = self._ends - time.monotonic()
        if left_s <= 0:
            raise Broken(f"the probe's {self._limit_s:g} s are over")
        return min(limit_s, left_s)

    def keep(self, resource: contextlib.AbstractContextManager[object]) -> None:
        """Enters it now, leaves it when the stage ends, after the actors."""
        self._open.enter_context(resource)

    def start(self, role: str, *, module: str = "actor", environment: Mapping[str, str] | None = None) -> Actor:
        """A process that waits for requests; outside MPS unless its environment says otherwise."""
        environment = self.environment if environment is None else environment
        actor = Actor(self, role, module=f"tools.qualify.{module}", environment=environment)
        self._actors.append(actor)
        return actor

    def open(self, role: str, *, environment: Mapping[str, str] | None = None) -> Actor:
        """The same with a context on the device. Broken if it gets none."""
        actor = self.start(role, environment=environment)
        reply = actor.ask("open", uuid=self.target.uuid)
        if reply.result:
            raise Broken(f"the {role} got no context: {reply.call} returned {reply.result}")
        return actor

    def provoke(self, actor: Actor, kind: str) -> Reply:
        """Lets the actor fault (actor.FAULTS). Broken if it did not even get to the launch."""
        reply = actor.ask("fault", kind=kind)
        if "launched_ns" not in reply.data:
            raise Broken(f"{kind} could not be prepared: {reply.call} returned {reply.result}")
        return reply

    def _settled_xids(self, log: KernelLog) -> list[XidLine]:
        first_s, quiet_s = self.bounded_s(self.target.first_xid_s), self.bounded_s(self.target.quiet_s)
        log.settle(first_s=first_s, quiet_s=quiet_s)
        return log.xids()

    def xid_facts(self, launched_ns: int, actors: Iterable[Actor], *, server: int = 0) -> tuple[Json, Json, Json]:
        """What the log told: for `outcome` (numbers, who is named), `measured` (delays), `raw` (lines).

        `server`: the pid of the MPS server, which it may name too.
        """
        if self.log is None:
            return {"xids": None, "xid_names": None}, {}, {}
        xids = self._settled_xids(self.log)
        roles = {actor.pid: actor.role for actor in actors} | {server: "server"}
        named = {roles.get(xid.pid, "somebody else") if xid.pid is not None else "nobody" for xid in xids}
        outcome: Json = {"xids": sorted({xid.xid for xid in xids}), "xid_names": sorted(named)}
        delays = [{"xid": xid.xid, "after_launch_ms": round((xid.seen_ns - launched_ns) / 1e6, 3)} for xid in xids]
        return outcome, {"xids": delays}, {"kernel_log": self.log.driver_lines()}
