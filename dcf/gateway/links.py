"""Hold a stream to every endpoint of every function.

In:   Router.on_endpoints. Out: `entry.links` follows `entry.endpoints`.
"""

from __future__ import annotations

import asyncio
import time

from dcf.gateway.mesh import MeshInvoke
from dcf.gateway.router import FunctionEntry, Router
from dcf.gateway.stats import Stats
from dcf.gateway.watcher_link import LIVENESS_S, WatcherLink
from dcf.lifecycle import TaskSet

SETTLED_S = 2.0
"""After so long a gateway knows what was there before it."""


class Links:
    """Touched only by the event loop of the gateway."""

    def __init__(self, router: Router, stats: Stats, invoke: MeshInvoke, tasks: TaskSet) -> None:
        self._stats = stats
        self._invoke = invoke
        self._tasks = tasks
        self._links: set[WatcherLink] = set()
        self._began_at = time.monotonic()
        router.on_endpoints = self._follow

    def _follow(self, entry: FunctionEntry) -> None:
        wanted = {endpoint.address: endpoint for endpoint in entry.endpoints}
        for address, link in list(entry.links.items()):
            if address not in wanted and isinstance(link, WatcherLink):
                link.remove()
        for address, endpoint in wanted.items():
            known = entry.links.get(address)
            if isinstance(known, WatcherLink) and not known.removed:
                continue
            link = WatcherLink(entry, endpoint, self._count, self._invoke)
            # Those that a gateway finds when it starts have been there for long.
            link.is_young = time.monotonic() - self._began_at > SETTLED_S
            entry.links[address] = link
            self._links.add(link)
            self._tasks.start(f"link-{address}-{id(link)}", self._run(entry, link))

    async def _run(self, entry: FunctionEntry, link: WatcherLink) -> None:
        try:
            await link.run(self._tasks)
        finally:
            self._links.discard(link)
            if entry.links.get(link.endpoint.address) is link:
                del entry.links[link.endpoint.address]

    def _count(self, entry: FunctionEntry, wait_s: float, batch: int) -> None:
        self._stats.count(entry.spec.name, entry.spec.uid, wait_s, batch)

    def count_end(self, entry: FunctionEntry, code: int, came_at: float, now: float) -> None:
        """A call ended so; both times are the loop's."""
        if entry.removed:
            return  # nothing of it is counted any more
        name, uid = entry.spec.name, entry.spec.uid
        self._stats.count_end(name, uid, code, now - came_at)
        cold_start_s = entry.meter.end(code, now)
        if cold_start_s is not None:
            self._stats.count_cold_start(name, uid, cold_start_s)
        elif not (entry.queued or entry.asking):
            entry.meter.release()

    async def run_liveness(self) -> None:
        """Look for replicas that have gone silent."""
        while True:
            await asyncio.sleep(LIVENESS_S)
            now = time.monotonic()
            for link in list(self._links):
                link.check_liveness(now)
