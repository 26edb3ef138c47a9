# SPDX-License-Identifier: Apache-2.0
"""What a router may know of the host: mpsafed's status page, read without a call, and what it has asked itself."""

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Final, Self

from mpsafe.arena.routers.aware import ModelState, Seen
from mpsafe.client import Client
from mpsafe.client.attachment import Attachment
from mpsafe.errors import MpsafeError

__all__ = ["HostState", "Outstanding"]

# mpsafed writes its page once a second at least; twice as old, it is looked for anew.
ATTACH_AGAIN_S: Final = 1.5
LOOK_S: Final = 0.1


class Outstanding:
    """Requests of this router that are not answered yet. Used by several threads. `now`: a clock, in seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._since: dict[str, dict[int, float]] = {}
        self._answered: dict[str, float] = {}
        self._failed: dict[str, float] = {}
        self._lock = threading.Lock()

    def began(self, model: str, query: int) -> None:
        """A request was sent."""
        with self._lock:
            self._since.setdefault(model, {})[query] = self._now()

    def ended(self, model: str, query: int, *, answered: bool) -> None:
        """It was answered, or given up."""
        with self._lock:
            self._since[model].pop(query, None)
            if answered:
                self._answered[model] = self._now()
                self._failed.pop(model, None)
            else:
                self._failed[model] = self._now()

    def failed(self, model: str) -> float | None:
        """When the last request failed, CLOCK_MONOTONIC in seconds, if none was answered since."""
        with self._lock:
            return self._failed.get(model)

    def of(self, model: str) -> tuple[int, float]:
        """How many, and for how many seconds an answer has been owed while none came."""
        with self._lock:
            found = self._since.get(model, {})
            if not found:
                return 0, 0.0
            return len(found), self._now() - max(min(found.values()), self._answered.get(model, 0.0))


class HostState:
    """Runs with its `with`. A page that is not written any more is attached anew when the daemon is back."""

    def __init__(self, socket: str, outstanding: Outstanding) -> None:
        self._client = Client(socket, timeout_s=2.0)
        self._outstanding = outstanding
        self._attached = self._client.attach()
        self._old: list[Attachment] = []
        self._blamed: dict[str, tuple[float, int]] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        for one in (*self._old, self._attached):
            one.close()
        self._client.close()

    def look(self) -> Seen:
        """The page as it is now, with what this router itself waits for."""
        page = self._attached.page
        header = page.header()
        models: dict[str, ModelState] = {}
        for tenant in page.tenants():
            count, silent_s = self._outstanding.of(tenant.name)
            models[tenant.name] = ModelState(
                healthy=tenant.health == "healthy",
                resident=tenant.resident_bytes > 0,
                generation=tenant.generation,
                queue=tenant.queue + tenant.in_flight,
                outstanding=count,
                silent_s=silent_s,
                failed_s=self._failed_s(tenant.name, tenant.generation),
            )
        age_s = (time.monotonic_ns() - header.heartbeat_ns) / 1e9
        return Seen(models, epoch=header.epoch, sequence=header.last_event, age_s=age_s)

    def _failed_s(self, model: str, generation: int) -> float | None:
        """How long ago the last request failed; one of an earlier generation says nothing of this one."""
        failed = self._outstanding.failed(model)
        if failed is None:
            return None
        if self._blamed.get(model, (0.0, 0))[0] != failed:
            self._blamed[model] = (failed, generation)
        return time.monotonic() - failed if self._blamed[model][1] == generation else None

    def _keep(self) -> None:
        while not self._stopping.wait(LOOK_S):
            if self.look().age_s > ATTACH_AGAIN_S:
                with contextlib.suppress(MpsafeError):
                    attached = self._client.attach()
                    self._old.append(self._attached)
                    self._attached = attached
