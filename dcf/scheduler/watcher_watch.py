"""Keep one Watch stream to every replica, and what it said last.

In:   the replicas that are there; `Watcher.Watch` of each.
Out:  a Report for each, and `on_change` when one became ready, or stopped
      being it. A broken stream is opened again; it decides nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import NoReturn, cast, get_args

import grpc
import grpc.aio

from dcf.domain.status import SERVING, ReplicaState
from dcf.lifecycle import TaskSet
from dcf.rpc import v1_watcher_pb2
from dcf.rpc.services import OPTIONS, Stub
from dcf.scheduler.backends.contract import ObservedReplica
from dcf.sockets import YOUNG_S, is_listening

SERVICE = v1_watcher_pb2.DESCRIPTOR.services_by_name["Watcher"]
STATES: frozenset[str] = frozenset(get_args(ReplicaState))

FIRST_RETRY_S = 0.02
LAST_RETRY_S = 1.0
SILENT_AFTER_S = 5.0
"""A watcher reports once a second; after five missed reports it is not taken for ready any more."""

_CHANNEL_OPTIONS = (
    *OPTIONS,
    # A channel of its own for every try: a shared one would wait out the back-off of the try before.
    ("grpc.use_local_subchannel_pool", 1),
    # A host that was powered off closes nothing.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a replica said last; times in seconds of time.monotonic()."""

    state: ReplicaState = "starting"
    in_flight: int = 0
    memory_bytes: int = 0
    worker_restarts: int = 0
    note: str = ""
    heard_at: float | None = None
    """None: never yet."""
    first_heard_at: float | None = None
    ready_since: float | None = None
    """When it was first heard to be ready; None: never yet."""

    def is_silent(self, now: float) -> bool:
        """Whether it has reported before, and no more."""
        return self.heard_at is not None and now - self.heard_at > SILENT_AFTER_S


class WatcherWatch:
    """The streams of all replicas. Touched only by the event loop of the scheduler."""

    def __init__(self, tasks: TaskSet, on_change: Callable[[], None]) -> None:
        self._tasks = tasks
        self._on_change = on_change
        self._reports: dict[str, Report] = {}

    def follow(self, replicas: Iterable[ObservedReplica]) -> None:
        """Watch these; one that is there no more is forgotten with `forget`."""
        for replica in replicas:
            key = f"watch {replica.address}"
            if key not in self._tasks:  # also one that a bug has ended
                self._reports.setdefault(replica.address, Report())
                self._tasks.start(key, self._run(replica))

    def report(self, address: str) -> Report:
        """What the replica there said last."""
        return self._reports.get(address, Report())

    async def forget(self, address: str) -> Report:
        """End the stream; what was said last."""
        last = self._reports.pop(address, Report())
        await self._tasks.stop(f"watch {address}")
        return last

    def addresses(self) -> frozenset[str]:
        """Who is watched."""
        return frozenset(self._reports)

    async def _run(self, replica: ObservedReplica) -> NoReturn:
        retry_s = FIRST_RETRY_S
        if not (replica.adopted or replica.address.startswith("unix:")):
            await asyncio.sleep(YOUNG_S)
        while True:
            if await is_listening(replica.address):
                heard_at = self.report(replica.address).heard_at
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await self._follow_one(replica)
                if self.report(replica.address).heard_at != heard_at:
                    retry_s = FIRST_RETRY_S
            await asyncio.sleep(retry_s)
            # Many quick looks while a watcher starts, few when one hangs.
            retry_s = min(LAST_RETRY_S, retry_s * 1.05)

    async def _follow_one(self, replica: ObservedReplica) -> None:
        async with grpc.aio.insecure_channel(replica.address, options=_CHANNEL_OPTIONS) as channel:
            async for message in Stub(channel, SERVICE).Watch(v1_watcher_pb2.WatchRequest()):
                self._on_message(replica, message)

    def _on_message(self, replica: ObservedReplica, message: v1_watcher_pb2.ReplicaState) -> None:
        now = time.monotonic()
        before = self._reports.get(replica.address)
        if before is None:
            return
        # A state that only a newer watcher knows is none to send calls to.
        state = cast("ReplicaState", message.state) if message.state in STATES else "starting"
        ready_since = before.ready_since
        if ready_since is None and state in SERVING:
            # One that was adopted has been ready for longer than this scheduler lives; since when, nobody knows.
            ready_since = now - (time.time() - replica.started_at) if replica.adopted else now
        after = replace(
            before,
            state=state,
            in_flight=message.in_flight + message.waiting,
            memory_bytes=message.memory_bytes,
            worker_restarts=message.worker_restarts,
            note=message.reason,
            heard_at=now,
            first_heard_at=now if before.first_heard_at is None else before.first_heard_at,
            ready_since=ready_since,
        )
        self._reports[replica.address] = after
        if _kind(after) != _kind(before) or before.is_silent(now):
            self._on_change()


def _kind(report: Report) -> tuple[str, bool]:
    """What the reconciler decides on: ready and busy are the same to it, and change all the time."""
    return ("ready" if report.state in SERVING else report.state, report.heard_at is None)
