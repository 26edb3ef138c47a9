# SPDX-License-Identifier: Apache-2.0
"""The serving example restarted without a vault: weights from this process's memory, every token computed again."""

import json
import sys
from pathlib import Path

from mpsafe import cuda
from mpsafe.client import Client
from mpsafe.demo.decoder import Decoder, Shape
from mpsafe.demo.serving import SLOTS, Service
from mpsafe.vault import KvCache, Vault

__all__ = ["main"]

SHAPE = Shape(**json.loads(sys.argv[5]))
# In memory before the clock starts, as a server keeps a copy of its weights.
WEIGHTS = bytearray(SHAPE.weight_bytes)


_at = 0
for _part in SHAPE.weights():
    WEIGHTS[_at : _at + len(_part)] = _part
    _at += len(_part)


def main() -> None:
    """Serves."""
    _, tenant, daemon, path, _ = sys.argv[1:]
    driver = cuda.load()
    driver.init()
    with cuda.Context(driver, driver.devices()[0]) as context, Client(daemon) as client:
        weights = cuda.Buffer(context, SHAPE.weight_bytes)
        weights.write(WEIGHTS)
        cache = KvCache.scratch(Vault(client, context, tenant), slots=SLOTS, slot_bytes=SHAPE.slot_bytes)
        service = Service(Decoder(context, SHAPE, weights), cache, Path(path), publish=False)
        service.listen()
        while True:
            service.turn(wait_s=60.0)
