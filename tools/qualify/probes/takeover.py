# SPDX-License-Identifier: Apache-2.0
"""The vault and a takeover with the whole of mpsafe: daemon, decoder and standby, on the device under test."""

import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Generator
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tools.qualify.mps import PrivateMps
from tools.qualify.probe import Answer, Probe
from tools.qualify.stage import Broken, NotRun, Stage

__all__ = ["TAKEOVER"]

NEEDS: Final = ("asyncvarlink", "msgspec", "psutil")
TENANT: Final = "chat"
PROMPTS: Final = {"one": b"the quick brown", "two": b"fox"}
TOKENS: Final = 60
PATIENCE_S: Final = 30.0


class _Host:
    """The stage, as the demo wants a host: MPS of our own, which the stage ends."""

    def __init__(self, stage: Stage) -> None:
        missing = [name for name in NEEDS if find_spec(name) is None]
        if missing:
            raise NotRun(f"no {', '.join(missing)} in this Python: mpsafed cannot run")
        mps = PrivateMps(stage)
        self.environment = mps.environment
        self.control_program = Path(mps.program)
        self.pipe_directory = Path(mps.environment["CUDA_MPS_PIPE_DIRECTORY"])
        self.log_directory = Path(mps.environment["CUDA_MPS_LOG_DIRECTORY"])
        self.kernel_log = stage.target.kernel_log
        there = not stage.target.software and Path("/dev/mpsafe").exists()
        self.driver_table: tuple[str, Path] = ("uvm" if there else "none", Path("/dev/mpsafe"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The stage does it."""

    def start_mps(self) -> int:
        """It runs already."""
        return os.getpid()


def sm_fault(stage: Stage, answer: Answer) -> None:
    """A neighbour traps while a decoder answers: a restart, and a warm standby outside MPS."""
    host = _Host(stage)
    from mpsafe.demo.takeover import HOWS, How, Loss, lose

    losses: dict[How, Loss] = {}
    for how in HOWS:
        directory = stage.directory / how
        directory.mkdir()
        losses[how] = lose(host, how, directory)
    ways: tuple[How, ...] = ("restart", "standby")
    for how in ways:
        answer.outcome[f"{how}_same_output"] = losses[how].said == losses["nothing"].said
        answer.measured[f"{how}_silence_ms"] = round(losses[how].silence_ms, 3)
        answer.expect(answer.outcome[f"{how}_same_output"], f"{how}: all that is said is what an undisturbed run says")
    event = losses["standby"].event
    takeover = event.takeovers[0] if event is not None else None
    answer.outcome["taken_over"] = takeover is not None and bool(takeover.serving_ns)
    if event is not None and takeover is not None:
        for name in ("signal_ns", "decided_ns", "promoted_ns", "received_ns", "serving_ns", "proven_ns", "granted_ns"):
            reached = int(getattr(takeover, name))
            answer.measured[name.replace("_ns", "_ms")] = (reached - event.time_ns) / 1e6 if reached else None
    answer.expect(answer.outcome["taken_over"], "a standby outside MPS serves after the server was lost")


def outlives_daemon(stage: Stage, answer: Answer) -> None:
    """The decoder and mpsafed both end; another mpsafed hands out the same memory, and the cache in it is whole."""
    host = _Host(stage)
    from mpsafe.client import Client
    from mpsafe.demo.asker import Asked, ask
    from mpsafe.demo.scenario import daemon

    path = stage.directory / "decoder.sock"
    whole = {name: Asked(prompt, TOKENS) for name, prompt in PROMPTS.items()}
    again = {name: Asked(prompt, TOKENS) for name, prompt in PROMPTS.items()}
    with daemon(host, stage.directory, []) as socket, _serving(stage, host, "primary", socket, path):
        ask(path, whole, patience_s=stage.bounded_s(PATIENCE_S))
        with Client(socket) as client:
            before = {(one.id, one.nbytes) for one in client.vault().regions}
    with daemon(host, stage.directory, []) as socket, Client(socket) as client:
        answer.outcome["regions_are_there"] = bool(before) and before <= {
            (one.id, one.nbytes) for one in client.vault().regions
        }
        try:
            with _serving(stage, host, "restarted", socket, path):
                ask(path, again, patience_s=stage.bounded_s(PATIENCE_S))
        finally:
            client.drain()
    answer.outcome["cache_is_whole"] = [one.said for one in whole.values()] == [one.said for one in again.values()]
    answer.expect(answer.outcome["regions_are_there"], "what the vault holds outlives its creator and the daemon")
    answer.expect(answer.outcome["cache_is_whole"], "what was published is there byte for byte")


def throughput(stage: Stage, answer: Answer) -> None:
    """What a commit for each step costs a decoder."""
    host = _Host(stage)
    from mpsafe.client import Client
    from mpsafe.demo.scenario import daemon

    with daemon(host, stage.directory, []) as socket, Client(socket) as client:
        try:
            done = subprocess.run(
                [sys.executable, "-m", "tools.bench.throughput", TENANT, socket],
                env=dict(host.environment),
                capture_output=True,
                text=True,
                timeout=stage.bounded_s(60),
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Broken(f"the decoder did not end within {error.timeout:g} s") from error
        finally:
            client.drain()
    if done.returncode:
        raise Broken(f"the decoder ended with {done.returncode}: {(done.stderr.splitlines() or [''])[-1]}")
    found: dict[str, float] = json.loads(done.stdout)
    answer.measured |= {
        "published_tokens_per_s": round(found["published"], 1),
        "unpublished_tokens_per_s": round(found["unpublished"], 1),
        "create_ms": round(found["create_ms"], 1),
        "commit_us": round(found["commit_us"], 1),
    }


@contextlib.contextmanager
def _serving(stage: Stage, host: _Host, role: str, socket: str, path: Path) -> Generator[None]:
    """One of the processes of the serving example, ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mpsafe.demo.serving", role, TENANT, socket, os.fspath(path)],
        env=dict(host.environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], stage.bounded_s(PATIENCE_S))
        if not ready or not process.stdout.readline():
            raise Broken(f"the {role} of the decoder does not serve: status {process.poll()}")
        yield
    finally:
        process.kill()
        process.communicate()


TAKEOVER: Final = (
    Probe(
        "vault_outlives_daemon",
        "Is the vault's memory whole when its creator and the daemon have ended?",
        outlives_daemon,
        reproduced=("regions_are_there", "cache_is_whole"),
    ),
    Probe("vault_throughput", "What does the vault cost a decoder that nothing happens to?", throughput),
    Probe(
        "takeover_sm_fault",
        "How long is a decoder silent after an SM fault under MPS, restarted and with a standby?",
        sm_fault,
        reproduced=("restart_same_output", "standby_same_output", "taken_over"),
    ),
)
