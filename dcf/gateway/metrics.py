"""Say to Prometheus what is counted and what is going on.

In:   totals over all gateway processes (admin), and what this process holds now.
Out:  the text of /metrics. Totals are the same whichever process answers; the
      gauges are this process's own, and carry its name as the label `gateway`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from dcf.domain.stats import Histogram
from dcf.gateway.admin import Admin, Measured
from dcf.gateway.invoke import Invoker
from dcf.gateway.router import Router

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """Touched only by the event loop of the gateway."""

    def __init__(self, admin: Admin, router: Router, invoker: Invoker, gateway: str) -> None:
        self._admin = admin
        self._router = router
        self._invoker = invoker
        self._gateway = gateway

    async def text(self) -> bytes:
        """The page, in Prometheus' text format."""
        registry = CollectorRegistry()
        functions = await self._admin.measured()
        registry.register(_Page([*_totals(functions), *_replicas(functions), *self._gauges()]))
        return bytes(generate_latest(registry))

    def _gauges(self) -> Iterator[Metric]:
        in_flight = GaugeMetricFamily(
            "dcf_in_flight", "Calls of this gateway process that are at a replica.", labels=["function_name", "gateway"]
        )
        queued = GaugeMetricFamily(
            "dcf_queued", "Calls of this gateway process that wait for one.", labels=["function_name", "gateway"]
        )
        for name, entry in sorted(self._router.functions.items()):
            in_flight.add_metric([name, self._gateway], sum(link.in_flight for link in entry.links.values()))
            queued.add_metric([name, self._gateway], entry.queued + entry.asking)
        calls = GaugeMetricFamily("dcf_gateway_calls", "Calls that this process answers now.", labels=["gateway"])
        calls.add_metric([self._gateway], self._invoker.in_flight)
        tasks = GaugeMetricFamily("dcf_gateway_tasks", "Tasks of this process's event loop.", labels=["gateway"])
        tasks.add_metric([self._gateway], len(asyncio.all_tasks()))
        yield from (in_flight, queued, calls, tasks)


class _Page:
    """What was collected already."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        """The registry asks for it."""
        return self._metrics


def _totals(functions: Mapping[str, Measured]) -> Iterator[Metric]:
    ended = CounterMetricFamily(
        "gateway_function_invocation",
        "Calls by the HTTP status that they ended with.",
        labels=["function_name", "code"],
    )
    seconds = HistogramMetricFamily(
        "gateway_functions_seconds",
        "Time from a call's arrival to its answer, or to the first chunk of a stream.",
        labels=["function_name"],
    )
    cold = HistogramMetricFamily(
        "dcf_cold_start_seconds",
        "Time that the first of the calls held for a replica waited for its answer.",
        labels=["function_name"],
    )
    wait = HistogramMetricFamily(
        "dcf_queue_wait_seconds",
        "Time that answered calls waited for their handler, in gateway, watcher and worker.",
        labels=["function_name"],
    )
    batch = HistogramMetricFamily("dcf_batch_size", "Calls in one run of a batched handler.", labels=["function_name"])
    for name, one in functions.items():
        totals = one.totals
        for code, number in sorted(totals.codes.items()):
            ended.add_metric([name, str(code)], number)
        _add(seconds, name, totals.seconds)
        _add(cold, name, totals.cold_start)
        _add(wait, name, totals.queue_wait)
        if totals.batch_size.count:
            _add(batch, name, totals.batch_size)
    yield from (ended, seconds, cold, wait, batch)


def _replicas(functions: Mapping[str, Measured]) -> Iterator[Metric]:
    labels = ["function_name"]
    service = GaugeMetricFamily("gateway_service_count", "Replicas that answer.", labels=labels)
    ready = GaugeMetricFamily("dcf_ready_replicas", "Replicas that answer.", labels=labels)
    desired = GaugeMetricFamily("dcf_desired_replicas", "Replicas that shall run.", labels=labels)
    gpus = GaugeMetricFamily("dcf_gpus", "GPUs that its replicas hold.", labels=labels)
    memory = GaugeMetricFamily("dcf_memory_bytes", "Memory that its replicas use.", labels=labels)
    restarts = GaugeMetricFamily(
        "dcf_worker_restarts", "Workers that were replaced in the replicas that are there.", labels=labels
    )
    for name, one in functions.items():
        restarts.add_metric([name], one.worker_restarts)
        service.add_metric([name], one.ready)
        ready.add_metric([name], one.ready)
        desired.add_metric([name], one.desired)
        gpus.add_metric([name], one.gpus)
        memory.add_metric([name], one.memory_bytes)
    yield from (service, ready, desired, gpus, memory, restarts)


def _add(family: HistogramMetricFamily, function: str, histogram: Histogram) -> None:
    seen, buckets = 0, []
    for bound, count in zip(histogram.bounds, histogram.counts, strict=True):
        seen += count
        buckets.append(("+Inf" if bound == math.inf else f"{bound:g}", seen))
    family.add_metric([function], buckets, histogram.total)
