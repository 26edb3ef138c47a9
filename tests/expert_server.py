# SPDX-License-Identifier: Apache-2.0
"""A process that serves a small model with its experts shared, and does what a test says, word by word.

    python expert_server.py TENANT SOCKET BANDWIDTH PERCENT

It has `served`, `answer(seed, tokens)` and `pss()`; see `word_process.py`.
"""

import hashlib
import sys
import time
from ast import literal_eval
from pathlib import Path
from typing import Any, Final

import numpy as np

from daemon_process import Mpsafed
from vault_process import OUTSIDE
from word_process import WordProcess, obey

__all__ = ["Server"]

PATH: Final = Path(__file__)
BANDWIDTH: Final = 2e9
PERCENT: Final = 50


class Server(WordProcess):
    """An `expert_server.py` on a software host, outside MPS. `nbytes`: of all experts, once it serves."""

    def __init__(self, daemon: Mpsafed) -> None:
        environment = {**daemon.host.environment, **OUTSIDE, "OMP_NUM_THREADS": "1"}
        arguments = ("chat", daemon.socket, str(BANDWIDTH), str(PERCENT))
        super().__init__(PATH, *arguments, environment=environment)
        self.nbytes = 0

    def up(self) -> None:
        """Waits until it serves."""
        self.nbytes = int(self.result())

    def value(self) -> Any:
        """What came of what was begun."""
        return literal_eval(self.result())

    def ask(self, words: str) -> Any:
        """The value of an expression."""
        return literal_eval(self.do(words))


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
        obey({"answer": answer, "pss": pss, "served": served}, first=served.host.nbytes)


if __name__ == "__main__":
    main()
