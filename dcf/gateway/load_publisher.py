"""Tell the scheduler what this gateway process sees of each function's calls.

In:   the functions' meters and queues, what was counted of their ends.
Out:  a LoadReport in the store, once a second, and at once when a call finds
      no replica or a queue begins. On a stop the report is taken back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from typing import NoReturn

from dcf.domain.load import FunctionLoad
from dcf.errors import StoreUnavailableError
from dcf.gateway.router import FunctionEntry, Router
from dcf.gateway.stats import Stats
from dcf.store.contract import LoadWriter

log = logging.getLogger(__name__)

EVERY_S = 1.0
PAUSE_TIMES = 10
PAUSE_S = 0.02
"""Between two reports, however urgent: calls that come together are one."""
QUEUE_PAUSE_S = 0.25
QUEUE_GROWTH = 4
"""Between two urgent reports of one function that has replicas: a queue may begin and end many times a second. One that
is so many times as long as when it was told does not wait for that: it is a burst."""
RECENT_S = 10.0
"""What people are shown (calls per second, latency) is of so long."""
SILENT_AFTER_S = 15.0
"""A function with no call for so long is left out: its totals stand still."""


class _Recent:
    """One function's totals of the last seconds. Touched only by the publisher."""

    __slots__ = ("active_at", "points")

    def __init__(self) -> None:
        self.points: deque[tuple[float, int, tuple[int, ...]]] = deque()
        self.active_at = 0.0

    def add(self, now: float, arrivals: int, ended: tuple[int, ...]) -> tuple[float, dict[int, int]]:
        """Calls per second, and of those that ended how many in each bucket of duration."""
        points = self.points
        points.append((now, arrivals, ended))
        while len(points) > 2 and now - points[1][0] >= RECENT_S:
            points.popleft()
        then, came, before = points[0]
        length_s = max(now - then, EVERY_S)
        grown = {i: new - old for i, (new, old) in enumerate(zip(ended, before, strict=True)) if new > old}
        return (arrivals - came) / length_s, grown


class LoadPublisher:
    """Touched only by the event loop of the gateway."""

    def __init__(self, store: LoadWriter, router: Router, stats: Stats) -> None:
        self._store = store
        self._router = router
        self._stats = stats
        self._urgent = asyncio.Event()
        self._recent: dict[str, _Recent] = {}
        """By uid."""
        self._urged: dict[str, tuple[float, int]] = {}
        """By uid: when the scheduler was woken for it last, and how many calls waited then."""
        router.on_queue = self._on_queue

    async def run(self) -> NoReturn:
        """Report again and again."""
        loop = asyncio.get_running_loop()
        lost, took_s = False, 0.0
        next_at = loop.time()
        while True:
            urgent, began = self._urgent.is_set(), loop.time()
            self._urgent.clear()
            try:
                report = self.report(began)
                took_s = loop.time() - began
                await self._store.write_load(self._stats.slice_name, report, urgent=urgent)
                if lost:
                    log.info("the store takes load reports again")
                lost = False
            except StoreUnavailableError as error:
                if not lost:
                    log.warning("load reports wait for the store", extra={"error": str(error)})
                lost = True
            next_at = max(next_at + EVERY_S, loop.time()) if not urgent else next_at
            # With many functions a report takes its time, which is the calls' too.
            await asyncio.sleep(max(PAUSE_S, PAUSE_TIMES * took_s))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, next_at - loop.time())):
                    await self._urgent.wait()

    async def take_back(self) -> None:
        """This process reports no more: what it has said last is of the past."""
        with contextlib.suppress(StoreUnavailableError):  # then it runs out
            await self._store.clear_load(self._stats.slice_name)

    def report(self, now: float) -> dict[str, FunctionLoad]:
        """What there is to say of each function."""
        functions = self._router.functions
        loads = {}
        for name, entry in functions.items():
            if load := self._load(entry, now):
                loads[name] = load
        there = {entry.spec.uid for entry in functions.values()}
        for kept in (self._recent, self._urged):
            for uid in kept.keys() - there:
                del kept[uid]
        return loads

    def _load(self, entry: FunctionEntry, now: float) -> FunctionLoad | None:
        meter, uid = entry.meter, entry.spec.uid
        if not (meter.arrivals or entry.asking):
            return None
        recent = self._recent.get(uid)
        if recent is None:
            recent = self._recent[uid] = _Recent()
            recent.add(now, 0, (0,) * len(self._stats.ended(uid)))
            recent.active_at = now
        last = recent.points[-1][1] if recent.points else -1
        if meter.at_replicas or entry.queued or entry.asking or meter.arrivals != last:
            recent.active_at = now
        elif now - recent.active_at > SILENT_AFTER_S:
            recent.points.clear()
            return None
        slots = entry.slots()
        per_s, durations = recent.add(now, meter.arrivals, self._stats.ended(uid))
        return FunctionLoad(
            uid=uid,
            busy_s=round(meter.busy_s(now), 6),
            arrivals=meter.arrivals,
            answered=meter.answered,
            errors=meter.errors,
            in_flight=meter.at_replicas,
            uploads=sum(link.uploads for link in entry.links.values()),
            queued=entry.queued + entry.asking,
            held=0 if slots else entry.queued + entry.asking,
            handler_s=round(entry.mean_handler_s, 6),
            oldest_wait_s=round(entry.oldest_wait_s(now), 3),
            slots=max((link.concurrency for link in entry.links.values() if link.open), default=0),
            per_s=round(per_s, 3),
            durations=durations,
            first_answer_s=round(meter.first_answer_s, 3),
        )

    def _on_queue(self, entry: FunctionEntry) -> None:
        now, uid = asyncio.get_running_loop().time(), entry.spec.uid
        at, queued = self._urged.get(uid, (-QUEUE_PAUSE_S, 0))
        if entry.slots() and now - at < QUEUE_PAUSE_S and entry.queued < QUEUE_GROWTH * queued:
            return
        self._urged[uid] = now, entry.queued
        self._urgent.set()
