"""Say to Prometheus what is counted and what is going on.

In:   totals over all gateway processes (admin), and what this process holds now.
Out:  the text of /metrics. Totals are the same whichever process answers; the
      gauges are this process's own, and carry its name as the label `gateway`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, HistogramMetricFamily, Metric

from dcf.domain.stats import CallTotals, Histogram
from dcf.gateway.admin import Admin
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
        registry.register(_Page([*_totals(await self._admin.call_totals()), *self._gauges()]))
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


def _totals(functions: dict[str, CallTotals]) -> Iterator[Metric]:
    wait = HistogramMetricFamily(
        "dcf_queue_wait_seconds",
        "Time that answered calls waited for their handler, in gateway, watcher and worker.",
        labels=["function_name"],
    )
    batch = HistogramMetricFamily("dcf_batch_size", "Calls in one run of a batched handler.", labels=["function_name"])
    for name, totals in functions.items():
        _add(wait, name, totals.queue_wait)
        if totals.batch_size.count:
            _add(batch, name, totals.batch_size)
    yield from (wait, batch)


def _add(family: HistogramMetricFamily, function: str, histogram: Histogram) -> None:
    seen, buckets = 0, []
    for bound, count in zip(histogram.bounds, histogram.counts, strict=True):
        seen += count
        buckets.append(("+Inf" if bound == math.inf else f"{bound:g}", seen))
    family.add_metric([function], buckets, histogram.total)
