# SPDX-License-Identifier: Apache-2.0
"""The counters, and the gauges that are made from the last overview when somebody asks."""

import time
from collections import Counter as Tally
from collections.abc import Iterator
from typing import Final, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric, StateSetMetricFamily
from prometheus_client.registry import Collector
from typing_extensions import override

from mpsafe import catalogue
from mpsafe.model import Action, Event, ServerState, SourceState, TenantHealth
from mpsafed.metrics import Metrics, Overview
from mpsafed.metrics.server import MetricsServer

__all__ = ["Counted"]

# Seconds. The daemon's own targets are 1 ms at the median and 5 ms at the 99th percentile.
_DECISION_BUCKETS: Final = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5)


class Counted(Metrics):
    """Counts from the start of the daemon on, and serves."""

    def __init__(self, listen: str) -> None:
        registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"mpsafe_{name}", text, labels, registry=registry)

        self._signals = counter("signals", "Signals by source.", "source")
        self._lost = counter("signals_lost", "Signals known to be lost.")
        self._events = counter("events", "Events; class is that of a fault, else none.", "kind", "class")
        self._xids = counter("xids", "Xids in events, by device UUID and code.", "device", "xid")
        self._fences = counter("fences", "Fences that ended.", "outcome")
        self._proofs = counter("fence_proofs", "Whether a client's work was proven stopped.", "proof")
        self._restarts = counter("server_restarts", "Restarts of MPS servers that ended.", "outcome")
        self._blames = counter("blames", "Faults that were closed, by whether somebody is blamed.", "blame")
        self._decisions = Histogram(
            "mpsafe_decision_seconds",
            "From the time of the first signal to the decision.",
            buckets=_DECISION_BUCKETS,
            registry=registry,
        )
        for outcomes, labels in (
            (self._fences, ("killed", "failed")),
            (self._proofs, ("proven", "assumed")),
            (self._restarts, ("done", "failed")),
            (self._blames, ("known", "unknown")),
        ):
            for label in labels:
                outcomes.labels(label)
        self._gauges = _Gauges()
        registry.register(self._gauges)
        self._known = catalogue.load()
        self._server = MetricsServer(listen, registry)

    @override
    def signal(self, source: str) -> None:
        self._signals.labels(source).inc()

    @override
    def lost(self, count: int) -> None:
        self._lost.inc(count)

    @override
    def entry(self, event: Event, before: Event | None = None) -> None:
        if before is None:
            self._events.labels(event.kind, event.fault.fault_class if event.fault else "none").inc()
        if (xid := _xid(event)) is not None and (before is None or _xid(before) != xid):
            self._xids.labels(event.device or "unknown", str(xid) if xid in self._known else "other").inc()
        if event.actions and not (before and before.actions):
            self._decisions.observe(max(0, event.entered_ns - event.time_ns) / 1e9)
        known = before.actions if before is not None else []
        for action in event.actions:
            if action not in known:
                self._action(action)
        if event.kind == "fault" and event.phase == "closed" and (before is None or before.phase == "open"):
            self._blames.labels("known" if event.blame.client else "unknown").inc()

    @override
    def source(self, state: SourceState) -> None:
        self._gauges.sources[state.name] = state.alive

    @override
    def overview(self, overview: Overview) -> None:
        self._gauges.overview = overview

    @override
    def close(self) -> None:
        self._server.close()

    def _action(self, action: Action) -> None:
        match action:
            case Action(kind="fence", state="proven" | "assumed"):
                self._proofs.labels(action.state).inc()
            case Action(kind="fence", state="killed" | "failed"):
                self._fences.labels(action.state).inc()
            case Action(kind="restart_server", state="done" | "failed"):
                self._restarts.labels(action.state).inc()
            case _:
                pass


class _Gauges(Collector):
    """Made anew for each answer, so that what is gone is gone from it as well."""

    def __init__(self) -> None:
        self.overview = Overview()
        self.sources: dict[str, bool] = {}

    @override
    def collect(self) -> Iterator[Metric]:
        seen = self.overview
        alive = _gauge("source_alive", "Whether a source of signals is seen.", "source")
        for name, is_alive in list(self.sources.items()):
            alive.add_metric([name], is_alive)
        yield alive
        yield from _of_mps(seen)
        yield from _of_tenants(seen)
        if seen.beat_ns is not None:
            age = _gauge("driver_heartbeat_age_seconds", "Since the driver's last heartbeat; its limit is 5.")
            age.add_metric([], (time.monotonic_ns() - seen.beat_ns) / 1e9)
            yield age


def _of_mps(seen: Overview) -> Iterator[Metric]:
    running = _gauge("control_running", "Whether an MPS control daemon runs.", "control")
    drift = _gauge("limits_drift", "How many limits are not those declared.", "control")
    servers = _gauge("servers", "MPS servers.", "control", "state")
    clients = _gauge("clients", "Clients that are connected and not gone.", "control")
    control_of = {server.pid: server.control for server in seen.servers}
    states = Tally((server.control, server.state) for server in seen.servers)
    connected = Tally(control_of.get(client.server, "") for client in seen.clients if client.state != "gone")
    for control in seen.controls:
        running.add_metric([control.name], control.state == "running")
        drift.add_metric([control.name], len(control.drift))
    names = {control.name for control in seen.controls}
    for name in sorted(names.union(connected, control_of.values())):
        clients.add_metric([name], connected[name])
        for state in get_args(ServerState):
            servers.add_metric([name, state], states[name, state])
    yield from (running, drift, servers, clients)


def _of_tenants(seen: Overview) -> Iterator[Metric]:
    health = StateSetMetricFamily("mpsafe_tenant_health", "How a tenant is.", labels=["tenant"])
    in_flight = _gauge("tenant_in_flight", "Requests in flight, as the tenant reports.", "tenant")
    queue = _gauge("tenant_queue", "Requests that wait, as the tenant reports.", "tenant")
    latency = _gauge("tenant_latency_seconds", "Latency, as the tenant reports.", "tenant")
    for tenant in seen.tenants:
        health.add_metric([tenant.name], {state: state == tenant.health for state in get_args(TenantHealth)})
        told = tenant.figures
        in_flight.add_metric([tenant.name], told.in_flight or 0)
        queue.add_metric([tenant.name], told.queue or 0)
        latency.add_metric([tenant.name], (told.latency_ns or 0) / 1e9)
    yield from (health, in_flight, queue, latency)


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"mpsafe_{name}", text, labels=labels)


def _xid(event: Event) -> int | None:
    return event.fault.xid if event.fault else None
