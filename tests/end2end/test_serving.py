# SPDX-License-Identifier: Apache-2.0
"""This test will answer requests with a decoder, lose it in the middle, and compare all that was said."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from contract.mps_rig import eventually
from daemon_process import Mpsafed
from mpsafe.demo.asker import Asked, ask
from requires import requires
from tenant_process import Tenant

pytestmark = requires("soft")

PROMPTS = {"one": b"the quick brown", "two": b"fox", "three": b"jumps over"}
TOKENS = 100

Serve = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def serve(mpsafed: Mpsafed) -> Iterator[Serve]:
    """Starts the primary or the standby of the tenant chat, and waits until it is ready."""
    with ExitStack() as stack:

        def started(role: str) -> subprocess.Popen[str]:
            outside = {"CUDA_MPS_PIPE_DIRECTORY": "/nonexistent"} if role == "standby" else {}
            process = subprocess.Popen(
                [sys.executable, "-m", "mpsafe.demo.serving", role, "chat", mpsafed.socket, path(mpsafed)],
                env={**mpsafed.host.environment, **outside},
                stdout=subprocess.PIPE,
                text=True,
            )
            assert process.stdout is not None
            stack.callback(process.stdout.close)
            stack.callback(process.wait)
            stack.callback(process.kill)
            assert process.stdout.readline().strip() in ("serving", "warm")
            return process

        yield started


def path(mpsafed: Mpsafed) -> Path:
    return mpsafed.host.directory / "chat.sock"


def published(mpsafed: Mpsafed) -> int:
    """The epoch of the newest cache."""
    return [region.epoch for region in mpsafed.client.vault().regions if region.name == "kv"][-1]


def asked() -> dict[str, Asked]:
    return {name: Asked(prompt, TOKENS) for name, prompt in PROMPTS.items()}


def undisturbed(mpsafed: Mpsafed, serve: Serve) -> dict[str, bytes]:
    process = serve("primary")
    requests = asked()
    assert len(ask(path(mpsafed), requests, patience_s=60)) == 1
    process.kill()
    process.wait()
    return {name: bytes(one.said) for name, one in requests.items()}


@pytest.mark.parametrize("fault", ["trap", "kill", "freeze"])
def test_what_was_asked_is_answered_as_if_nothing_had_happened(mpsafed: Mpsafed, serve: Serve, fault: str) -> None:
    expected = undisturbed(mpsafed, serve)
    assert len({*expected.values()}) == 3
    with Tenant(mpsafed.host, "batch", mpsafed.socket) as neighbour:
        primary = serve("primary")
        standby = serve("standby")
        requests = asked()

        def lose() -> None:
            if sum(len(one.said) for one in requests.values()) == 20:
                if fault == "trap":
                    neighbour.say("trap")
                elif fault == "kill":
                    primary.kill()
                else:
                    mpsafed.client.promote("chat")

        assert len(ask(path(mpsafed), requests, patience_s=60, each=lose)) >= 2
    assert {name: bytes(one.said) for name, one in requests.items()} == expected
    assert standby.poll() is None
    event = mpsafed.until(lambda event: event.phase == "closed" and bool(event.takeovers))
    (takeover,) = event.takeovers
    assert takeover.standby is not None
    assert takeover.standby.pid == standby.pid
    assert takeover.serving_ns
    eventually(lambda: published(mpsafed) == takeover.epoch, "what is said from now on is published")
    assert os.path.exists(path(mpsafed))
