# SPDX-License-Identifier: Apache-2.0
"""Decodes with a commit for each step and without one, in turns, in one process: tokens a second of both, as JSON.
Beside them what making a region took, and what a commit costs by the difference.

python -m tools.bench.throughput TENANT SOCKET
"""

import json
import statistics
import sys
import time

from mpsafe import cuda
from mpsafe.client import Client
from mpsafe.demo.decoder import Decoder, Shape
from mpsafe.demo.serving import prepare_weights
from mpsafe.vault import KvCache, Vault

TURNS = 12
REQUESTS = 3


def decode(decoder: Decoder, cache: KvCache, *, publish: bool) -> float:
    """Tokens a second of some requests, side by side."""
    slots = [cache.begin(str(number)) for number in range(REQUESTS)]
    began = time.perf_counter()
    places = decoder.shape.tokens // 2
    for place in range(places):
        for slot in slots:
            decoder.step(65 + slot, place, cache.span(slot))
            cache.wrote(slot, decoder.shape.token_bytes)
        if publish:
            cache.commit()
    took = time.perf_counter() - began
    for slot in slots:
        cache.finish(slot)
    cache.commit()
    return REQUESTS * places / took


def main() -> None:
    """Prints the medians, and what they tell of one commit."""
    tenant, daemon = sys.argv[1:]
    driver = cuda.load()
    driver.init()
    with cuda.Context(driver, driver.devices()[0]) as context, Client(daemon) as client, client.attach(tenant):
        vault = Vault(client, context, tenant)
        vault.claim()
        shape = Shape()
        decoder = Decoder(context, shape, prepare_weights(vault, shape))
        began = time.perf_counter()
        cache = KvCache.create(vault, "kv", slots=REQUESTS, slot_bytes=shape.slot_bytes)
        create_ms = (time.perf_counter() - began) * 1e3
        found: dict[bool, list[float]] = {True: [], False: []}
        for turn in range(TURNS):
            publish = turn % 2 == 0
            found[publish].append(decode(decoder, cache, publish=publish))
    medians = {"published": statistics.median(found[True]), "unpublished": statistics.median(found[False])}
    commit_us = REQUESTS * (1 / medians["published"] - 1 / medians["unpublished"]) * 1e6
    print(json.dumps({**medians, "create_ms": create_ms, "commit_us": commit_us}), flush=True)


if __name__ == "__main__":
    main()
