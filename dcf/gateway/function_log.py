"""Read a function's log from its replicas.

In:   the router (where the replicas are), `Watcher.Log` of each.
Out:  lines of all replicas, oldest first; with `follow` new ones as they
      come, also of replicas that appear later.
A replica that does not answer is left out: the others' lines are worth more
than an error.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import NamedTuple

import grpc.aio

from dcf.domain.status import Endpoint
from dcf.gateway.router import FunctionEntry, Router
from dcf.lifecycle import TaskSet, open_task_set
from dcf.rpc.services import OPTIONS, Stub
from dcf.rpc.v1_watcher_pb2 import DESCRIPTOR, ReplicaLogLine, ReplicaLogRequest

log = logging.getLogger(__name__)

WATCHER = DESCRIPTOR.services_by_name["Watcher"]

MAX_LINES = 10_000
"""Of kept lines in one answer, over all replicas: as many as one replica keeps."""

READ_S = 3.0
"""A replica that has not sent its kept lines by then hangs: they are a few megabytes at most."""

DIALS = 32
"""Replicas that are read at once: a thousand need not be connected for one `log --tail 10`."""

LOOK_S = 0.5
"""While following: how soon a new replica's lines are seen, and the gateway's stop."""

QUEUED_LINES = 1000
"""While following: a slow reader holds the replicas' streams back, not our memory."""


class LogLine(NamedTuple):
    """One line; `stream` is stdout, stderr or dcf."""

    at: float
    replica: str
    stream: str
    text: str


class _Newest:
    """The newest `limit` lines of what is added, in order."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._heap: list[tuple[float, int, LogLine]] = []
        self._count = 0

    def add(self, line: LogLine) -> None:
        self._count += 1  # lines of one replica with the same time stay in their order
        item = (line.at, self._count, line)
        if len(self._heap) < self._limit:
            heapq.heappush(self._heap, item)
        elif self._limit:
            heapq.heappushpop(self._heap, item)

    def lines(self) -> list[LogLine]:
        return [line for _, _, line in sorted(self._heap, key=lambda item: item[:2])]


class ReplicaLogs:
    """Touched only by the event loop of the gateway."""

    def __init__(self, router: Router, stopping: asyncio.Event) -> None:
        self._router = router
        self._stopping = stopping

    async def read(
        self, entry: FunctionEntry, *, since_at: float, tail: int | None, follow: bool
    ) -> AsyncGenerator[LogLine, None]:
        """Kept lines not older than `since_at`, the last `tail` of them; with `follow` until the gateway stops.

        At most MAX_LINES kept ones. The caller closes it (`contextlib.aclosing`).
        """
        limit = MAX_LINES if tail is None else min(tail, MAX_LINES)
        newest = _Newest(limit)
        last_at: dict[str, float] = {}

        def keep(line: LogLine) -> None:
            newest.add(line)
            last_at[line.replica] = max(line.at, last_at.get(line.replica, 0.0))

        async with open_task_set() as tasks:
            slots = asyncio.Semaphore(DIALS)
            present = entry.endpoints
            reads = [
                # One line also where none is wanted: to follow, its time must be known.
                tasks.start(f"log of {endpoint.replica}", _read_kept(endpoint, slots, since_at, max(limit, 1), keep))
                for endpoint in present
            ]
            if reads:
                await asyncio.wait(reads)
            answered = [endpoint.replica for endpoint, read in zip(present, reads, strict=True) if read.result()]
            lines = newest.lines()
            if not last_at:
                lines = _failed_replicas_lines(entry, limit)
            for line in lines:
                yield line
            if follow:
                # A replica that answered goes on after its last line; any other is read from the beginning.
                starts = {replica: last_at[replica] for replica in answered if replica in last_at}
                async with aclosing(self._follow(entry, tasks, since_at, starts)) as new_lines:
                    async for line in new_lines:
                        yield line

    async def _follow(
        self, entry: FunctionEntry, tasks: TaskSet, since_at: float, starts: dict[str, float]
    ) -> AsyncGenerator[LogLine, None]:
        """New lines in the order in which they arrive."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[LogLine] = asyncio.Queue(QUEUED_LINES)
        pumps: set[str] = set()
        name, uid = entry.spec.name, entry.spec.uid

        async def pump(endpoint: Endpoint, title: str, request: ReplicaLogRequest) -> None:
            try:
                async with grpc.aio.insecure_channel(endpoint.address, options=OPTIONS) as channel:
                    async for message in Stub(channel, WATCHER).Log(request):
                        starts[endpoint.replica] = message.at
                        await queue.put(_line(endpoint, message))
            except grpc.aio.AioRpcError as error:
                log.debug("a replica's log ended", extra={"replica": endpoint.replica, "error": error.details()})
            finally:
                pumps.discard(title)

        while not self._stopping.is_set():
            current = self._router.functions.get(name)
            deleted = current is None or current.spec.uid != uid
            for endpoint in current.endpoints if current is not None and not deleted else ():
                title = f"log at {endpoint.address} of {endpoint.replica}"
                if title not in tasks:
                    pumps.add(title)
                    tasks.start(title, pump(endpoint, title, _follow_request(endpoint, since_at, starts)))
            end = loop.time() + LOOK_S
            while (left_s := end - loop.time()) > 0:
                try:
                    async with asyncio.timeout(left_s):
                        line = await queue.get()
                except TimeoutError:
                    break
                yield line
            if deleted and not pumps and queue.empty():
                return


async def _read_kept(
    endpoint: Endpoint, slots: asyncio.Semaphore, since_at: float, tail: int, keep: Callable[[LogLine], None]
) -> bool:
    """Hand a replica's kept lines to `keep`; whether they all came."""
    try:
        async with slots, grpc.aio.insecure_channel(endpoint.address, options=OPTIONS) as channel:
            request = ReplicaLogRequest(since_at=since_at, tail=tail)
            async for message in Stub(channel, WATCHER).Log(request, timeout=READ_S):
                keep(_line(endpoint, message))
    except grpc.aio.AioRpcError as error:
        log.debug("a replica's log is missing", extra={"replica": endpoint.replica, "error": error.details()})
        return False
    return True


def _follow_request(endpoint: Endpoint, since_at: float, starts: dict[str, float]) -> ReplicaLogRequest:
    """What to ask a replica for, so that no line comes twice."""
    last_at = starts.get(endpoint.replica)
    return ReplicaLogRequest(
        since_at=since_at if last_at is None else math.nextafter(last_at, math.inf),
        follow=True,
    )


def _line(endpoint: Endpoint, message: ReplicaLogLine) -> LogLine:
    return LogLine(message.at, endpoint.replica, message.stream, message.text)


def _failed_replicas_lines(entry: FunctionEntry, limit: int) -> list[LogLine]:
    """What the scheduler kept of the replica that failed last."""
    status = entry.status
    if status is None or status.uid != entry.spec.uid or not limit:
        return []
    return [LogLine(status.updated_at, "", "dcf", text) for text in status.log_tail[-limit:]]
