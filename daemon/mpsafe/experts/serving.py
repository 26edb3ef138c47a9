# SPDX-License-Identifier: Apache-2.0
"""`mpsafe experts serve`: a model from a directory, offloaded, behind a socket."""

import os
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import uvicorn

from mpsafe.errors import BadRequest
from mpsafe.experts.offload import attach
from mpsafe.experts.recording import load
from mpsafe.experts.serve import application
from mpsafe.experts.sharing import Share

__all__ = ["Sharing", "serve"]


@dataclass(frozen=True, slots=True)
class Sharing:
    """With whom: mpsafed's socket, the tenant that this process is of, and the device by UUID."""

    socket: str
    tenant: str
    device: str


def serve(
    model: Path, listen: str, *, cache_percent: float, policy: str, prefetch: int, device: str, sharing: Sharing | None
) -> None:
    """Until it is ended. BadRequest for an address that others could reach; BadModel, NotMixture, NoRoom."""
    where = _address(listen)
    loaded, tokenizer = load(model)
    with ExitStack() as stack:
        share = None
        if sharing is not None:
            share = stack.enter_context(Share(sharing.socket, sharing.tenant, sharing.device))
        offloaded = stack.enter_context(
            attach(loaded, cache_percent=cache_percent, policy=policy, prefetch=prefetch, device=device, share=share)
        )
        offloaded.fill()
        config = uvicorn.Config(application(offloaded, tokenizer, name=model.name), log_level="warning", **where)
        uvicorn.Server(config).run()


def _address(listen: str) -> dict[str, Any]:
    """unix:PATH, or ADDRESS:PORT of this machine alone."""
    if listen.startswith("unix:"):
        path = Path(listen.removeprefix("unix:"))
        if not path.parent.is_dir():
            raise BadRequest("listen", "a path in a directory that is there", listen)
        return {"uds": os.fspath(path)}
    host, _, port = listen.rpartition(":")
    try:
        if ip_address(host.strip("[]")).is_loopback and 0 < int(port) < 1 << 16:
            return {"host": host.strip("[]"), "port": int(port)}
    except ValueError:
        pass
    raise BadRequest("listen", "unix:PATH, or a loopback address like 127.0.0.1:8000", listen)
