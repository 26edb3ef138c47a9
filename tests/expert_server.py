# SPDX-License-Identifier: Apache-2.0
"""A process that serves a small model with its experts shared, and does what a test says, word by word.

    python expert_server.py TENANT SOCKET BANDWIDTH PERCENT

It has `served`, `answer(seed, tokens)` and `pss()`: each line of stdin is a JSON string that it evaluates; it answers
with "= " and the repr of what came of it, or "! " and the error.
"""

import hashlib
import json
import os
import select
import subprocess
import sys
import time
from ast import literal_eval
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from daemon_process import Mpsafed
from vault_process import OUTSIDE

__all__ = ["Server"]

PATH: Final = Path(__file__)
BANDWIDTH: Final = 2e9
PERCENT: Final = 50


class Server:
    """An `expert_server.py` on a software host, outside MPS."""

    def __init__(self, daemon: Mpsafed) -> None:
        self.process = subprocess.Popen(
            [sys.executable, PATH, "chat", daemon.socket, str(BANDWIDTH), str(PERCENT)],
            env={**daemon.host.environment, **OUTSIDE, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.nbytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()

    def up(self) -> None:
        """Waits until it serves."""
        self.nbytes = int(self.result())

    def begin(self, words: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()

    def result(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"it ended with {self.process.wait(60)}"
        answer = str(json.loads(line))
        assert answer.startswith("= "), answer
        return literal_eval(answer[2:])

    def has_answered(self) -> bool:
        assert self.process.stdout is not None
        return bool(select.select([self.process.stdout.fileno()], [], [], 0)[0])

    def do(self, words: str) -> Any:
        self.begin(words)
        return self.result()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(60)


def main() -> None:
    """What the process does."""
    import torch

    from moe_models import VOCABULARY, make
    from mpsafe import cuda
    from mpsafe.experts.links import EmulatedLink
    from mpsafe.experts.offload import attach
    from mpsafe.experts.sharing import Share, software_memory

    torch.set_num_threads(1)
    tenant, socket, bandwidth, percent = sys.argv[1:]
    driver = cuda.load()
    driver.init()
    device = driver.devices()[0]
    model = make("Olmoe", hidden_size=256, intermediate_size=256, num_experts=32)

    def answer(seed: int, tokens: int) -> tuple[str, float]:
        """A digest of what is generated, and the seconds that it took."""
        asked = torch.tensor(np.random.default_rng(seed).integers(VOCABULARY, size=(1, 8)))
        began = time.monotonic()
        with torch.no_grad():
            got: Any = model.generate(asked, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
        return hashlib.sha256(got.numpy().tobytes()).hexdigest(), time.monotonic() - began

    def pss() -> dict[str, int]:
        """Bytes of the shards' maps in this process: all, and its share of them (proc(5), smaps)."""
        found, inside = {"rss": 0, "pss": 0}, False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            if "-" in line.split()[0] and not line.split()[0].endswith(":"):
                inside = "memfd:mpsafe-experts" in line
            elif inside and line.split(":")[0].lower() in found:
                found[line.split(":")[0].lower()] += int(line.split()[1]) << 10
        return found

    with (
        cuda.Context(driver, device),
        Share(socket, tenant, device.uuid) as share,
        attach(
            model,
            cache_percent=float(percent),
            share=share,
            allocate=software_memory(driver, device),
            link=lambda: EmulatedLink(float(bandwidth), page=share.link),
        ) as served,
    ):
        names: dict[str, Any] = {"answer": answer, "pss": pss, "served": served}
        _say(f"= {served.host.nbytes}")
        for line in sys.stdin:
            try:
                _say(f"= {eval(json.loads(line), names)!r}")
            except Exception as error:
                _say(f"! {type(error).__name__}: {error}")


def _say(text: str) -> None:
    sys.stdout.write(json.dumps(text) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
